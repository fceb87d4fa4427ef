#ifndef SF_HISTOGRAM_H
#define SF_HISTOGRAM_H
/*
 * A latency histogram in the standard HDR bucket layout (lowest discernible value 1, 3 significant figures,
 * highest trackable value 2^42 ns, about 73 minutes), so that the `hdrhistogram` package reads the counts as
 * they stand.  One writer thread; a reader in the same thread.  Values above the highest are recorded as it.
 */
#include <stdint.h>

/* cdef: begin */
typedef struct sf_histogram sf_histogram;

sf_histogram *sf_histogram_new(void);
void sf_histogram_free(sf_histogram *histogram);
void sf_histogram_record(sf_histogram *histogram, uint64_t value_ns);
/* Number of counts in the layout, and the counts, in the order of HdrHistogram's own counts array. */
uint32_t sf_histogram_counts_len(const sf_histogram *histogram);
const int64_t *sf_histogram_counts(const sf_histogram *histogram);
uint64_t sf_histogram_total(const sf_histogram *histogram);
uint64_t sf_histogram_max(const sf_histogram *histogram);
/* The sum of all values in milliseconds, each rounded up to a whole one: as durations are billed. */
uint64_t sf_histogram_whole_ms(const sf_histogram *histogram);
/* cdef: end */
#endif
