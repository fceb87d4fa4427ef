#include <string.h>

#include "message_columns.h"
#include "sf_assert.h"
#include "sf_json.h"
#include "sf_rows.h"

enum { LANES_MAX = 255 };

/* ---- lanes ---- */

/* Spreads what FNV leaves in the lower bits over all of them: the lane is taken from the upper ones. */
static uint64_t spread(uint64_t hash) {
    hash ^= hash >> 33;
    hash *= 0xff51afd7ed558ccd;
    hash ^= hash >> 33;
    hash *= 0xc4ceb9fe1a85ec53;
    return hash ^ hash >> 33;
}

static uint64_t hash_bytes(const uint8_t *bytes, uint64_t count) {
    uint64_t hash = 0xcbf29ce484222325;
    for (uint64_t i = 0; i < count; i++) hash = (hash ^ bytes[i]) * 0x100000001b3;
    return hash;
}

static inline uint8_t lane_of(uint64_t hash, uint32_t factor) { return (uint8_t)((spread(hash) >> 32) * factor >> 32); }

uint8_t sf_key_lane(const uint8_t *key, uint64_t bytes, uint32_t factor) {
    return bytes == 0 ? 0 : lane_of(hash_bytes(key, bytes), factor);
}

static void kinesis_lanes(const uint8_t *base, const sf_message *message, uint32_t factor, uint8_t *lanes) {
    const uint8_t *keys = base + message->column[SF_KEY_BYTES];
    uint64_t offsets = message->column[SF_KEY_OFFSETS];
    for (uint64_t row = 0; row < message->rows; row++) {
        uint32_t start = (uint32_t)sf_offset(base, offsets, row), end = (uint32_t)sf_offset(base, offsets, row + 1);
        lanes[row] = sf_key_lane(keys + start, end - start, factor);
    }
}

static bool has_no_attribute(const uint8_t *text, uint64_t length) {
    return length <= 2 || (length == 4 && memcmp(text, "null", 4) == 0);
}

uint8_t sf_item_lane(const uint8_t *keys, uint64_t bytes, uint32_t factor) {
    uint64_t hash = 0;
    if (has_no_attribute(keys, bytes)) return 0;
    (void)sf_item_hash(keys, bytes, &hash);
    return lane_of(hash, factor);
}

static void item_lanes(const uint8_t *base, const sf_message *message, uint32_t factor, uint8_t *lanes) {
    sf_column columns[SF_COLUMNS_MAX];
    sf_message_columns(base, message, columns);
    const sf_column *keys = &columns[SF_KEYS];
    for (uint64_t row = 0; row < message->rows; row++) {
        uint64_t start = (uint64_t)sf_offset(base, keys->offsets, row);
        uint64_t end = (uint64_t)sf_offset(base, keys->offsets, row + 1);
        lanes[row] = sf_item_lane(base + keys->values + start, end - start, factor);
    }
}

void sf_lanes(const uint8_t *base, const sf_message *message, uint32_t factor, uint8_t *lanes) {
    SF_ASSERT(factor >= 1 && factor <= LANES_MAX);
    if (message->layout == SF_DYNAMODB) {
        item_lanes(base, message, factor, lanes);
    } else {
        kinesis_lanes(base, message, factor, lanes);
    }
}

void sf_group(const uint8_t *lanes, const uint32_t *rows, uint32_t count, uint32_t factor, uint32_t *grouped, uint32_t *starts) {
    uint32_t next[LANES_MAX + 1] = {0}, sum = 0;
    SF_ASSERT(factor >= 1 && factor <= LANES_MAX);
    for (uint32_t i = 0; i < count; i++) next[lanes[rows == NULL ? i : rows[i]]]++;
    for (uint32_t lane = 0; lane < factor; lane++) {
        uint32_t of_lane = next[lane];
        starts[lane] = next[lane] = sum;
        sum += of_lane;
    }
    starts[factor] = sum;
    SF_ASSERT(sum == count);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t row = rows == NULL ? i : rows[i];
        grouped[next[lanes[row]]++] = row;
    }
}

/* ---- selected rows ---- */

void sf_select_prefix(const uint64_t *prefix, const uint32_t *rows, uint32_t count, uint64_t *out) {
    out[0] = 0;
    for (uint32_t i = 0; i < count; i++) out[i + 1] = out[i] + prefix[(uint64_t)rows[i] + 1] - prefix[rows[i]];
}

void sf_select_arrivals(const uint8_t *base, const sf_message *message, const uint32_t *rows, uint32_t count, int64_t *out) {
    sf_column columns[SF_COLUMNS_MAX];
    uint64_t at = message->column[SF_ARRIVAL];
    if (message->layout == SF_DYNAMODB) {
        sf_message_columns(base, message, columns);
        at = columns[SF_CREATION].values;
    }
    if (rows == NULL) {
        memcpy(out, base + at, 8 * (uint64_t)count);
        return;
    }
    for (uint32_t i = 0; i < count; i++) memcpy(&out[i], base + at + 8 * (uint64_t)rows[i], sizeof out[i]);
}

void sf_sequence_number(const uint8_t *base, const sf_message *message, uint64_t row, uint64_t *place) {
    sf_column columns[SF_COLUMNS_MAX];
    uint64_t offsets = message->column[SF_SEQUENCE_OFFSETS], bytes = message->column[SF_SEQUENCE_BYTES];
    if (message->layout == SF_DYNAMODB) {
        sf_message_columns(base, message, columns);
        offsets = columns[SF_CHANGE_SEQUENCE].offsets;
        bytes = columns[SF_CHANGE_SEQUENCE].values;
    }
    uint64_t start = (uint64_t)sf_offset(base, offsets, row);
    place[0] = bytes + start;
    place[1] = (uint64_t)sf_offset(base, offsets, row + 1) - start;
}

void sf_column_place(const uint8_t *base, const sf_message *message, uint32_t column, uint64_t *place) {
    sf_column columns[SF_COLUMNS_MAX];
    sf_message_columns(base, message, columns);
    place[0] = columns[column].validity;
    place[1] = columns[column].offsets;
    place[2] = columns[column].values;
    place[3] = columns[column].bytes;
}

bool sf_rows_among(const uint32_t *rows, uint32_t count, const uint32_t *of, uint32_t first, uint32_t of_count) {
    uint32_t at = 0; /* in `of`: everything before it has been passed */
    for (uint32_t i = 0; i < count; i++) {
        if (of == NULL) {
            if (rows[i] < first || rows[i] - first < at || rows[i] - first >= of_count) return false;
            at = rows[i] - first + 1;
            continue;
        }
        while (at < of_count && of[at] < rows[i]) at++;
        if (at == of_count || of[at++] != rows[i]) return false;
    }
    return true;
}

bool sf_aim(const sf_extent *message, const uint32_t *rows, uint32_t count, sf_extent *out) {
    bool selected = rows[count - 1] - rows[0] != count - 1;
    *out = *message;
    out->first_offset = message->first_offset + rows[0];
    out->first_row = selected ? SF_SELECTED : rows[0];
    out->rows = count;
    return selected;
}
