/*
 * Columns, written and looked through in bulk: what would be a Python object per record otherwise.
 */
#include <string.h>

#include "message_columns.h"
#include "sf_assert.h"
#include "sf_log.h"

enum { COUNTER_DIGITS = 20, SEQUENCE_DIGITS_MAX = 129 };

static void write_digits(uint64_t value, uint8_t *out) {
    for (int i = COUNTER_DIGITS - 1; i >= 0; i--, value /= 10) out[i] = (uint8_t)('0' + value % 10);
}

/* The next number as text: most of the time only the last digit changes. */
static void count_up(uint8_t *digits) {
    int i = COUNTER_DIGITS - 1;
    for (; i > 0 && digits[i] == '9'; i--) digits[i] = '0';
    digits[i]++;
}

void sf_sequence_numbers(const char *base, size_t base_digits, uint64_t first, size_t count, int32_t *offsets, uint8_t *bytes) {
    uint8_t number[SEQUENCE_DIGITS_MAX];
    size_t digits = base_digits + COUNTER_DIGITS;
    SF_ASSERT(digits <= sizeof number);
    memcpy(number, base, base_digits);
    write_digits(first, number + base_digits);
    for (size_t i = 0; i < count; i++) {
        offsets[i] = (int32_t)(i * digits);
        memcpy(bytes + i * digits, number, digits);
        count_up(number + base_digits);
    }
    offsets[count] = (int32_t)(count * digits);
}

void sf_rebase_offsets(const int32_t *offsets, size_t count, int32_t *out) {
    int32_t first = offsets[0];
    for (size_t i = 0; i <= count; i++) out[i] = offsets[i] - first;
}

/* Where the buffers of a scanned message lie, in canonical order; `space` is used where the message does not say. */
static const uint64_t *find_buffers(const uint8_t *base, const sf_message *message, uint64_t *space) {
    if (message->layout == SF_KINESIS) return message->column;
    const sf_layout *layout = &sf_layout_table[message->layout];
    sf_column columns[SF_COLUMNS_MAX];
    uint64_t *buffer = space;
    sf_message_columns(base, message, columns);
    for (unsigned i = 0; i < layout->columns; i++) {
        if (layout->form[i] & SF_NULLABLE) *buffer++ = columns[i].validity;
        if (!(layout->form[i] & SF_FIXED)) *buffer++ = columns[i].offsets;
        *buffer++ = columns[i].values;
    }
    return space;
}

void sf_measure(const uint8_t *base, const sf_message *messages, size_t count, uint64_t *totals) {
    uint64_t space[3 * SF_COLUMNS_MAX];
    memset(totals, 0, (1 + SF_COLUMNS_MAX) * sizeof *totals);
    for (size_t i = 0; i < count; i++) {
        const sf_layout *layout = &sf_layout_table[messages[i].layout];
        const uint64_t *buffer = find_buffers(base, &messages[i], space);
        uint64_t *total = totals;
        *total++ += messages[i].rows;
        for (unsigned column = 0; column < layout->columns; column++) {
            if (layout->form[column] & SF_NULLABLE) buffer++;
            if (!(layout->form[column] & SF_FIXED)) *total++ += (uint64_t)sf_offset(base, *buffer++, messages[i].rows);
            buffer++;
        }
    }
}

static void gather_bits(const uint8_t *from, uint64_t rows, uint8_t *to, uint64_t row) {
    for (uint64_t i = 0; i < rows; i++) to[(row + i) / 8] |= (uint8_t)((from[i / 8] >> (i % 8) & 1) << ((row + i) % 8));
}

/* Appends the offsets of `rows` texts; returns how many bytes they have, and in *used how many were there before. */
static inline int32_t gather_offsets(const uint8_t *from_bytes, uint64_t rows, uint8_t *to_bytes, uint64_t row, int32_t *used) {
    const int32_t *from = (const int32_t *)(const void *)from_bytes;
    int32_t *to = (int32_t *)(void *)to_bytes + row;
    int32_t before = row == 0 ? 0 : *to;
    for (uint64_t i = 0; i <= rows; i++) to[i] = from[i] + before;
    *used = before;
    return from[rows];
}

/* Appends the rows of one message behind `row` rows that are there already. */
static inline void gather_message(const uint8_t *base, const sf_message *message, uint8_t *const *to, uint64_t row) {
    uint64_t space[3 * SF_COLUMNS_MAX], rows = message->rows;
    const sf_layout *layout = &sf_layout_table[message->layout];
    const uint64_t *from = find_buffers(base, message, space);
    for (unsigned i = 0; i < layout->columns; i++) {
        int32_t used;
        if (layout->form[i] & SF_NULLABLE) gather_bits(base + *from++, rows, *to++, row);
        if (layout->form[i] & SF_FIXED) {
            memcpy(*to++ + 8 * row, base + *from++, 8 * rows);
        } else {
            int32_t bytes = gather_offsets(base + *from++, rows, *to++, row, &used);
            memcpy(*to++ + used, base + *from++, (size_t)bytes);
        }
    }
}

void sf_gather(const uint8_t *base, const sf_message *messages, size_t count, uint8_t *const *buffers) {
    uint64_t row = 0;
    for (size_t i = 0; i < count; row += messages[i++].rows) gather_message(base, &messages[i], buffers, row);
}

static const int64_t *arrivals(const uint8_t *base, const sf_message *message) {
    sf_column columns[SF_COLUMNS_MAX];
    if (message->layout != SF_DYNAMODB) return (const int64_t *)(const void *)(base + message->column[SF_ARRIVAL]);
    sf_message_columns(base, message, columns);
    return (const int64_t *)(const void *)(base + columns[sf_layout_table[message->layout].time].values);
}

int64_t sf_arrival(const uint8_t *base, const sf_message *message, uint64_t row) { return arrivals(base, message)[row]; }

int64_t sf_first_arrival(const uint8_t *base, const sf_message *message, int64_t at_ms) {
    const int64_t *times = arrivals(base, message);
    for (uint64_t i = 0; i < message->rows; i++)
        if (times[i] >= at_ms) return (int64_t)i;
    return -1;
}

int64_t sf_first_message(const uint8_t *base, const sf_message *messages, size_t count, int64_t at_ms) {
    for (size_t i = 0; i < count; i++)
        if (sf_first_arrival(base, &messages[i], at_ms) >= 0) return (int64_t)i;
    return -1;
}

void sf_arrival_span(const uint8_t *base, const sf_message *message, int64_t *earliest, int64_t *latest) {
    const int64_t *times = arrivals(base, message);
    *earliest = *latest = times[0];
    for (uint64_t i = 1; i < message->rows; i++) {
        if (times[i] < *earliest) *earliest = times[i];
        if (times[i] > *latest) *latest = times[i];
    }
}
