#ifndef SF_DYNAMODB_H
#define SF_DYNAMODB_H
/*
 * Rows of a mapped segment as the records of a DynamoDB Streams Lambda event: plain dicts, complete, in the order that the
 * service writes their keys; images that a row does not have are left out.
 *
 * As in kinesis.h what is the same in every record of a stream is made once; because a record's keys depend on what it has,
 * there is a template for each case.  Keys, images and user identities are stored as JSON text, and read by orjson.
 *
 * The extent comes from memory that a handler can write: its columns are found again from the body, every step checked
 * against the segment's size (sf_layout.h).  All functions need the GIL.
 */
#include "values.h"

#include "sf_extent.h"

enum { SF_WITH_NEW = 1, SF_WITH_OLD = 2 };

typedef struct sf_change_templates {
    PyObject *record[2];   /* the outer dict, without and with a user identity; what differs still None */
    PyObject *dynamodb[4]; /* the inner one, by SF_WITH_NEW | SF_WITH_OLD */
} sf_change_templates;

/* Interns the keys.  Once, before anything else here; -1 with an exception set. */
int sf_dynamodb_init(void);

/* Prepares a stream's templates from its str constants, and imports orjson; -1 with an exception set. */
int sf_change_templates_init(sf_change_templates *templates, PyObject *arn, PyObject *region);
void sf_change_templates_clear(sf_change_templates *templates);

/* Sets items `at .. at + extent->rows` of the new list `records`, which must have room, from `rows` of the message.  -1 with an
   exception set (ValueError: a buffer would leave the segment, offsets decrease, a text is not UTF-8 or a document not JSON);
   items from the failed row on are then still NULL. */
int sf_dynamodb_fill(PyObject *records, Py_ssize_t at, const sf_extent *extent, sf_rows rows, sf_span segment,
                     const sf_change_templates *templates);
#endif
