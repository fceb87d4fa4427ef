/*
 * HDR bucket arithmetic for HdrHistogram(1, 2^42, 3).
 *
 * Three significant figures need 2048 linear sub-buckets.  Bucket 0 has all of them, each later one doubles the width and
 * uses the upper 1024 only, so bucket b of the counts array starts at (b + 1) * 1024 minus the half it does not have.
 */
#include "sf_histogram.h"

#include <string.h>
#include <sys/mman.h>

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

/*
 * Pages of its own, zeros until something is recorded there: a latency falls into a page or two of the 68.  What calloc
 * takes from a heap that was used before has to be filled with zeros, so it would be in memory as a whole, and there are
 * seven histograms for each mapping.
 */
sf_histogram *sf_histogram_new(void)
{
    void *pages = mmap(NULL, sizeof(sf_histogram), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return NULL;
    madvise(pages, sizeof(sf_histogram), MADV_NOHUGEPAGE); /* a neighbour's pages are not to come along */
    return pages;
}

void sf_histogram_free(sf_histogram *histogram)
{
    if (histogram != NULL)
        munmap(histogram, sizeof(sf_histogram));
}

/* How far the values of a bucket are apart, as a power of two: the inverse of index_of, first half. */
static uint32_t bucket_of(uint32_t index)
{
    uint32_t halves = index >> HALF_MAGNITUDE;
    return halves == 0 ? 0 : halves - 1;
}

static uint64_t lowest(uint32_t index)
{
    uint64_t sub_bucket = index < HALF_COUNT ? index : (index & (HALF_COUNT - 1)) + HALF_COUNT;
    return sub_bucket << bucket_of(index);
}

static uint64_t highest(uint32_t index)
{
    return lowest(index) + (UINT64_C(1) << bucket_of(index)) - 1;
}

static inline void record(sf_histogram *histogram, uint64_t value_ns, uint64_t times)
{
    uint64_t value = value_ns < HIGHEST ? value_ns : HIGHEST;
    uint32_t index = index_of(value);
    SF_ASSERT(index < COUNTS);
    histogram->counts[index] += (int64_t)times;
    histogram->total += times;
    histogram->whole_ms += (value + 999999) / 1000000 * times;
    if (value > histogram->max)
        histogram->max = value;
}

void sf_histogram_record(sf_histogram *histogram, uint64_t value_ns)
{
    record(histogram, value_ns, 1);
}

void sf_histogram_record_times(sf_histogram *histogram, uint64_t value_ns, uint64_t times)
{
    if (times > 0)
        record(histogram, value_ns, times);
}

void sf_histogram_record_each(sf_histogram *histogram, const uint64_t *values_ns, size_t count)
{
    for (size_t i = 0; i < count; i++)
        record(histogram, values_ns[i], 1);
}

void sf_histogram_add(sf_histogram *histogram, const sf_histogram *other)
{
    for (uint32_t i = 0; i < COUNTS; i++)
        histogram->counts[i] += other->counts[i];
    histogram->total += other->total;
    histogram->whole_ms += other->whole_ms;
    if (other->max > histogram->max)
        histogram->max = other->max;
}

void sf_histogram_advance(sf_histogram *histogram, const sf_histogram *now, sf_histogram *before)
{
    uint32_t last = 0;
    if (now->total == before->total)
        return;
    for (uint32_t i = 0; i < COUNTS; i++) {
        int64_t more = now->counts[i] - before->counts[i];
        SF_ASSERT(more >= 0);
        if (more > 0) { /* where nothing was counted nothing is written: those pages are never there */
            histogram->counts[i] += more;
            before->counts[i] = now->counts[i];
            last = i;
        }
    }
    uint64_t max = highest(last) < now->max ? highest(last) : now->max;
    if (max > histogram->max)
        histogram->max = max;
    histogram->total += now->total - before->total;
    histogram->whole_ms += now->whole_ms - before->whole_ms;
    before->total = now->total;
    before->whole_ms = now->whole_ms;
    before->max = now->max;
}

void sf_histogram_clear(sf_histogram *histogram)
{
    if (histogram->total > 0)
        memset(histogram->counts, 0, sizeof histogram->counts);
    histogram->total = histogram->max = histogram->whole_ms = 0;
}

uint64_t sf_histogram_percentile(const sf_histogram *histogram, double percentile)
{
    double wanted = (percentile < 100.0 ? percentile : 100.0) * (double)histogram->total / 100.0 + 0.5;
    int64_t rank = wanted < 1.0 ? 1 : (int64_t)wanted;
    int64_t seen = 0;
    for (uint32_t i = 0; i < COUNTS; i++) {
        seen += histogram->counts[i];
        if (seen >= rank)
            return percentile > 0.0 ? highest(i) : lowest(i);
    }
    return 0;
}

void sf_histogram_cumulate(const sf_histogram *histogram, const uint64_t *values_ns, uint32_t len, uint64_t *counts)
{
    uint32_t i = 0;
    uint64_t seen = 0;
    for (uint32_t at = 0; at < len; at++) {
        uint32_t last = index_of(values_ns[at] < HIGHEST ? values_ns[at] : HIGHEST);
        for (; i <= last; i++)
            seen += (uint64_t)histogram->counts[i];
        counts[at] = seen;
    }
}

double sf_histogram_mean(const sf_histogram *histogram)
{
    unsigned __int128 sum = 0; /* 2^42 ns, 2^22 times, would fill 64 bits */
    for (uint32_t i = 0; i < COUNTS; i++) {
        uint64_t middle = lowest(i) + ((UINT64_C(1) << bucket_of(i)) >> 1);
        sum += (unsigned __int128)middle * (uint64_t)histogram->counts[i];
    }
    return histogram->total == 0 ? 0.0 : (double)sum / (double)histogram->total;
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
