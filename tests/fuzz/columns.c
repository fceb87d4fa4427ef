/*
 * libFuzzer: columns of messages that are as the scanner lets them through, with any values.
 *
 * An input says how the messages of a segment are to be made: a layout, and for each message its rows and what is in them.
 * What C reads from the columns is compared with what was put in: merging, lanes, sizes, times, sequence numbers.
 */
#include "fuzz.h"
#include "gathered.h"
#include "sf_json.h"
#include "sf_log.h"
#include "sf_rows.h"

enum { MESSAGES_MAX = 3, ROWS_MAX = 24, TEXT_MAX = 24, ROOM = 1 << 16 };

struct input {
    const uint8_t *at, *end;
};

static uint8_t next(struct input *input) { return input->at < input->end ? *input->at++ : 0; }

static uint64_t wide(struct input *input)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | next(input);
    return value;
}

/* ---- making a segment ---- */

/* One value as it was put in. */
struct value {
    bool is_null;
    uint64_t number;
    uint8_t bytes;
    uint8_t text[TEXT_MAX];
};

struct made {
    uint64_t rows;
    struct value values[SF_COLUMNS_MAX][ROWS_MAX];
};

static struct made made[MESSAGES_MAX];

static void draw(struct made *one, const sf_layout *layout, struct input *input)
{
    one->rows = 1 + next(input) % ROWS_MAX;
    for (unsigned column = 0; column < layout->columns; column++) {
        uint8_t form = layout->form[column];
        for (uint64_t row = 0; row < one->rows; row++) {
            struct value *value = &one->values[column][row];
            uint8_t what = next(input);
            *value = (struct value){.is_null = (form & SF_NULLABLE) && what % 4 == 0};
            if (form & SF_FIXED)
                value->number = what & 64 ? wide(input) : what;
            else
                value->bytes = value->is_null ? 0 : what % TEXT_MAX;
            for (unsigned i = 0; i < value->bytes; i++)
                value->text[i] = next(input);
        }
    }
}

/* Lays a message's body out at `base + at`, in the canonical order; returns its end. */
static uint64_t lay_out(uint8_t *base, uint64_t at, const struct made *one, const sf_layout *layout, uint64_t *column)
{
    unsigned buffers = 0;
    for (unsigned i = 0; i < layout->columns; i++) {
        if (layout->form[i] & SF_NULLABLE) {
            for (uint64_t row = 0; row < one->rows; row++)
                base[at + row / 8] |= (uint8_t)(!one->values[i][row].is_null << (row % 8));
            at += sf_padded((one->rows + 7) / 8);
        }
        if (layout->form[i] & SF_FIXED) {
            column[buffers++] = at;
            for (uint64_t row = 0; row < one->rows; row++)
                memcpy(base + at + 8 * row, &one->values[i][row].number, 8);
            at += 8 * one->rows;
            continue;
        }
        column[buffers++] = at;
        uint64_t offsets = at;
        int32_t end = 0;
        at += sf_padded(4 * (one->rows + 1));
        column[buffers++] = at;
        for (uint64_t row = 0; row < one->rows; row++) {
            memcpy(base + at + end, one->values[i][row].text, one->values[i][row].bytes);
            end += one->values[i][row].bytes;
            memcpy(base + offsets + 4 * (row + 1), &end, 4);
        }
        at += sf_padded((uint64_t)end);
    }
    return at;
}

static sf_message place(uint8_t *base, uint64_t at, const struct made *one, int layout)
{
    uint64_t column[3 * SF_COLUMNS_MAX];
    sf_message message = {.position = at, .rows = one->rows, .layout = (uint64_t)layout};
    message.length = lay_out(base, at, one, sf_layout_of(layout), column) - at;
    memcpy(message.column, column, sizeof message.column);
    if (layout == SF_DYNAMODB) {
        memset(message.column, 0, sizeof message.column);
        message.column[SF_BODY] = at;
        message.column[SF_BODY_ROWS] = one->rows;
    }
    return message;
}

/* ---- comparing ---- */

static uint64_t digits_of(int64_t value)
{
    char text[32];
    return (uint64_t)snprintf(text, sizeof text, "%lld", (long long)value);
}

static void check_lanes(const uint8_t *base, const sf_message *message, const struct made *one)
{
    uint8_t lanes[ROWS_MAX];
    uint32_t factor = 1 + (uint32_t)message->rows % 10, grouped[ROWS_MAX], starts[257], seen = 0;
    unsigned keys = message->layout == SF_DYNAMODB ? SF_KEYS : 1;
    sf_lanes(base, message, factor, lanes);
    for (uint64_t row = 0; row < one->rows; row++) {
        const struct value *key = &one->values[keys][row];
        uint8_t lane = message->layout == SF_DYNAMODB ? sf_item_lane(key->text, key->bytes, factor)
                                                      : sf_key_lane(key->text, key->bytes, factor);
        REQUIRE(lanes[row] < factor && lanes[row] == lane);
    }
    sf_group(lanes, NULL, (uint32_t)one->rows, factor, grouped, starts);
    for (uint32_t lane = 0; lane < factor; lane++)
        for (uint32_t i = starts[lane]; i < starts[lane + 1]; i++) {
            REQUIRE(lanes[grouped[i]] == lane && (i == starts[lane] || grouped[i] > grouped[i - 1]));
            seen += 1;
        }
    REQUIRE(seen == one->rows);
}

static void check_times(const uint8_t *base, const sf_message *message, const struct made *one)
{
    unsigned time = sf_layout_of((int)message->layout)->time;
    int64_t earliest = INT64_MAX, latest = INT64_MIN, found[2], all[ROWS_MAX];
    sf_select_arrivals(base, message, NULL, (uint32_t)one->rows, all);
    for (uint64_t row = 0; row < one->rows; row++) {
        int64_t at = (int64_t)one->values[time][row].number;
        REQUIRE(sf_arrival(base, message, row) == at && all[row] == at);
        earliest = at < earliest ? at : earliest;
        latest = at > latest ? at : latest;
    }
    sf_arrival_span(base, message, &found[0], &found[1]);
    REQUIRE(found[0] == earliest && found[1] == latest);
    REQUIRE(sf_first_message(base, message, 1, latest) == 0);
    REQUIRE(latest == INT64_MAX || sf_first_arrival(base, message, latest + 1) == -1);
}

static void check_texts(const uint8_t *base, const sf_message *message, const struct made *one)
{
    unsigned sequence = message->layout == SF_DYNAMODB ? SF_CHANGE_SEQUENCE : 0;
    uint64_t at[4];
    for (uint64_t row = 0; row < one->rows; row++) {
        const struct value *value = &one->values[sequence][row];
        sf_sequence_number(base, message, row, at);
        REQUIRE(at[1] == value->bytes && memcmp(base + at[0], value->text, at[1]) == 0);
    }
    if (message->layout != SF_DYNAMODB)
        return;
    static const unsigned documents[] = {SF_KEYS, SF_NEW_IMAGE, SF_OLD_IMAGE, SF_USER_IDENTITY};
    for (int i = 0; i < 4; i++)
        for (uint64_t row = 0; row < one->rows; row++) {
            const struct value *value = &one->values[documents[i]][row];
            bool is_there = sf_dynamodb_document(base, message, row, i, at);
            REQUIRE(is_there == !value->is_null);
            REQUIRE(!is_there || (at[1] == value->bytes && memcmp(base + at[0], value->text, at[1]) == 0));
        }
}

/* The size of each row alone is its size among all. */
static void check_sizes(const uint8_t *base, const sf_message *message, const struct made *one)
{
    uint64_t all[ROWS_MAX + 1], alone[2], some[ROWS_MAX + 1], unknown = 0, sum = 0;
    uint32_t rows = (uint32_t)one->rows, number[ROWS_MAX];
    bool changes = message->layout == SF_DYNAMODB;
    if (changes)
        unknown = sf_dynamodb_json_prefix(base, message, 10, NULL, rows, all);
    else
        sf_kinesis_json_prefix(base, message, 10, NULL, rows, all);
    for (uint32_t row = 0; row < rows; row++) {
        number[row] = row;
        if (changes)
            sum += sf_dynamodb_json_prefix(base, message, 10, &row, 1, alone);
        else
            sf_kinesis_json_prefix(base, message, 10, &row, 1, alone);
        REQUIRE(alone[1] == all[row + 1] - all[row]);
        if (changes)
            REQUIRE(alone[1] >= 10 + digits_of((int64_t)one->values[SF_SIZE_BYTES][row].number));
    }
    REQUIRE(sum == unknown);
    sf_select_prefix(all, number, rows, some);
    REQUIRE(memcmp(all, some, 8 * ((uint64_t)rows + 1)) == 0);
}

/* All messages merged are the values one after the other. */
static void check_merged(const uint8_t *base, const sf_message *messages, size_t count, const sf_layout *layout)
{
    uint64_t rows = 0;
    struct gathered gathered = gather(base, messages, count, layout);
    uint8_t *const *buffers = gathered.buffers;
    for (size_t m = 0; m < count; rows += made[m++].rows) {
        unsigned buffer = 0;
        for (unsigned i = 0; i < layout->columns; i++) {
            bool nullable = layout->form[i] & SF_NULLABLE, fixed = layout->form[i] & SF_FIXED;
            const uint8_t *bits = nullable ? buffers[buffer++] : NULL, *offsets = fixed ? NULL : buffers[buffer++];
            const uint8_t *values = buffers[buffer++];
            for (uint64_t row = 0; row < made[m].rows; row++) {
                const struct value *value = &made[m].values[i][row];
                uint64_t at = rows + row;
                REQUIRE(bits == NULL || (bits[at / 8] >> (at % 8) & 1) == !value->is_null);
                if (fixed) {
                    REQUIRE(memcmp(values + 8 * at, &value->number, 8) == 0);
                    continue;
                }
                int32_t start = sf_offset(offsets, 0, at), end = sf_offset(offsets, 0, at + 1);
                REQUIRE(end - start == value->bytes && memcmp(values + start, value->text, value->bytes) == 0);
            }
        }
    }
    free_gathered(&gathered);
}

/* Sequence numbers count on in decimal. */
static void check_numbers(struct input *input)
{
    char base[109];
    uint8_t bytes[3 * 129];
    int32_t offsets[4];
    size_t digits = next(input) % (sizeof base + 1);
    uint64_t first = wide(input) % (UINT64_MAX - 3);
    memset(base, '7', sizeof base);
    sf_sequence_numbers(base, digits, first, 3, offsets, bytes);
    for (unsigned i = 0; i < 3; i++) {
        char wanted[130];
        snprintf(wanted, sizeof wanted, "%.*s%020llu", (int)digits, base, (unsigned long long)(first + i));
        REQUIRE((size_t)(offsets[i + 1] - offsets[i]) == digits + 20);
        REQUIRE(memcmp(bytes + offsets[i], wanted, digits + 20) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, data + size};
    int layout = next(&input) % SF_LAYOUTS;
    size_t count = 1 + next(&input) % MESSAGES_MAX;
    uint8_t *room = zeros(ROOM);
    sf_message messages[MESSAGES_MAX];
    uint64_t end = 0;
    for (size_t i = 0; i < count; i++) {
        draw(&made[i], sf_layout_of(layout), &input);
        messages[i] = place(room, end, &made[i], layout);
        end += messages[i].length;
        REQUIRE(end <= ROOM);
    }
    uint8_t *base = exact(room, end);
    free(room);
    for (size_t i = 0; i < count; i++) {
        check_lanes(base, &messages[i], &made[i]);
        check_times(base, &messages[i], &made[i]);
        check_texts(base, &messages[i], &made[i]);
        check_sizes(base, &messages[i], &made[i]);
    }
    check_merged(base, messages, count, sf_layout_of(layout));
    check_numbers(&input);
    free(base);
    return 0;
}
