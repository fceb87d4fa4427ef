#ifndef SF_HISTOGRAM_H
#define SF_HISTOGRAM_H
/*
 * A latency histogram in the standard HDR bucket layout (lowest discernible value 1, 3 significant figures,
 * highest trackable value 2^42 ns, about 73 minutes), so that the `hdrhistogram` package reads the counts as
 * they stand.  One writer thread; a reader in the same thread.  Values above the highest are recorded as it.
 *
 * What is read out of the counts is computed as that package computes it, so that a figure here, in a `.hgrm` and
 * from a `.hlog` is the same figure: a value at a percentile is the highest of its bucket, and the mean takes every
 * value for the middle of its bucket.
 */
#include <stddef.h>
#include <stdint.h>

/* cdef: begin */
typedef struct sf_histogram sf_histogram;

sf_histogram *sf_histogram_new(void);
void sf_histogram_free(sf_histogram *histogram);
void sf_histogram_record(sf_histogram *histogram, uint64_t value_ns);
/* The same value `times` times. */
void sf_histogram_record_times(sf_histogram *histogram, uint64_t value_ns, uint64_t times);
/* Each of `count` values. */
void sf_histogram_record_each(sf_histogram *histogram, const uint64_t *values_ns, size_t count);

/* All that `other` holds, too. */
void sf_histogram_add(sf_histogram *histogram, const sf_histogram *other);
/* All that `now` has recorded since `before` was like it (an empty one: all of it), too; then `before` is like it.  The
 * largest of these values is known no better than its bucket. */
void sf_histogram_advance(sf_histogram *histogram, const sf_histogram *now, sf_histogram *before);
/* As it was when it was new. */
void sf_histogram_clear(sf_histogram *histogram);

/* Number of counts in the layout, and the counts, in the order of HdrHistogram's own counts array. */
uint32_t sf_histogram_counts_len(const sf_histogram *histogram);
const int64_t *sf_histogram_counts(const sf_histogram *histogram);
uint64_t sf_histogram_total(const sf_histogram *histogram);
uint64_t sf_histogram_max(const sf_histogram *histogram);
/* The value at a percentile (0 to 100); 0 where nothing was recorded. */
uint64_t sf_histogram_percentile(const sf_histogram *histogram, double percentile);
/* For each of `len` values, in ascending order, how many are at most so high, those of its own bucket included. */
void sf_histogram_cumulate(const sf_histogram *histogram, const uint64_t *values_ns, uint32_t len, uint64_t *counts);
double sf_histogram_mean(const sf_histogram *histogram);
/* The sum of all values in milliseconds, each rounded up to a whole one: as durations are billed. */
uint64_t sf_histogram_whole_ms(const sf_histogram *histogram);
/* cdef: end */
#endif
