/*
 * Columns, written and looked through in bulk: what would be a Python object per record otherwise.
 */
#include <string.h>

#include "sf_log.h"

enum { BASE_DIGITS = 36, COUNTER_DIGITS = 20, SEQUENCE_DIGITS = BASE_DIGITS + COUNTER_DIGITS };

static void write_digits(uint64_t value, uint8_t *out) {
    for (int i = COUNTER_DIGITS - 1; i >= 0; i--, value /= 10) out[i] = (uint8_t)('0' + value % 10);
}

/* The next number as text: most of the time only the last digit changes. */
static void count_up(uint8_t *digits) {
    int i = COUNTER_DIGITS - 1;
    for (; i > 0 && digits[i] == '9'; i--) digits[i] = '0';
    digits[i]++;
}

void sf_sequence_numbers(const char *base, uint64_t first, size_t count, int32_t *offsets, uint8_t *bytes) {
    uint8_t number[SEQUENCE_DIGITS];
    memcpy(number, base, BASE_DIGITS);
    write_digits(first, number + BASE_DIGITS);
    for (size_t i = 0; i < count; i++) {
        offsets[i] = (int32_t)(i * SEQUENCE_DIGITS);
        memcpy(bytes + i * SEQUENCE_DIGITS, number, SEQUENCE_DIGITS);
        count_up(number + BASE_DIGITS);
    }
    offsets[count] = (int32_t)(count * SEQUENCE_DIGITS);
}

void sf_rebase_offsets(const int32_t *offsets, size_t count, int32_t *out) {
    int32_t first = offsets[0];
    for (size_t i = 0; i <= count; i++) out[i] = offsets[i] - first;
}

static uint64_t bytes_of(const uint8_t *base, const sf_message *message, unsigned column) {
    const int32_t *offsets = (const int32_t *)(const void *)(base + message->column[column]);
    return (uint64_t)(offsets[message->rows] - offsets[0]);
}

void sf_measure(const uint8_t *base, const sf_message *messages, size_t count, uint64_t *totals) {
    memset(totals, 0, 4 * sizeof *totals);
    for (size_t i = 0; i < count; i++) {
        totals[0] += messages[i].rows;
        totals[1] += bytes_of(base, &messages[i], SF_SEQUENCE_OFFSETS);
        totals[2] += bytes_of(base, &messages[i], SF_KEY_OFFSETS);
        totals[3] += bytes_of(base, &messages[i], SF_DATA_OFFSETS);
    }
}

/* Appends the rows of one column of texts or bytes; `row` and `used` are how much is there already. */
static int32_t gather_bytes(const uint8_t *base, const sf_message *message, unsigned column, uint8_t *const *out, uint64_t row,
                            int32_t used) {
    const int32_t *from = (const int32_t *)(const void *)(base + message->column[column]);
    int32_t *to = (int32_t *)(void *)out[column] + row;
    int32_t first = from[0], length = from[message->rows] - first;
    for (uint64_t i = 0; i <= message->rows; i++) to[i] = from[i] - first + used;
    memcpy(out[column + 1] + used, base + message->column[column + 1] + first, (size_t)length);
    return used + length;
}

void sf_gather(const uint8_t *base, const sf_message *messages, size_t count, uint8_t *const *columns) {
    int32_t sequence = 0, key = 0, data = 0;
    uint64_t row = 0;
    for (size_t i = 0; i < count; i++) {
        const sf_message *message = &messages[i];
        sequence = gather_bytes(base, message, SF_SEQUENCE_OFFSETS, columns, row, sequence);
        key = gather_bytes(base, message, SF_KEY_OFFSETS, columns, row, key);
        data = gather_bytes(base, message, SF_DATA_OFFSETS, columns, row, data);
        memcpy(columns[SF_ARRIVAL] + 8 * row, base + message->column[SF_ARRIVAL], 8 * message->rows);
        row += message->rows;
    }
}

static const int64_t *arrivals(const uint8_t *base, const sf_message *message) {
    return (const int64_t *)(const void *)(base + message->column[SF_ARRIVAL]);
}

int64_t sf_first_arrival(const uint8_t *base, const sf_message *message, int64_t at_ms) {
    const int64_t *times = arrivals(base, message);
    for (uint64_t i = 0; i < message->rows; i++)
        if (times[i] >= at_ms) return (int64_t)i;
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
