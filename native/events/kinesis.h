#ifndef SF_KINESIS_H
#define SF_KINESIS_H
/*
 * Rows of a mapped segment as the records of a Kinesis Lambda event: plain dicts, complete, in the order that the service
 * writes their keys.
 *
 * What is the same in every record of a shard is made once, as two template dicts; a record is a copy of each (which keeps
 * key order and size) with its own five values set.  All strings that are copied around are ASCII, and proven to be.
 *
 * The extent comes from memory that a handler can write, and the segment's offsets from a file: every read is checked
 * against the segment's size first.  All functions need the GIL.
 */
#include "values.h"

#include "base64.h"
#include "sf_extent.h"

enum { SF_ID_PREFIX_BYTES = 128 };

typedef struct sf_templates {
    PyObject *record;    /* the outer dict, `kinesis` and `eventID` still None */
    PyObject *kinesis;   /* the inner one, all but the version still None */
    size_t prefix_bytes; /* of the event ids: the shard's id and a colon */
    uint8_t prefix[SF_ID_PREFIX_BYTES];
} sf_templates;

/* Interns the keys, and chooses `encoder` for all that follows.  Once, before anything else here; -1 with an exception set. */
int sf_kinesis_init(const sf_base64_encoder *encoder);

/* Prepares one shard's templates from its str constants; -1 with an exception set (ValueError: the shard id is not ASCII, or
   longer than the 127 characters there is room for). */
int sf_templates_init(sf_templates *templates, PyObject *arn, PyObject *region, PyObject *shard_id, PyObject *identity_arn);
void sf_templates_clear(sf_templates *templates);

/* Sets items `at .. at + extent->rows` of the new list `records`, which must have room, from `rows` of the message.  -1 with an exception set (ValueError: a
   buffer would leave the segment, offsets decrease, a sequence number is not ASCII or a partition key not UTF-8); items
   from the failed row on are then still NULL. */
int sf_kinesis_fill(PyObject *records, Py_ssize_t at, const sf_extent *extent, sf_rows rows, sf_span segment,
                    const sf_templates *templates);
#endif
