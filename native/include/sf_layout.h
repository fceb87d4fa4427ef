#ifndef SF_LAYOUT_H
#define SF_LAYOUT_H
/*
 * What columns a segment's messages have, as a table: one writer, one scanner and one merge serve every layout.
 *
 * A column is text (or bytes) or has 8 bytes a value; one that may be null always carries its validity bitmap, one that may
 * not never does.  The body of a message is its columns' buffers in canonical order, each on the next multiple of 8 behind the
 * one before, the first at the body's beginning:
 *
 *      [validity bitmap, (rows + 7) / 8 bytes]    where the column may be null
 *      offsets, rows + 1 int32, the first 0       of a text       | values, rows int64   of the others
 *      bytes, as many as the last offset says
 *
 * So whoever knows where a body begins, its rows and its layout finds every column, with one load per text.
 *
 *      SF_KINESIS          sequence number, partition key, arrival time, data
 *      SF_KINESIS_SOURCE   those, source sequence number (null), source sub-sequence number (null)
 *      SF_DYNAMODB         event id, event name, event version, sequence number, creation time, keys, new image (null),
 *                          old image (null), size, stream view type, user identity (null)
 *
 * streamfn/log/format/layout.py has the same tables with names and Arrow types; a test holds the two together.
 */
#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* cdef: begin */
enum { SF_KINESIS = 0, SF_KINESIS_SOURCE = 1, SF_DYNAMODB = 2, SF_LAYOUTS = 3 };
/* A column's form: text, or 8 bytes a value; plus SF_NULLABLE where it may be null. */
enum { SF_TEXT = 0, SF_FIXED = 1, SF_NULLABLE = 2 };
enum { SF_COLUMNS_MAX = 11 };

typedef struct sf_layout {
    uint8_t columns;       /* how many there are */
    uint8_t arrow_buffers; /* how many buffers Arrow counts: a validity bitmap for every column */
    uint8_t time;          /* which one is the time of arrival or creation, in milliseconds */
    uint8_t form[11];
} sf_layout;

/* The table of a layout, or NULL. */
const sf_layout *sf_layout_of(int layout);
/* cdef: end */

/* Columns of SF_DYNAMODB. */
enum {
    SF_EVENT_ID = 0,
    SF_EVENT_NAME = 1,
    SF_EVENT_VERSION = 2,
    SF_CHANGE_SEQUENCE = 3,
    SF_CREATION = 4,
    SF_KEYS = 5,
    SF_NEW_IMAGE = 6,
    SF_OLD_IMAGE = 7,
    SF_SIZE_BYTES = 8,
    SF_VIEW_TYPE = 9,
    SF_USER_IDENTITY = 10
};

static const sf_layout sf_layout_table[SF_LAYOUTS] = {
    [SF_KINESIS] = {4, 11, 2, {SF_TEXT, SF_TEXT, SF_FIXED, SF_TEXT}},
    [SF_KINESIS_SOURCE] = {6, 16, 2, {SF_TEXT, SF_TEXT, SF_FIXED, SF_TEXT, SF_TEXT | SF_NULLABLE, SF_FIXED | SF_NULLABLE}},
    [SF_DYNAMODB] = {11,
                     31,
                     SF_CREATION,
                     {SF_TEXT, SF_TEXT, SF_TEXT, SF_TEXT, SF_FIXED, SF_TEXT, SF_TEXT | SF_NULLABLE, SF_TEXT | SF_NULLABLE,
                      SF_FIXED, SF_TEXT, SF_TEXT | SF_NULLABLE}},
};

/* Where a column's buffers begin, as offsets from the segment's base; `validity` only where it may be null, `offsets` only of
   a text. */
typedef struct sf_column {
    uint64_t validity;
    uint64_t offsets;
    uint64_t values; /* of a text: its bytes */
    uint64_t bytes;  /* in `values` */
} sf_column;

static inline uint64_t sf_padded(uint64_t bytes) { return (bytes + 7) & ~(uint64_t)7; }

static inline int32_t sf_offset(const uint8_t *base, uint64_t offsets, uint64_t row) {
    int32_t value;
    memcpy(&value, base + offsets + 4 * row, sizeof(value));
    return value;
}

/* Finds the columns of `rows` rows whose body begins at offset `at`; false if one of their buffers would leave the first `size`
   bytes at `base`.  Nothing else is believed or checked: offsets between the first and the last may be anything. */
static inline bool sf_find_columns(const uint8_t *base, uint64_t size, uint64_t at, uint64_t rows, const sf_layout *layout,
                                   sf_column *out) {
    if (rows >= INT32_MAX || at > size) return false;
    for (unsigned i = 0; i < layout->columns; i++, out++) {
        if (layout->form[i] & SF_NULLABLE) {
            out->validity = at;
            at += sf_padded((rows + 7) / 8);
        }
        out->bytes = 8 * rows;
        if (!(layout->form[i] & SF_FIXED)) {
            out->offsets = at;
            at += sf_padded(4 * (rows + 1));
            if (at > size) return false;
            int32_t bytes = sf_offset(base, out->offsets, rows);
            if (bytes < 0) return false;
            out->bytes = (uint64_t)bytes;
        }
        out->values = at;
        at += sf_padded(out->bytes);
        if (at > size) return false;
    }
    return true;
}

/* Whether a value is there. */
static inline bool sf_valid(const uint8_t *base, const sf_column *column, uint64_t row) {
    return base[column->validity + row / 8] >> (row % 8) & 1;
}
#endif
