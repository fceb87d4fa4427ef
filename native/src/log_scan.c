/*
 * The scanner.  A minimal flatbuffer walk: every position is checked against the metadata's size before it
 * is read, all arithmetic is in 64 bits on values below 2^33, so nothing can wrap.
 */
#include <stdbool.h>
#include <string.h>

#include "sf_assert.h"
#include "sf_log.h"

enum {
    PREFIX_BYTES = 8,
    METADATA_BYTES_MAX = 1 << 20, /* ours have a few hundred; more is damage, found before it is walked */
    PAIRS_MAX = 16,               /* custom metadata entries looked at */
    VALUE_BYTES = 82,
    CRC_AT = 5, /* of the eight digits inside the value */
    RECORD_BATCH = 3
};

/* Slots of the flatbuffer tables (Arrow's Message.fbs). */
enum { MESSAGE_HEADER_TYPE = 1, MESSAGE_HEADER = 2, MESSAGE_BODY_LENGTH = 3, MESSAGE_METADATA = 4 };
enum { BATCH_LENGTH = 0, BATCH_NODES = 1, BATCH_BUFFERS = 2, BATCH_COMPRESSION = 3 };
enum { PAIR_KEY = 0, PAIR_VALUE = 1 };

static const char KEY[] = "streamfn";

const sf_layout *sf_layout_of(int layout) {
    return layout >= 0 && layout < SF_LAYOUTS ? &sf_layout_table[layout] : NULL;
}

typedef struct view {
    const uint8_t *bytes;
    uint64_t size;
} view;

/* What the metadata of a message says; positions are relative to the message. */
typedef struct header {
    uint64_t metadata_bytes, body_bytes, rows;
    uint64_t nodes_at;   /* of a pair of (rows, nulls) for each column */
    uint64_t buffers_at; /* of a pair of (offset, length) for each buffer, empty validity bitmaps included */
    uint64_t value_at;   /* of the SFN1 value */
    uint64_t crc, epoch, first_offset, durable_upto;
} header;

static inline uint64_t load(const uint8_t *bytes, size_t width) {
    uint64_t value = 0;
    memcpy(&value, bytes, width);
    return value;
}

static inline bool read_at(view fb, uint64_t at, size_t width, uint64_t *out) {
    if (at + width > fb.size) return false;
    *out = load(fb.bytes + at, width);
    return true;
}

/* Position of a table's field, or 0 where the field is absent or the table is broken. */
static uint64_t field(view fb, uint64_t table, unsigned slot) {
    uint64_t back, vtable_bytes, offset;
    if (!read_at(fb, table, 4, &back)) return 0;
    int64_t vtable = (int64_t)table - (int32_t)(uint32_t)back;
    if (vtable < 0 || !read_at(fb, (uint64_t)vtable, 2, &vtable_bytes)) return 0;
    uint64_t entry = 4 + 2 * (uint64_t)slot;
    if (entry + 2 > vtable_bytes || !read_at(fb, (uint64_t)vtable + entry, 2, &offset)) return 0;
    return offset == 0 ? 0 : table + offset;
}

static bool scalar(view fb, uint64_t table, unsigned slot, size_t width, uint64_t *out) {
    uint64_t at = field(fb, table, slot);
    return at != 0 && read_at(fb, at, width, out);
}

static bool follow(view fb, uint64_t at, uint64_t *out) {
    uint64_t offset;
    if (at == 0 || !read_at(fb, at, 4, &offset)) return false;
    *out = at + offset;
    return *out < fb.size;
}

/* A vector or string field: position of its first element and how many there are. */
static bool vector(view fb, uint64_t table, unsigned slot, size_t width, uint64_t *first, uint64_t *count) {
    uint64_t at;
    if (!follow(fb, field(fb, table, slot), &at) || !read_at(fb, at, 4, count)) return false;
    *first = at + 4;
    return *first + *count * width <= fb.size;
}

/* Position of the value under our key, or 0. */
static uint64_t find_value(view fb, uint64_t message) {
    uint64_t first, count, pair, key, key_bytes, value, value_bytes;
    if (!vector(fb, message, MESSAGE_METADATA, 4, &first, &count) || count > PAIRS_MAX) return 0;
    for (uint64_t i = 0; i < count; i++) {
        if (!follow(fb, first + 4 * i, &pair) || !vector(fb, pair, PAIR_KEY, 1, &key, &key_bytes)) return 0;
        if (key_bytes != sizeof KEY - 1 || memcmp(fb.bytes + key, KEY, key_bytes) != 0) continue;
        if (!vector(fb, pair, PAIR_VALUE, 1, &value, &value_bytes) || value_bytes != VALUE_BYTES) return 0;
        return value;
    }
    return 0;
}

/* What a character is worth as a lower-case hexadecimal digit, plus 1; 0 for all others. */
static const uint8_t digit_plus_one[256] = {
    ['0'] = 1, ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,  ['6'] = 7,  ['7'] = 8,
    ['8'] = 9, ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
};

/* `digits` hexadecimal digits and the separator before them. */
static inline bool hexadecimal(const uint8_t **cursor, unsigned digits, uint64_t *out) {
    uint64_t value = 0;
    uint8_t wrong = (uint8_t)(*(*cursor)++ ^ ':');
    while (digits--) {
        uint8_t digit = (uint8_t)(digit_plus_one[*(*cursor)++] - 1);
        wrong |= digit & 0xf0;
        value = value << 4 | digit;
    }
    *out = value;
    return wrong == 0;
}

static bool read_value(const uint8_t *value, header *out, uint64_t *rows, uint64_t *body_bytes) {
    const uint8_t *cursor = value + 4;
    return memcmp(value, "SFN1", 4) == 0 && hexadecimal(&cursor, 8, &out->crc) && hexadecimal(&cursor, 8, &out->epoch) &&
           hexadecimal(&cursor, 16, &out->first_offset) && hexadecimal(&cursor, 8, rows) &&
           hexadecimal(&cursor, 16, body_bytes) && hexadecimal(&cursor, 16, &out->durable_upto);
}

static bool read_nodes(view fb, uint64_t batch, const sf_layout *layout, header *out) {
    uint64_t nodes, count;
    if (!vector(fb, batch, BATCH_NODES, 16, &nodes, &count) || count != layout->columns) return false;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t nulls = load(fb.bytes + nodes + 16 * i + 8, 8);
        if (load(fb.bytes + nodes + 16 * i, 8) != out->rows) return false;
        if (nulls > (layout->form[i] & SF_NULLABLE ? out->rows : 0)) return false;
    }
    out->nodes_at = nodes + PREFIX_BYTES;
    return true;
}

/* Reads the metadata of the message at `message`, of which `room` bytes may be read.  Nothing is proven by it. */
static bool read_header(const uint8_t *message, uint64_t room, const sf_layout *layout, header *out) {
    if (room < PREFIX_BYTES || load(message, 4) != 0xffffffff) return false;
    out->metadata_bytes = load(message + 4, 4);
    if (out->metadata_bytes < 8 || out->metadata_bytes % 8 != 0 || out->metadata_bytes > METADATA_BYTES_MAX) return false;
    if (out->metadata_bytes > room - PREFIX_BYTES) return false;
    view fb = {message + PREFIX_BYTES, out->metadata_bytes};
    uint64_t root, type, batch, count, rows, body_bytes;
    if (!read_at(fb, 0, 4, &root) || !scalar(fb, root, MESSAGE_HEADER_TYPE, 1, &type) || type != RECORD_BATCH) return false;
    if (!scalar(fb, root, MESSAGE_BODY_LENGTH, 8, &out->body_bytes)) return false;
    if (out->body_bytes % 8 != 0 || out->body_bytes > room - PREFIX_BYTES - out->metadata_bytes) return false;
    if (!follow(fb, field(fb, root, MESSAGE_HEADER), &batch) || !scalar(fb, batch, BATCH_LENGTH, 8, &out->rows)) return false;
    if (field(fb, batch, BATCH_COMPRESSION) != 0) return false;
    if (!read_nodes(fb, batch, layout, out)) return false;
    if (!vector(fb, batch, BATCH_BUFFERS, 16, &out->buffers_at, &count) || count != layout->arrow_buffers) return false;
    out->value_at = find_value(fb, root);
    if (out->value_at == 0 || !read_value(fb.bytes + out->value_at, out, &rows, &body_bytes)) return false;
    out->value_at += PREFIX_BYTES;
    out->buffers_at += PREFIX_BYTES;
    return rows == out->rows && body_bytes == out->body_bytes && rows >= 1 && rows < INT32_MAX;
}

/* Whether an entry of Arrow's list of buffers says `bytes` bytes at the body's offset *next, which then moves on behind them. */
static inline bool lies_next(const uint8_t *entry, uint64_t bytes, uint64_t body_bytes, uint64_t *next) {
    uint64_t at = *next;
    if (load(entry, 8) != at || load(entry + 8, 8) != bytes || at > body_bytes || bytes > body_bytes - at) return false;
    *next = sf_padded(at + bytes);
    return true;
}

static bool rising(const int32_t *offsets, uint64_t rows) {
    int32_t fell = offsets[0] != 0;
    for (uint64_t i = 0; i < rows; i++) fell |= offsets[i + 1] < offsets[i];
    return !fell;
}

static uint64_t nulls_in(const uint8_t *bitmap, uint64_t rows) {
    uint64_t valid = 0;
    for (uint64_t i = 0; i < rows / 8; i++) valid += (uint64_t)__builtin_popcount(bitmap[i]);
    if (rows % 8) valid += (uint64_t)__builtin_popcount(bitmap[rows / 8] & ((1u << rows % 8) - 1));
    return rows - valid;
}

/* Checks that all buffers lie in canonical order and hold what they must; column[] of sf_message gets the positions of the
   first ones, relative to the message. */
static bool take_columns(const uint8_t *message, const header *head, const sf_layout *layout, bool proven, uint64_t *column) {
    const uint8_t *entry = message + head->buffers_at, *node = message + head->nodes_at;
    const uint8_t *body = message + PREFIX_BYTES + head->metadata_bytes;
    uint64_t rows = head->rows, room = head->body_bytes, next = 0;
    uint64_t at[3 * SF_COLUMNS_MAX];
    unsigned found = 0;
    for (unsigned i = 0; i < layout->columns; i++, entry += 16, node += 16) {
        uint8_t form = layout->form[i];
        if (!(form & SF_NULLABLE)) {
            if (load(entry + 8, 8) != 0) return false;
        } else {
            const uint8_t *bitmap = body + next;
            if (!lies_next(entry, (rows + 7) / 8, room, &next)) return false;
            if (!proven && nulls_in(bitmap, rows) != load(node + 8, 8)) return false;
        }
        entry += 16;
        uint64_t bytes = 8 * rows;
        if (!(form & SF_FIXED)) {
            const int32_t *offsets = (const int32_t *)(const void *)(body + next);
            at[found++] = next;
            if (!lies_next(entry, 4 * (rows + 1), room, &next)) return false;
            if (offsets[rows] < 0 || !(proven || rising(offsets, rows))) return false;
            bytes = (uint64_t)offsets[rows];
            entry += 16;
        }
        at[found++] = next;
        if (!lies_next(entry, bytes, room, &next)) return false;
    }
    for (unsigned i = 0; i < SF_COLUMN_BUFFERS; i++) column[i] = PREFIX_BYTES + head->metadata_bytes + at[i];
    return next == room;
}

/* The whole message at file offset `position`, proven unless it ends at or below `proven`. */
static bool read_message(const uint8_t *base, uint64_t position, uint64_t end, int layout, uint64_t proven, sf_message *out) {
    const sf_layout *table = &sf_layout_table[layout];
    header head;
    const uint8_t *message = base + position;
    if (!read_header(message, end - position, table, &head)) return false;
    uint64_t length = PREFIX_BYTES + head.metadata_bytes + head.body_bytes;
    bool seen = position + length <= proven;
    if (!seen && sf_message_crc(message, length, head.value_at + CRC_AT) != head.crc) return false;
    if (!take_columns(message, &head, table, seen, out->column)) return false;
    for (unsigned i = 0; i < SF_COLUMN_BUFFERS; i++) out->column[i] += position;
    if (layout == SF_DYNAMODB) {
        memset(out->column, 0, sizeof out->column);
        out->column[SF_BODY] = position + PREFIX_BYTES + head.metadata_bytes;
        out->column[SF_BODY_ROWS] = head.rows;
    }
    out->position = position;
    out->length = length;
    out->first_offset = head.first_offset;
    out->epoch = head.epoch;
    out->durable_upto = head.durable_upto;
    out->rows = head.rows;
    out->layout = (uint64_t)layout;
    return true;
}

/* Four zero bytes or the mark of a zero length: what Arrow takes as the end of a stream. */
static bool ends_here(const uint8_t *message) {
    uint64_t first = load(message, 4);
    return first == 0 || (first == 0xffffffff && load(message + 4, 4) == 0);
}

int sf_scan_proven(const uint8_t *base, uint64_t end, int layout, uint64_t proven, uint64_t *position, uint64_t *next_offset,
                   uint64_t byte_budget, sf_message *out, size_t capacity, size_t *count) {
    uint64_t spent = 0;
    SF_ASSERT(sf_layout_of(layout) != NULL);
    *count = 0;
    while (*position < end) {
        if (*count == capacity || *position % 8 != 0) return *count == capacity ? SF_SCAN_MORE : SF_SCAN_DAMAGED;
        if (end - *position < PREFIX_BYTES) return SF_SCAN_DAMAGED;
        if (ends_here(base + *position)) return SF_SCAN_END;
        sf_message *message = &out[*count];
        if (!read_message(base, *position, end, layout, proven, message)) return SF_SCAN_DAMAGED;
        if (message->first_offset != *next_offset) return SF_SCAN_DAMAGED;
        if (*count > 0 && spent + message->length > byte_budget) return SF_SCAN_MORE;
        spent += message->length;
        *position += message->length;
        *next_offset += message->rows;
        *count += 1;
    }
    return SF_SCAN_LIMIT;
}

int sf_scan(const uint8_t *base, uint64_t end, int layout, uint64_t *position, uint64_t *next_offset, uint64_t byte_budget,
            sf_message *out, size_t capacity, size_t *count) {
    return sf_scan_proven(base, end, layout, 0, position, next_offset, byte_budget, out, capacity, count);
}

int sf_find_message(const uint8_t *base, uint64_t end, int layout, uint64_t *position, sf_message *out) {
    SF_ASSERT(sf_layout_of(layout) != NULL);
    for (*position = (*position + 7) / 8 * 8; *position + PREFIX_BYTES <= end; *position += 8) {
        if (load(base + *position, 4) != 0xffffffff) continue;
        if (read_message(base, *position, end, layout, 0, out)) return 1;
    }
    return 0;
}

int64_t sf_message_crc_at(const uint8_t *message, uint64_t length, int layout) {
    header head;
    SF_ASSERT(sf_layout_of(layout) != NULL);
    return read_header(message, length, &sf_layout_table[layout], &head) ? (int64_t)(head.value_at + CRC_AT) : -1;
}

uint32_t sf_message_crc(const uint8_t *message, uint64_t length, uint64_t crc_at) {
    SF_ASSERT(crc_at + 8 <= length);
    uint32_t crc = sf_crc32c(0, message, crc_at);
    crc = sf_crc32c(crc, "00000000", 8);
    return sf_crc32c(crc, message + crc_at + 8, length - crc_at - 8);
}
