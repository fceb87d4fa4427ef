/*
 * libFuzzer: the segment scanner over hostile bytes, and everything that reads what it has accepted.
 *
 * An input is a layout's number (one byte, modulo the layouts), how much of the first scan's budget there is (one byte), and
 * a segment.  The mutator seals each message it finds with the CRC it needs, or nothing would ever get past it.
 *
 * Holds: nothing outside of the segment is read (AddressSanitizer: it lies in an allocation of exactly its size); a message
 * lies inside the segment, and its columns inside the message; scanning in steps finds what one scan finds; what was proven
 * once is found again without its CRC; whoever reads columns by an accepted message stays inside it too.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "gathered.h"
#include "message_columns.h"
#include "sf_json.h"
#include "sf_log.h"
#include "sf_rows.h"

enum { MESSAGES_MAX = 8, ROWS_MAX = 4096, HEADER_BYTES = 2, BODY_BYTES_AT = 44 };

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

/* Gives every message that has one the right CRC: from the start, each where the one before ends. */
static void seal(uint8_t *segment, uint64_t size, int layout)
{
    uint64_t at = 0;
    while (size - at >= 8) {
        int64_t crc_at = sf_message_crc_at(segment + at, size - at, layout);
        if (crc_at < 0)
            return;
        uint32_t metadata_bytes;
        memcpy(&metadata_bytes, segment + at + 4, 4);
        char digits[17] = {0}; /* of the body's length, which the value says again: see sf_log.h */
        memcpy(digits, segment + at + crc_at + BODY_BYTES_AT, 16);
        uint64_t length = 8 + (uint64_t)metadata_bytes, body_bytes = strtoull(digits, NULL, 16);
        if (body_bytes > size - at - length)
            return;
        length += body_bytes;
        char text[9];
        snprintf(text, sizeof text, "%08x", sf_message_crc(segment + at, length, (uint64_t)crc_at));
        memcpy(segment + at + crc_at, text, 8);
        at += length;
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    size = LLVMFuzzerMutate(data, size, max_size);
    if (size <= HEADER_BYTES || seed % 16 == 0)
        return size;
    uint64_t bytes = size - HEADER_BYTES;
    uint8_t *segment = exact(data + HEADER_BYTES, bytes); /* messages are read aligned */
    seal(segment, bytes, data[0] % SF_LAYOUTS);
    memcpy(data + HEADER_BYTES, segment, bytes);
    free(segment);
    return size;
}

/* ---- what is done with a message ---- */

static uint64_t touch(const uint8_t *base, uint64_t at, uint64_t bytes)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < bytes; i++)
        sum += base[at + i];
    return sum;
}

static void check_columns(const uint8_t *base, const sf_message *message)
{
    const sf_layout *layout = sf_layout_of((int)message->layout);
    uint64_t first = message->position, end = first + message->length;
    for (uint32_t column = 0; column < layout->columns; column++) {
        uint64_t place[4];
        sf_column_place(base, message, column, place);
        REQUIRE(place[2] >= first && place[2] + place[3] <= end);
        keep(touch(base, place[2], place[3]));
        if (layout->form[column] & SF_NULLABLE)
            keep(touch(base, place[0], (message->rows + 7) / 8));
        if (layout->form[column] & SF_FIXED)
            continue;
        for (uint64_t row = 0; row < message->rows; row++)
            REQUIRE(sf_offset(base, place[1], row) <= sf_offset(base, place[1], row + 1));
        REQUIRE(sf_offset(base, place[1], 0) == 0);
        REQUIRE((uint64_t)sf_offset(base, place[1], message->rows) == place[3]);
    }
}

/* Merging messages into buffers of exactly the size that they measure. */
static void check_gather(const uint8_t *base, const sf_message *messages, size_t count)
{
    struct gathered gathered = gather(base, messages, count, sf_layout_of((int)messages[0].layout));
    free_gathered(&gathered);
}

static void check_rows(const uint8_t *base, const sf_message *message)
{
    uint32_t rows = (uint32_t)message->rows, factor = 1 + rows % 10, count = 0;
    uint64_t place[2], *prefix = zeros(8 * ((uint64_t)rows + 1)), *some = zeros(8 * ((uint64_t)rows + 1));
    uint8_t *lanes = zeros(rows);
    uint32_t *grouped = zeros(4 * (uint64_t)rows), *starts = zeros(4 * (factor + 1)), *odd = zeros(4 * (uint64_t)rows);
    int64_t *arrivals = zeros(8 * (uint64_t)rows), earliest, latest;
    for (uint32_t row = 1; row < rows; row += 2)
        odd[count++] = row;
    sf_lanes(base, message, factor, lanes);
    sf_group(lanes, NULL, rows, factor, grouped, starts);
    REQUIRE(starts[factor] == rows);
    if (message->layout == SF_DYNAMODB)
        sf_dynamodb_json_prefix(base, message, 100, NULL, rows, prefix);
    else
        sf_kinesis_json_prefix(base, message, 100, NULL, rows, prefix);
    sf_select_prefix(prefix, odd, count, some);
    sf_arrival_span(base, message, &earliest, &latest);
    sf_select_arrivals(base, message, odd, count, arrivals);
    for (uint32_t i = 0; i < count; i++)
        REQUIRE(arrivals[i] >= earliest && arrivals[i] <= latest && arrivals[i] == sf_arrival(base, message, odd[i]));
    REQUIRE(sf_first_arrival(base, message, earliest) >= 0);
    for (uint32_t row = 0; row < rows; row++) {
        sf_sequence_number(base, message, row, place);
        keep(touch(base, place[0], place[1]));
        for (int document = 0; document < 4 && message->layout == SF_DYNAMODB; document++)
            if (sf_dynamodb_document(base, message, row, document, place))
                keep(touch(base, place[0], place[1]));
    }
    free(prefix), free(some), free(lanes), free(grouped), free(starts), free(odd), free(arrivals);
}

/* ---- scanning ---- */

struct scanned {
    int status;
    uint64_t position, next_offset;
    size_t count;
    sf_message messages[MESSAGES_MAX];
};

static struct scanned scan(const uint8_t *base, uint64_t size, int layout, uint64_t proven, size_t capacity, uint64_t budget,
                           struct scanned from)
{
    from.status = sf_scan_proven(base, size, layout, proven, &from.position, &from.next_offset, budget, from.messages,
                                 capacity, &from.count);
    return from;
}

static uint64_t first_offset_of(const uint8_t *base, uint64_t size, int layout)
{
    sf_message found;
    uint64_t position = 0;
    return sf_find_message(base, size, layout, &position, &found) ? found.first_offset : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEADER_BYTES)
        return 0;
    int layout = data[0] % SF_LAYOUTS;
    uint64_t bytes = size - HEADER_BYTES;
    uint8_t *base = exact(data + HEADER_BYTES, bytes);
    struct scanned start = {.next_offset = first_offset_of(base, bytes, layout)};
    struct scanned all = scan(base, bytes, layout, 0, MESSAGES_MAX, UINT64_MAX, start);
    REQUIRE(all.status >= SF_SCAN_MORE && all.status <= SF_SCAN_DAMAGED && all.position <= bytes);
    struct scanned again = scan(base, bytes, layout, all.position, MESSAGES_MAX, UINT64_MAX, start);
    REQUIRE(again.count == all.count && memcmp(again.messages, all.messages, all.count * sizeof(sf_message)) == 0);
    struct scanned steps = start;
    for (size_t i = 0; i < all.count; i++) {
        const sf_message *message = &all.messages[i];
        steps = scan(base, bytes, layout, 0, 1, data[1], steps);
        REQUIRE(steps.count == 1 && memcmp(steps.messages, message, sizeof *message) == 0);
        REQUIRE(message->position + message->length <= bytes && message->rows > 0);
        check_columns(base, message);
        if (message->rows <= ROWS_MAX)
            check_rows(base, message);
    }
    if (all.count > 0)
        check_gather(base, all.messages, all.count);
    free(base);
    return 0;
}
