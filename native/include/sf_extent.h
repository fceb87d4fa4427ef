#ifndef SF_EXTENT_H
#define SF_EXTENT_H
/*
 * The vocabulary of the data plane: where rows lie in a mapped segment.
 *
 * A message is one Arrow record batch as the scanner found and verified it; an extent is a run of its
 * rows as a worker needs it.  Both are plain values without pointers: file offsets stay true in every
 * process that maps the segment, wherever it is mapped.
 *
 * Column buffers of a Kinesis shard log, by index into `column` (file offsets of the buffers' first
 * bytes).  Offset buffers hold rows + 1 little-endian int32; arrival times int64 milliseconds, UTC.
 *
 *      0 sequence number, offsets      1 sequence number, bytes
 *      2 partition key, offsets        3 partition key, bytes
 *      4 approximate arrival time
 *      5 data, offsets                 6 data, bytes
 *
 * Rows need not follow each other: where filters or lanes leave some out, an extent has SF_SELECTED in place of its first row,
 * and its rows are the next `rows` numbers of the batch's *selection*, the row numbers of all such extents of the batch one
 * after the other.  Those of one extent are rows of one message, ascending.
 *
 * Of a DynamoDB shard log only two are set: where the message's body begins, and how many rows the message has.  Its columns
 * are found from there (sf_layout.h).
 *
 *      0 body                          1 rows of the message (a number)
 */
#include <assert.h>
#include <stdint.h>

/* cdef: begin */
enum {
    SF_SEQUENCE_OFFSETS = 0,
    SF_SEQUENCE_BYTES = 1,
    SF_KEY_OFFSETS = 2,
    SF_KEY_BYTES = 3,
    SF_ARRIVAL = 4,
    SF_DATA_OFFSETS = 5,
    SF_DATA_BYTES = 6,
    SF_COLUMN_BUFFERS = 7
};
enum { SF_BODY = 0, SF_BODY_ROWS = 1 };
#define SF_SELECTED 4294967295

/* Rows `first_row .. first_row + rows` of one message of one segment, complete in itself; or selected ones. */
typedef struct sf_extent {
    uint64_t segment_id;   /* given by the runtime when it hands the segment's descriptor over */
    uint64_t first_offset; /* the shard offset of the first of them */
    uint32_t first_row;    /* SF_SELECTED (no message has so many): see above */
    uint32_t rows;
    uint64_t column[7];
} sf_extent;

/* One verified message of a segment. */
typedef struct sf_message {
    uint64_t position;     /* file offset of its 8-byte prefix */
    uint64_t length;       /* prefix, metadata, padding and body; a multiple of 8 */
    uint64_t first_offset; /* the shard offset of its first row */
    uint64_t epoch;        /* the writer's epoch */
    uint64_t durable_upto; /* the shard offset known to be synced when it was written */
    uint64_t rows;
    uint64_t layout; /* SF_KINESIS, ...: the segment's */
    uint64_t column[7];
} sf_message;
/* cdef: end */

static_assert(sizeof(sf_extent) == 80, "sf_extent changed: bump SF_RING_ABI");
#endif
