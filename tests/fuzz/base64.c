/*
 * libFuzzer: every base64 encoder of this machine.  An input is what is to be encoded, from an offset (its first byte) on, so that
 * vectors meet every alignment.
 *
 * Holds: each writes what the plain definition says, reads nothing outside of its input and writes nothing outside of its output.
 */
#include "base64.h"
#include "fuzz.h"

static void encode_plainly(uint8_t *out, const uint8_t *bytes, size_t count)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t length = sf_base64_length(count);
    for (size_t i = 0; i < length; i++) {
        unsigned bits = 0;
        for (unsigned k = 0; k < 6; k++) {
            size_t bit = 6 * i + k;
            bits = bits << 1 | (bit / 8 < count ? bytes[bit / 8] >> (7 - bit % 8) & 1u : 0);
        }
        out[i] = (uint8_t)(6 * i < 8 * count ? alphabet[bits] : '=');
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    size_t skew = data[0] % 64, count = size - 1, length = sf_base64_length(count), encoders;
    uint8_t *in = (uint8_t *)malloc(skew + count) + skew, *out = malloc(skew + length), *wanted = malloc(length);
    memcpy(in, data + 1, count);
    encode_plainly(wanted, in, count);
    const sf_base64_encoder *const *all = sf_base64_encoders(&encoders);
    for (size_t i = 0; i < encoders; i++) {
        memset(out, 0, skew + length);
        all[i]->encode(out + skew, in, count);
        REQUIRE(memcmp(out + skew, wanted, length) == 0);
    }
    free(in - skew), free(out), free(wanted);
    return 0;
}
