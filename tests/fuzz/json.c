/*
 * libFuzzer: the walks over stored JSON text.  An input is the text.
 *
 * Holds: nothing outside of the text is read; a text whose length is told is one whose meaning is, too; blanks around it change
 * neither; in an array it takes two bytes more; and what is written is never longer than the text.
 */
#include "fuzz.h"
#include "sf_json.h"
#include "sf_rows.h"

static int64_t length_of(const uint8_t *text, size_t size)
{
    uint8_t *copy = exact(text, size);
    int64_t length = sf_json_length(copy, size);
    free(copy);
    return length;
}

static bool hash_of(const uint8_t *text, size_t size, uint64_t *hash)
{
    uint8_t *copy = exact(text, size);
    bool known = sf_item_hash(copy, size, hash);
    REQUIRE(sf_item_lane(copy, size, 7) < 7);
    free(copy);
    return known;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t hash = 0, other = 0;
    int64_t length = length_of(data, size);
    bool known = hash_of(data, size, &hash);
    REQUIRE(length >= 0 || length == SF_JSON_BROKEN || length == SF_JSON_ODD);
    REQUIRE(length < 0 || known);
    REQUIRE(length <= (int64_t)size);
    uint8_t *wrapped = malloc(size + 4);
    memcpy(wrapped + 2, data, size);
    wrapped[0] = wrapped[size + 2] = ' ';
    wrapped[1] = wrapped[size + 3] = '\n';
    REQUIRE(length_of(wrapped, size + 4) == length);
    REQUIRE(hash_of(wrapped, size + 4, &other) == known && (!known || other == hash));
    wrapped[1] = '[';
    wrapped[size + 2] = ']';
    int64_t inside = length_of(wrapped, size + 4);
    REQUIRE(length < 0 || inside == length + 2 || inside == SF_JSON_ODD);
    free(wrapped);
    return 0;
}
