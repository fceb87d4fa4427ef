#ifndef FUZZ_H
#define FUZZ_H
/*
 * What the fuzz targets have in common.  A target without libFuzzer runs the files it is given: see replay.c.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A failed check ends the process, as a sanitizer's report does. */
#define REQUIRE(what)                                                          \
    do {                                                                       \
        if (!(what)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
            abort();                                                           \
        }                                                                      \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A copy in an allocation of exactly that size, so that AddressSanitizer sees every byte too many. */
static inline void *exact(const void *bytes, size_t size)
{
    void *copy = malloc(size);
    if (size != 0)
        memcpy(copy, bytes, size);
    return copy;
}

static inline void *zeros(size_t size) { return calloc(1, size); }

/* Has the compiler read what leads to `value`. */
static inline void keep(uint64_t value) { __asm__ volatile("" : : "r"(value)); }
#endif
