#include "sf_json.h"

#include <stdbool.h>
#include <string.h>

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

void sf_kinesis_json_prefix(const uint8_t *base, const sf_message *message, uint64_t fixed_bytes, uint64_t *prefix) {
    const uint8_t *sequences = base + message->column[SF_SEQUENCE_OFFSETS];
    const uint8_t *keys = base + message->column[SF_KEY_OFFSETS];
    const uint8_t *key_bytes = base + message->column[SF_KEY_BYTES];
    const uint8_t *arrivals = base + message->column[SF_ARRIVAL];
    const uint8_t *data = base + message->column[SF_DATA_OFFSETS];
    uint32_t first_key = load_offset(keys, 0);
    bool escaping = any_escape(key_bytes + first_key, load_offset(keys, message->rows) - first_key);
    uint64_t sum = 0;

    prefix[0] = 0;
    for (uint64_t row = 0; row < message->rows; row++) {
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
        prefix[row + 1] = sum;
    }
}
