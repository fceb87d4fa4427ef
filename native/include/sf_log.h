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
 * All calls are pure functions of mapped memory: no allocation, no system call.  The bytes must not shrink under them (a
 * segment file never does).
 */
#include <stddef.h>
#include <stdint.h>

#include "sf_extent.h"

/* cdef: begin */
enum {
    SF_SCAN_MORE = 0,    /* `out` is full, or byte_budget is spent: call again from *position */
    SF_SCAN_LIMIT = 1,   /* *position reached `end` */
    SF_SCAN_END = 2,     /* an end-of-stream mark or zeros at a message boundary before `end` */
    SF_SCAN_DAMAGED = 3  /* what lies at *position is not a message of ours that follows on *next_offset */
};

/* CRC32C (Castagnoli), `crc` 0 to start; hardware instructions where the machine has them. */
uint32_t sf_crc32c(uint32_t crc, const void *bytes, size_t length);

/* Scans messages of the segment mapped at `base` from *position up to `end` (both file offsets; nothing at or past `end` is
   read), at most `capacity` of them and, after the first, at most `byte_budget` bytes.  Each must start at the shard offset
   *next_offset, which moves on with *position.  *count says how many were written to `out`. */
int sf_scan(const uint8_t *base, uint64_t end, uint64_t *position, uint64_t *next_offset, uint64_t byte_budget,
            sf_message *out, size_t capacity, size_t *count);

/* Where the eight CRC digits of the (unverified) message of `length` bytes at `message` lie, or -1; and the CRC it should carry. */
int64_t sf_message_crc_at(const uint8_t *message, uint64_t length);
uint32_t sf_message_crc(const uint8_t *message, uint64_t length, uint64_t crc_at);
/* cdef: end */
#endif
