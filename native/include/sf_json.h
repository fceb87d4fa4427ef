#ifndef SF_JSON_H
#define SF_JSON_H
/*
 * What is to be known of JSON without writing or building it: how long an event's is, because Lambda's 6 MB rule is about that
 * length, and whether two texts mean the same.
 *
 * JSON means what orjson writes: no white space, UTF-8, and of escapes only what must be one.  A document that is stored as
 * text is walked: what orjson would write of what it reads there may be shorter (\/, \u00e9, white space), and equal names in
 * an object are one.
 */
#include <stdbool.h>
#include <stdint.h>

#include "sf_extent.h"

/* cdef: begin */
enum { SF_JSON_BROKEN = -1, SF_JSON_ODD = -2 };

/* Fills `prefix` (count + 1 values) with running sums: prefix[i + 1] - prefix[i] is the number of bytes that the record in row
   rows[i] of `message` takes in the JSON of a Kinesis event, the comma or bracket after it included; `rows` NULL: in row i, and
   `count` is at most message->rows.  `fixed_bytes` is what every record of the stream takes for what is not in its columns (see
   streamfn.events.size).  prefix[0] is 0. */
void sf_kinesis_json_prefix(const uint8_t *base, const sf_message *message, uint64_t fixed_bytes, const uint32_t *rows,
                            uint64_t count, uint64_t *prefix);

/* The same for a DynamoDB event.  A document whose length is not found by walking (see below) counts as nothing, and how many
   of those there are is returned. */
uint64_t sf_dynamodb_json_prefix(const uint8_t *base, const sf_message *message, uint64_t fixed_bytes, const uint32_t *rows,
                                 uint64_t count, uint64_t *prefix);

/* Document 0 to 3 (keys, new image, old image, user identity) of a row: its file offset and length go to place[0] and place[1].
   Returns 0 where it is null. */
int sf_dynamodb_document(const uint8_t *base, const sf_message *message, uint64_t row, int document, uint64_t *place);

/* How many bytes orjson writes of what it reads in this text, which must be UTF-8; nothing outside of it is read.
   SF_JSON_BROKEN: it is not JSON.  SF_JSON_ODD: it may be, but the walk cannot tell the length: a number with a fraction, an
   exponent or more than 18 digits, thousands of names, equal ones in an object, more than 128 levels. */
int64_t sf_json_length(const uint8_t *text, uint64_t length);

/* Two texts that are the key of the same item have the same hash: the order of attributes, spaces and escapes make no difference,
   and DynamoDB's numbers, {"N": "1"} and {"N": "1.0"}, count by value.  Of any other JSON the same holds, but for how its own
   numbers are written.  False, and the hash of the bytes, for what is no JSON, or nested over 128 levels. */
bool sf_item_hash(const uint8_t *text, uint64_t length, uint64_t *hash);
/* cdef: end */
#endif
