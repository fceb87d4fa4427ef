/*
 * CRC32C.  The machine's instruction takes 8 bytes in a cycle but answers only three cycles later, so three
 * independent streams run side by side over neighbouring blocks and are joined afterwards: the CRC of A
 * followed by B is the CRC of A moved over len(B) zero bytes, xor the CRC of B.  Moving over a fixed number
 * of zeros is linear in the CRC, hence four table look-ups.
 *
 * The joining follows Mark Adler's well-known description of the method.
 */
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "sf_log.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <sys/auxv.h>
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif
#endif

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the log is little-endian, and so must be the machine");

enum {
    POLYNOMIAL = 0x82f63b78, /* reflected */
    LONG_BLOCK = 4096,       /* three of them at a time in large messages */
    SHORT_BLOCK = 256        /* and then three of these */
};

typedef uint32_t sf_crc_shift[4][256];

static uint32_t byte_table[8][256];
static sf_crc_shift long_shift, short_shift;
static bool have_instruction;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill_byte_table(void) {
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t crc = n;
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >> 1) ^ (uint32_t)POLYNOMIAL : crc >> 1;
        byte_table[0][n] = crc;
    }
    for (uint32_t n = 0; n < 256; n++)
        for (int k = 1; k < 8; k++)
            byte_table[k][n] = byte_table[0][byte_table[k - 1][n] & 0xff] ^ (byte_table[k - 1][n] >> 8);
}

/* What moving over `length` zero bytes does to each value of each byte of a CRC. */
static void fill_shift(sf_crc_shift shift, size_t length) {
    uint32_t moved[32]; /* where each single bit goes; everything else is a sum of these */
    for (int bit = 0; bit < 32; bit++) {
        uint32_t crc = (uint32_t)1 << bit;
        for (size_t i = 0; i < length; i++) crc = (crc >> 8) ^ byte_table[0][crc & 0xff];
        moved[bit] = crc;
    }
    for (int k = 0; k < 4; k++) {
        for (uint32_t n = 0; n < 256; n++) {
            uint32_t sum = 0;
            for (int bit = 0; bit < 8; bit++)
                if (n >> bit & 1) sum ^= moved[8 * k + bit];
            shift[k][n] = sum;
        }
    }
}

static void prepare(void) {
    fill_byte_table();
    fill_shift(long_shift, LONG_BLOCK);
    fill_shift(short_shift, SHORT_BLOCK);
#if defined(__x86_64__)
    __builtin_cpu_init();
    have_instruction = __builtin_cpu_supports("sse4.2");
#elif defined(__aarch64__)
    have_instruction = (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#endif
}

static inline uint64_t load64(const uint8_t *bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* Eight bytes a round by table, for machines without the instruction. */
static uint32_t by_table(uint32_t crc, const uint8_t *bytes, size_t length) {
    for (; length >= 8; bytes += 8, length -= 8) {
        uint64_t word = load64(bytes) ^ crc;
        crc = byte_table[7][word & 0xff] ^ byte_table[6][word >> 8 & 0xff] ^ byte_table[5][word >> 16 & 0xff] ^
              byte_table[4][word >> 24 & 0xff] ^ byte_table[3][word >> 32 & 0xff] ^
              byte_table[2][word >> 40 & 0xff] ^ byte_table[1][word >> 48 & 0xff] ^ byte_table[0][word >> 56];
    }
    while (length--) crc = (crc >> 8) ^ byte_table[0][(crc ^ *bytes++) & 0xff];
    return crc;
}

#if defined(__x86_64__)
#define CRC_TARGET __attribute__((target("sse4.2")))
#define CRC_WORD(crc, word) _mm_crc32_u64(crc, word)
#define CRC_BYTE(crc, byte) _mm_crc32_u8((uint32_t)(crc), byte)
#elif defined(__aarch64__)
#define CRC_TARGET __attribute__((target("+crc")))
#define CRC_WORD(crc, word) __crc32cd((uint32_t)(crc), word)
#define CRC_BYTE(crc, byte) __crc32cb((uint32_t)(crc), byte)
#endif

#ifdef CRC_TARGET
static inline uint32_t move(const sf_crc_shift shift, uint32_t crc) {
    return shift[0][crc & 0xff] ^ shift[1][crc >> 8 & 0xff] ^ shift[2][crc >> 16 & 0xff] ^ shift[3][crc >> 24];
}

/* Three neighbouring blocks of `block` bytes at `bytes`. */
CRC_TARGET static inline uint32_t three(uint64_t crc, const uint8_t *bytes, size_t block, const sf_crc_shift shift) {
    uint64_t second = 0, third = 0;
    for (size_t i = 0; i < block; i += 8) {
        crc = CRC_WORD(crc, load64(bytes + i));
        second = CRC_WORD(second, load64(bytes + block + i));
        third = CRC_WORD(third, load64(bytes + 2 * block + i));
    }
    uint32_t joined = move(shift, (uint32_t)crc) ^ (uint32_t)second;
    return move(shift, joined) ^ (uint32_t)third;
}

CRC_TARGET static uint32_t by_instruction(uint32_t start, const uint8_t *bytes, size_t length) {
    uint64_t crc = start;
    for (; length >= 3 * LONG_BLOCK; bytes += 3 * LONG_BLOCK, length -= 3 * LONG_BLOCK)
        crc = three(crc, bytes, LONG_BLOCK, long_shift);
    for (; length >= 3 * SHORT_BLOCK; bytes += 3 * SHORT_BLOCK, length -= 3 * SHORT_BLOCK)
        crc = three(crc, bytes, SHORT_BLOCK, short_shift);
    for (; length >= 8; bytes += 8, length -= 8) crc = CRC_WORD(crc, load64(bytes));
    while (length--) crc = CRC_BYTE(crc, *bytes++);
    return (uint32_t)crc;
}
#endif

uint32_t sf_crc32c(uint32_t crc, const void *bytes, size_t length) {
    pthread_once(&once, prepare);
#ifdef CRC_TARGET
    if (have_instruction) return ~by_instruction(~crc, bytes, length);
#endif
    return ~by_table(~crc, bytes, length);
}

uint32_t sf_crc32c_by_table(uint32_t crc, const void *bytes, size_t length) {
    pthread_once(&once, prepare);
    return ~by_table(~crc, bytes, length);
}
