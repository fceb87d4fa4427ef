#ifndef SF_ROWS_H
#define SF_ROWS_H
/*
 * Which rows of a message go where: lanes, selected rows, and what the planner must know of those.
 *
 * Messages are those that the scanner has verified, mapped at `base`; nothing of them is checked here but JSON text.  Row
 * numbers are those of one message, ascending, each below its rows.  Everything here reads what it is given, writes what it
 * is given room for, keeps nothing and allocates nothing; safe from any thread.
 */
#include <stdbool.h>
#include <stdint.h>

#include "sf_extent.h"

/* cdef: begin */
/* Writes each row's lane, 0 .. factor - 1 (factor: 1 .. 255), to lanes[row].  Rows of one Kinesis partition key, or of one
   DynamoDB item, are of one lane, in every message and process; what has no key (an empty one, no attributes) is of lane 0.
   In which order the attributes of an item's key stand, and how its text is escaped, makes no difference, and numbers count by
   value (sf_item_hash); keys that are no JSON are compared as bytes.  O(bytes of the keys). */
void sf_lanes(const uint8_t *base, const sf_message *message, uint32_t factor, uint8_t *lanes);

/* The lane of one partition key, and of the item with this key (JSON): what `sf_lanes` says of rows. */
uint8_t sf_key_lane(const uint8_t *key, uint64_t bytes, uint32_t factor);
uint8_t sf_item_lane(const uint8_t *keys, uint64_t bytes, uint32_t factor);

/* Sorts row numbers by lane, ascending in each: `rows` (`count` of them), or 0 .. count - 1 where it is NULL.  grouped[starts[i]
   .. starts[i + 1]] are those of lane i; `grouped` has room for `count`, `starts` for factor + 1. */
void sf_group(const uint8_t *lanes, const uint32_t *rows, uint32_t count, uint32_t factor, uint32_t *grouped, uint32_t *starts);

/* Running sums of selected rows alone, from those of all rows: out[0] = 0, and out[i + 1] - out[i] is what row rows[i] takes. */
void sf_select_prefix(const uint64_t *prefix, const uint32_t *rows, uint32_t count, uint64_t *out);

/* When the selected rows arrived, or were created (milliseconds since 1970); all rows of the message where `rows` is NULL. */
void sf_select_arrivals(const uint8_t *base, const sf_message *message, const uint32_t *rows, uint32_t count, int64_t *out);

/* The sequence number of a row: its file offset and length go to place[0] and place[1]. */
void sf_sequence_number(const uint8_t *base, const sf_message *message, uint64_t row, uint64_t *place);

/* Where a column's buffers lie, as file offsets: place[0] its validity bitmap (only where it may be null), place[1] the offsets
   (only of a text), place[2] its values or bytes, and place[3] how many bytes those are.  `column` counts as in sf_layout.h. */
void sf_column_place(const uint8_t *base, const sf_message *message, uint32_t column, uint64_t *place);

/* Whether `rows` (`count` of them) ascend and are all among `of` (`of_count` that ascend; NULL: `first` and those behind it), as an answer
   of another process must be before it is used. */
bool sf_rows_among(const uint32_t *rows, uint32_t count, const uint32_t *of, uint32_t first, uint32_t of_count);

/* Makes the extent of `count` >= 1 selected rows.  Of `message` segment, columns and first_offset are used, the last being the shard
   offset of the message's row 0.  Consecutive rows make an ordinary extent, and false; for others first_row becomes SF_SELECTED,
   and the row numbers belong into the selection of the batch: true. */
bool sf_aim(const sf_extent *message, const uint32_t *rows, uint32_t count, sf_extent *out);
/* cdef: end */
#endif
