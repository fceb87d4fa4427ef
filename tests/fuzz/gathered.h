#ifndef GATHERED_H
#define GATHERED_H
/*
 * Messages merged into buffers that have exactly the size that they measure, so that a byte too many is seen.
 */
#include "fuzz.h"
#include "sf_log.h"
#include "sf_rows.h"

struct gathered {
    uint8_t *buffers[3 * SF_COLUMNS_MAX]; /* in the layout's order: validity, offsets, values of each column */
    unsigned used;
};

/* Merges; the caller frees with `free_gathered`. */
static inline struct gathered gather(const uint8_t *base, const sf_message *messages, size_t count,
                                     const sf_layout *layout)
{
    struct gathered made = {.used = 0};
    uint64_t totals[1 + SF_COLUMNS_MAX];
    unsigned texts = 1;
    sf_measure(base, messages, count, totals);
    for (unsigned i = 0; i < layout->columns; i++) {
        if (layout->form[i] & SF_NULLABLE)
            made.buffers[made.used++] = zeros((totals[0] + 7) / 8);
        if (!(layout->form[i] & SF_FIXED))
            made.buffers[made.used++] = zeros(4 * (totals[0] + 1));
        made.buffers[made.used++] = zeros(layout->form[i] & SF_FIXED ? 8 * totals[0] : totals[texts++]);
    }
    sf_gather(base, messages, count, made.buffers);
    return made;
}

static inline void free_gathered(struct gathered *made)
{
    for (unsigned i = 0; i < made->used; i++)
        free(made->buffers[i]);
}
#endif
