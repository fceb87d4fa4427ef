/*
 * HDR bucket arithmetic for HdrHistogram(1, 2^42, 3).
 *
 * Three significant figures need 2048 linear sub-buckets.  Bucket 0 has all of them, each later one doubles the width and
 * uses the upper 1024 only, so bucket b of the counts array starts at (b + 1) * 1024 minus the half it does not have.
 */
#include "sf_histogram.h"

#include <stdlib.h>

#include "sf_assert.h"

enum { HALF_MAGNITUDE = 10, HALF_COUNT = 1 << HALF_MAGNITUDE, BUCKETS = 33, COUNTS = (BUCKETS + 1) * HALF_COUNT };

#define HIGHEST (UINT64_C(1) << 42)
#define SUB_BUCKET_MASK (UINT64_C(2) * HALF_COUNT - 1)

struct sf_histogram {
    uint64_t total;
    uint64_t max;
    uint64_t whole_ms;
    int64_t counts[COUNTS];
};

static uint32_t index_of(uint64_t value)
{
    uint32_t bits = 64 - (uint32_t)__builtin_clzll(value | SUB_BUCKET_MASK);
    uint32_t bucket = bits - (HALF_MAGNITUDE + 1);
    uint32_t sub_bucket = (uint32_t)(value >> bucket);
    return ((bucket + 1) << HALF_MAGNITUDE) + sub_bucket - HALF_COUNT;
}

sf_histogram *sf_histogram_new(void)
{
    return calloc(1, sizeof(sf_histogram));
}

void sf_histogram_free(sf_histogram *histogram)
{
    free(histogram);
}

void sf_histogram_record(sf_histogram *histogram, uint64_t value_ns)
{
    uint64_t value = value_ns < HIGHEST ? value_ns : HIGHEST;
    uint32_t index = index_of(value);
    SF_ASSERT(index < COUNTS);
    histogram->counts[index] += 1;
    histogram->total += 1;
    histogram->whole_ms += value / 1000000 + (value % 1000000 != 0);
    if (value > histogram->max)
        histogram->max = value;
}

uint32_t sf_histogram_counts_len(const sf_histogram *histogram)
{
    (void)histogram;
    return COUNTS;
}

const int64_t *sf_histogram_counts(const sf_histogram *histogram)
{
    return histogram->counts;
}

uint64_t sf_histogram_total(const sf_histogram *histogram)
{
    return histogram->total;
}

uint64_t sf_histogram_max(const sf_histogram *histogram)
{
    return histogram->max;
}

uint64_t sf_histogram_whole_ms(const sf_histogram *histogram)
{
    return histogram->whole_ms;
}
