/*
 * The vector encoders follow the well-known scheme of Wojciech Muła and Alfred Klomp: spread three bytes over four lanes of
 * six bits, then translate each lane to its character by a table held in registers.  Each handles whole vectors and leaves
 * the rest, padding included, to the portable one (AVX-512 has masked loads and stores, and leaves only the padding).
 */
#include "base64.h"

#include <stdbool.h>
#include <string.h>

#include "sf_assert.h"

static const char ALPHABET[65] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void encode_portable(uint8_t *out, const uint8_t *bytes, size_t count) {
    for (; count >= 3; count -= 3, bytes += 3, out += 4) {
        uint32_t group = (uint32_t)bytes[0] << 16 | (uint32_t)bytes[1] << 8 | bytes[2];
        out[0] = (uint8_t)ALPHABET[group >> 18];
        out[1] = (uint8_t)ALPHABET[group >> 12 & 63];
        out[2] = (uint8_t)ALPHABET[group >> 6 & 63];
        out[3] = (uint8_t)ALPHABET[group & 63];
    }
    if (count > 0) {
        uint32_t group = (uint32_t)bytes[0] << 16 | (count == 2 ? (uint32_t)bytes[1] << 8 : 0);
        out[0] = (uint8_t)ALPHABET[group >> 18];
        out[1] = (uint8_t)ALPHABET[group >> 12 & 63];
        out[2] = count == 2 ? (uint8_t)ALPHABET[group >> 6 & 63] : '=';
        out[3] = '=';
    }
}

static const sf_base64_encoder PORTABLE = {"portable", encode_portable};

#if defined(__x86_64__)
#include <immintrin.h>

/* 24 bytes to 32 characters a step; the two loads reach 28 bytes far. */
__attribute__((target("avx2"))) static void encode_avx2(uint8_t *out, const uint8_t *bytes, size_t count) {
    /* Each group of three bytes a b c becomes b a c b, so that two multiplications shift all four lanes into place. */
    const __m256i spread = _mm256_setr_epi8(1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10,
                                            1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10);
    /* What is added to a six-bit value to make its character, by class: see below. */
    const __m256i shift = _mm256_setr_epi8('a' - 26, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52,
                                           '0' - 52, '0' - 52, '0' - 52, '+' - 62, '/' - 63, 'A', 0, 0,
                                           'a' - 26, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52,
                                           '0' - 52, '0' - 52, '0' - 52, '+' - 62, '/' - 63, 'A', 0, 0);
    for (; count >= 28; count -= 24, bytes += 24, out += 32) {
        __m256i in = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)bytes));
        in = _mm256_inserti128_si256(in, _mm_loadu_si128((const __m128i *)(bytes + 12)), 1);
        in = _mm256_shuffle_epi8(in, spread);
        __m256i high = _mm256_mulhi_epu16(_mm256_and_si256(in, _mm256_set1_epi32(0x0fc0fc00)),
                                          _mm256_set1_epi32(0x04000040));
        __m256i low = _mm256_mullo_epi16(_mm256_and_si256(in, _mm256_set1_epi32(0x003f03f0)),
                                         _mm256_set1_epi32(0x01000010));
        __m256i six = _mm256_or_si256(high, low);
        /* Class 0 for a-z, 1..10 for digits, 11 and 12 for the last two, 13 for A-Z. */
        __m256i class = _mm256_subs_epu8(six, _mm256_set1_epi8(51));
        __m256i upper = _mm256_cmpgt_epi8(_mm256_set1_epi8(26), six);
        class = _mm256_or_si256(class, _mm256_and_si256(upper, _mm256_set1_epi8(13)));
        __m256i text = _mm256_add_epi8(six, _mm256_shuffle_epi8(shift, class));
        _mm256_storeu_si256((__m256i *)out, text);
    }
    encode_portable(out, bytes, count);
}

/* 48 bytes to 64 characters a step; masks keep the last step inside both buffers. */
__attribute__((target("avx512f,avx512bw,avx512vbmi"))) static void encode_avx512(uint8_t *out, const uint8_t *bytes,
                                                                                size_t count) {
    static const uint8_t SPREAD[64] = {1,  0,  2,  1,  4,  3,  5,  4,  7,  6,  8,  7,  10, 9,  11, 10,
                                       13, 12, 14, 13, 16, 15, 17, 16, 19, 18, 20, 19, 22, 21, 23, 22,
                                       25, 24, 26, 25, 28, 27, 29, 28, 31, 30, 32, 31, 34, 33, 35, 34,
                                       37, 36, 38, 37, 40, 39, 41, 40, 43, 42, 44, 43, 46, 45, 47, 46};
    const __m512i spread = _mm512_loadu_si512(SPREAD);
    const __m512i table = _mm512_loadu_si512(ALPHABET);
    /* Bit positions of the four six-bit lanes in b a c b. */
    const __m512i lanes = _mm512_set1_epi64(0x3036242a1016040a);
    for (; count >= 48; count -= 48, bytes += 48, out += 64) {
        __m512i in = _mm512_maskz_loadu_epi8(0x0000ffffffffffff, bytes);
        in = _mm512_multishift_epi64_epi8(lanes, _mm512_permutexvar_epi8(spread, in));
        _mm512_storeu_si512(out, _mm512_permutexvar_epi8(in, table));
    }
    if (count == 0) {
        return;
    }
    size_t length = sf_base64_length(count);
    __m512i in = _mm512_maskz_loadu_epi8(~(uint64_t)0 >> (64 - count), bytes);
    in = _mm512_multishift_epi64_epi8(lanes, _mm512_permutexvar_epi8(spread, in));
    _mm512_mask_storeu_epi8(out, ~(uint64_t)0 >> (64 - length), _mm512_permutexvar_epi8(in, table));
    if (count % 3 != 0) {
        out[length - 1] = '=';
        out[length - 2] = count % 3 == 1 ? '=' : out[length - 2];
    }
}

static const sf_base64_encoder AVX2 = {"avx2", encode_avx2};
static const sf_base64_encoder AVX512 = {"avx512", encode_avx512};

#elif defined(__aarch64__)
#include <arm_neon.h>

/* 48 bytes to 64 characters a step: the structured load and store do the spreading. */
static void encode_neon(uint8_t *out, const uint8_t *bytes, size_t count) {
    const uint8_t *alphabet = (const uint8_t *)ALPHABET;
    const uint8x16x4_t table = {{vld1q_u8(alphabet), vld1q_u8(alphabet + 16), vld1q_u8(alphabet + 32),
                                 vld1q_u8(alphabet + 48)}};
    const uint8x16_t six = vdupq_n_u8(63);
    for (; count >= 48; count -= 48, bytes += 48, out += 64) {
        uint8x16x3_t in = vld3q_u8(bytes);
        uint8x16x4_t text;
        text.val[0] = vshrq_n_u8(in.val[0], 2);
        text.val[1] = vandq_u8(vorrq_u8(vshlq_n_u8(in.val[0], 4), vshrq_n_u8(in.val[1], 4)), six);
        text.val[2] = vandq_u8(vorrq_u8(vshlq_n_u8(in.val[1], 2), vshrq_n_u8(in.val[2], 6)), six);
        text.val[3] = vandq_u8(in.val[2], six);
        for (int lane = 0; lane < 4; lane++) {
            text.val[lane] = vqtbl4q_u8(table, text.val[lane]);
        }
        vst4q_u8(out, text);
    }
    encode_portable(out, bytes, count);
}

static const sf_base64_encoder NEON = {"neon", encode_neon};
#endif

const sf_base64_encoder *const *sf_base64_encoders(size_t *count) {
    /* Filled anew by every caller with the same values, so that racing threads do no harm. */
    static const sf_base64_encoder *found[3];
    size_t n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vbmi")) {
        found[n++] = &AVX512;
    }
    if (__builtin_cpu_supports("avx2")) {
        found[n++] = &AVX2;
    }
#elif defined(__aarch64__)
    found[n++] = &NEON; /* every aarch64 has it */
#endif
    found[n++] = &PORTABLE;
    SF_ASSERT(n <= sizeof(found) / sizeof(found[0]));
    *count = n;
    return found;
}
