#ifndef SF_LOG_H
#define SF_LOG_H
/*
 * Reading a segment: find messages, prove them with CRC32C, and say where their columns lie.
 *
 * A segment is a sequence of encapsulated Arrow IPC messages, each 8-byte aligned: FF FF FF FF, int32 metadata length, a
 * flatbuffer padded to 8, the body.  Every record batch of ours carries, under the custom metadata key `streamfn`, a value of
 * fixed width, all fields but the tag in lower-case hexadecimal:
 *
 *      SFN1:<crc:8>:<epoch:8>:<first_offset:16>:<rows:8>:<body_bytes:16>:<durable_upto:16>
 *
 * The CRC32C covers the whole encapsulated message, prefix included, with its own eight digits taken as '0'.  Nothing of a
 * message is believed before its CRC is right, except the two lengths that say how far it reaches, which are checked against
 * the segment first.
 *
 * A message that a scan returns is safe to read: its buffers lie inside it in the canonical order of its layout (sf_layout.h),
 * hold `rows` rows and fill the body, its offsets never decrease, and its bitmaps have as many nulls as it says.  So whoever
 * reads columns by sf_message needs no check of its own.
 *
 * All calls are pure functions of mapped memory: no allocation, no system call.  The bytes must not shrink under them (a
 * segment file never does).
 */
#include <stddef.h>
#include <stdint.h>

#include "sf_extent.h"
#include "sf_layout.h"

/* cdef: begin */
enum {
    SF_SCAN_MORE = 0,    /* `out` is full, or byte_budget is spent: call again from *position */
    SF_SCAN_LIMIT = 1,   /* *position reached `end` */
    SF_SCAN_END = 2,     /* an end-of-stream mark or zeros at a message boundary before `end` */
    SF_SCAN_DAMAGED = 3  /* what lies at *position is not a message of ours that follows on *next_offset */
};

/* CRC32C (Castagnoli), `crc` 0 to start; hardware instructions where the machine has them. */
uint32_t sf_crc32c(uint32_t crc, const void *bytes, size_t length);
/* The same without the instruction, so that tests can compare the two. */
uint32_t sf_crc32c_by_table(uint32_t crc, const void *bytes, size_t length);

/* Scans messages of the segment mapped at `base` from *position up to `end` (both file offsets; nothing at or past `end` is
   read), at most `capacity` of them and, after the first, at most `byte_budget` bytes.  Each must have the columns of `layout`,
   as the segment's header says, and start at the shard offset *next_offset, which moves on with *position.  *count says how
   many were written to `out`. */
int sf_scan(const uint8_t *base, uint64_t end, int layout, uint64_t *position, uint64_t *next_offset, uint64_t byte_budget,
            sf_message *out, size_t capacity, size_t *count);

/* The same, but messages that end at or below the file offset `proven` have been scanned by this process before: their CRC
   and row offsets are not checked again. */
int sf_scan_proven(const uint8_t *base, uint64_t end, int layout, uint64_t proven, uint64_t *position, uint64_t *next_offset,
                   uint64_t byte_budget, sf_message *out, size_t capacity, size_t *count);

/* Looks from *position on, in steps of 8 bytes, for a whole and proven message of any offset.  1: it starts at *position and
   is in *out; 0: there is none before `end`. */
int sf_find_message(const uint8_t *base, uint64_t end, int layout, uint64_t *position, sf_message *out);

/* Where the eight CRC digits of the (unverified) message of `length` bytes at `message` lie, or -1; and the CRC it should carry. */
int64_t sf_message_crc_at(const uint8_t *message, uint64_t length, int layout);
uint32_t sf_message_crc(const uint8_t *message, uint64_t length, uint64_t crc_at);

/* Writes `count` consecutive sequence numbers: the `base_digits` (at most 109) of `base`, then `first`, `first` + 1, ... in 20;
   `offsets` gets the count + 1 offsets of the column. */
void sf_sequence_numbers(const char *base, size_t base_digits, uint64_t first, size_t count, int32_t *offsets, uint8_t *bytes);

/* Writes `count` + 1 offsets of a slice of a column so that they start at 0. */
void sf_rebase_offsets(const int32_t *offsets, size_t count, int32_t *out);

/* Adds up what `count` scanned messages of one layout hold: totals[0] rows, then the bytes of each text column in turn; there is
   room for 1 + SF_COLUMNS_MAX values. */
void sf_measure(const uint8_t *base, const sf_message *messages, size_t count, uint64_t *totals);

/* Lays the rows of `count` scanned messages of one segment one after the other into the buffers of one larger message:
   buffers[i] points to room for buffer i, in canonical order, of all of them; bitmaps must be zero. */
void sf_gather(const uint8_t *base, const sf_message *messages, size_t count, uint8_t *const *buffers);

/* When a row of a scanned message arrived, or was created. */
int64_t sf_arrival(const uint8_t *base, const sf_message *message, uint64_t row);

/* The first row of a scanned message that arrived at or after `at_ms`, or -1. */
int64_t sf_first_arrival(const uint8_t *base, const sf_message *message, int64_t at_ms);

/* The first of `count` scanned messages in which a row arrived at or after `at_ms`, or -1. */
int64_t sf_first_message(const uint8_t *base, const sf_message *messages, size_t count, int64_t at_ms);

/* The earliest and the latest arrival in a scanned message. */
void sf_arrival_span(const uint8_t *base, const sf_message *message, int64_t *earliest, int64_t *latest);
/* cdef: end */
#endif
