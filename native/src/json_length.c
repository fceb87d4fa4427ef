#include <stdbool.h>
#include <string.h>

#include "message_columns.h"
#include "sf_json.h"


/* What the JSON of a string has beyond its UTF-8 bytes, without the quotes: one byte for a short escape, five for \u00xx. */
static inline uint32_t escape_bytes(uint8_t byte) {
    uint32_t quoted = (byte == '"') | (byte == '\\');
    uint32_t control = byte < 0x20;
    uint32_t named = (byte >= '\b' && byte <= '\r') & (byte != '\v');
    return quoted + control * (named ? 1 : 5);
}

static uint64_t escapes(const uint8_t *bytes, uint64_t count) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        sum += escape_bytes(bytes[i]);
    }
    return sum;
}

/* Keys without anything to escape are the rule, so this is asked of a whole message at once; the loop vectorises. */
static bool any_escape(const uint8_t *bytes, uint64_t count) {
    uint8_t seen = 0;
    for (uint64_t i = 0; i < count; i++) {
        seen |= (uint8_t)((bytes[i] < 0x20) | (bytes[i] == '"') | (bytes[i] == '\\'));
    }
    return seen != 0;
}

/* Characters of seconds with one to three decimals: the shortest text that reads back as the same double has those digits,
   since up to 15 significant ones survive the way there and back (limits.ARRIVAL_MS_MAX has 15). */
static inline uint32_t arrival_bytes(int64_t arrival_ms) {
    uint64_t ms = arrival_ms < 0 ? 0 - (uint64_t)arrival_ms : (uint64_t)arrival_ms;
    uint64_t seconds = ms / 1000;
    uint32_t rest = (uint32_t)(ms % 1000);
    uint32_t decimals = rest % 100 == 0 ? 1 : rest % 10 == 0 ? 2 : 3;
    uint32_t digits = 10; /* from 2001 to 2286 */
    if (seconds < 1000000000 || seconds >= 10000000000) {
        digits = 1;
        for (uint64_t more = seconds / 10; more > 0; more /= 10) {
            digits++;
        }
    }
    return (arrival_ms < 0) + digits + 1 + decimals;
}

static inline uint32_t load_offset(const uint8_t *offsets, uint64_t row) {
    uint32_t value;
    memcpy(&value, offsets + row * 4, sizeof(value));
    return value;
}

void sf_kinesis_json_prefix(const uint8_t *base, const sf_message *message, uint64_t fixed_bytes, const uint32_t *rows,
                            uint64_t count, uint64_t *prefix) {
    const uint8_t *sequences = base + message->column[SF_SEQUENCE_OFFSETS];
    const uint8_t *keys = base + message->column[SF_KEY_OFFSETS];
    const uint8_t *key_bytes = base + message->column[SF_KEY_BYTES];
    const uint8_t *arrivals = base + message->column[SF_ARRIVAL];
    const uint8_t *data = base + message->column[SF_DATA_OFFSETS];
    uint32_t first_key = load_offset(keys, 0);
    bool escaping = any_escape(key_bytes + first_key, load_offset(keys, message->rows) - first_key);
    uint64_t sum = 0;

    prefix[0] = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t row = rows ? rows[i] : i;
        uint64_t key_at = load_offset(keys, row), key_length = load_offset(keys, row + 1) - key_at;
        uint64_t sequence_length = load_offset(sequences, row + 1) - load_offset(sequences, row);
        uint64_t data_length = load_offset(data, row + 1) - load_offset(data, row);
        int64_t arrival_ms;
        memcpy(&arrival_ms, arrivals + row * 8, sizeof(arrival_ms));
        /* The sequence number stands in the event id, too. */
        sum += fixed_bytes + 2 * sequence_length + key_length + (data_length + 2) / 3 * 4 + arrival_bytes(arrival_ms);
        if (escaping) {
            sum += escapes(key_bytes + key_at, key_length);
        }
        prefix[i + 1] = sum;
    }
}

/* ---- DynamoDB ---- */

static const uint8_t documents[] = {SF_KEYS, SF_NEW_IMAGE, SF_OLD_IMAGE, SF_USER_IDENTITY};
static const uint8_t texts[] = {SF_EVENT_ID, SF_EVENT_NAME, SF_EVENT_VERSION, SF_CHANGE_SEQUENCE, SF_VIEW_TYPE};

static uint64_t name_bytes(uint8_t document) {
    switch (document) {
    case SF_NEW_IMAGE: return sizeof "\"NewImage\":," - 1;
    case SF_OLD_IMAGE: return sizeof "\"OldImage\":," - 1;
    case SF_USER_IDENTITY: return sizeof "\"userIdentity\":," - 1;
    default: return 0; /* keys are there always, so their name is among the fixed bytes */
    }
}

/* Digits of a whole number, and its sign. */
static uint32_t integer_bytes(int64_t value) {
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    uint32_t digits = 1;
    for (; rest >= 10; rest /= 10) digits++;
    return digits + (value < 0);
}

static bool find_document(const uint8_t *base, const sf_column *columns, uint64_t row, uint8_t document, uint64_t *place) {
    const sf_column *column = &columns[document];
    if (document != SF_KEYS && !sf_valid(base, column, row)) return false;
    uint64_t start = (uint64_t)sf_offset(base, column->offsets, row);
    place[0] = column->values + start;
    place[1] = (uint64_t)sf_offset(base, column->offsets, row + 1) - start;
    return true;
}

int sf_dynamodb_document(const uint8_t *base, const sf_message *message, uint64_t row, int document, uint64_t *place) {
    sf_column columns[SF_COLUMNS_MAX];
    sf_message_columns(base, message, columns);
    return find_document(base, columns, row, documents[document], place);
}

static uint64_t text_bytes(const uint8_t *base, const sf_column *column, uint64_t row) {
    uint64_t start = (uint64_t)sf_offset(base, column->offsets, row);
    uint64_t length = (uint64_t)sf_offset(base, column->offsets, row + 1) - start;
    return length + escapes(base + column->values + start, length);
}

static int64_t load_int64(const uint8_t *base, const sf_column *column, uint64_t row) {
    int64_t value;
    memcpy(&value, base + column->values + 8 * row, sizeof value);
    return value;
}

uint64_t sf_dynamodb_json_prefix(const uint8_t *base, const sf_message *message, uint64_t fixed_bytes, const uint32_t *rows,
                                 uint64_t count, uint64_t *prefix) {
    sf_column columns[SF_COLUMNS_MAX];
    uint64_t sum = 0, unknown = 0, place[2];
    sf_message_columns(base, message, columns);
    prefix[0] = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t row = rows ? rows[i] : i;
        sum += fixed_bytes + arrival_bytes(load_int64(base, &columns[SF_CREATION], row)) +
               integer_bytes(load_int64(base, &columns[SF_SIZE_BYTES], row));
        for (size_t k = 0; k < sizeof texts; k++) sum += text_bytes(base, &columns[texts[k]], row);
        for (size_t k = 0; k < sizeof documents; k++) {
            if (!find_document(base, columns, row, documents[k], place)) continue;
            int64_t length = sf_json_length(base + place[0], place[1]);
            unknown += length < 0;
            sum += name_bytes(documents[k]) + (length < 0 ? 0 : (uint64_t)length);
        }
        prefix[i + 1] = sum;
    }
    return unknown;
}
