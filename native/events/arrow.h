#ifndef SF_ARROW_H
#define SF_ARROW_H
/*
 * The rows of a batch as an Arrow record batch, handed over by the Arrow C data interface
 * (https://arrow.apache.org/docs/format/CDataInterface.html).
 *
 * Where the rows of a batch follow each other in one message nothing is copied: the arrays' buffers are the message's, and the
 * mapping stays for as long as anybody holds one of them (sf_pin).  Rows of several messages, or selected ones, are copied
 * behind each other, once.  Of what is handed over every offset is checked before: ascending, and within the segment.
 *
 * Includes Python.h, so it comes first.  Everything but the pin and the release of an array needs the GIL.
 */
#include "values.h"

#include "sf_extent.h"
#include "sf_layout.h"

/* The C data interface's struct; its names and its order are a fixed ABI. */
struct ArrowArray {
    int64_t length;
    int64_t null_count;
    int64_t offset;
    int64_t n_buffers;
    int64_t n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

/* A mapping that is unmapped when the last one lets go of it.  Any thread may hold and drop it, with the GIL or without. */
typedef struct sf_pin sf_pin;

/* Takes the mapping over, held once; NULL where there is no memory for that. */
sf_pin *sf_pin_new(void *address, size_t size);
void sf_pin_hold(sf_pin *pin);
/* NULL is nothing to drop. */
void sf_pin_drop(sf_pin *pin);

/* Rows of a segment that an extent names. */
typedef struct sf_part {
    sf_extent extent; /* a copy: nobody else writes to it */
    sf_rows rows;
    sf_span segment;
} sf_part;

/* Fills `out` with `count` >= 1 parts, all of them of records (SF_KINESIS) or changes (SF_DYNAMODB).  `pin` keeps the first
   part's segment mapped (NULL: somebody else sees to that); where rows are copied it is not held.  -1 with an exception set,
   and nothing to release. */
int sf_arrow_export(struct ArrowArray *out, const sf_part *parts, Py_ssize_t count, bool changes, sf_pin *pin);
#endif
