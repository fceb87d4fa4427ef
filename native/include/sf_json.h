#ifndef SF_JSON_H
#define SF_JSON_H
/*
 * How long the JSON of an event is, without writing it: Lambda's 6 MB rule is about that length.
 */
#include <stdint.h>

#include "sf_extent.h"

/* cdef: begin */
/* Fills `prefix` (rows + 1 values) with running sums: prefix[i + 1] - prefix[i] is the number of bytes that the record in row
   i of `message` takes in the JSON of a Kinesis event, the comma or bracket after it included; `fixed_bytes` is what
   every record of the stream takes for what is not in its columns (see streamfn.events.size).  prefix[0] is 0. */
void sf_kinesis_json_prefix(const uint8_t *base, const sf_message *message, uint64_t fixed_bytes, uint64_t *prefix);
/* cdef: end */
#endif
