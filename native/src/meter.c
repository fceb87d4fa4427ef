/*
 * Stages of a measured run.  The contract is sf_meter.h.
 */
#include "sf_meter.h"

#include <stdlib.h>
#include <string.h>

#include "sf_assert.h"

struct sf_meter {
    sf_histogram *stages[SF_STAGES];
    uint64_t from_ns;
};

/* A ring of due times: those of the positions `first` .. `end`, the first of them at `at`. */
struct sf_due {
    int64_t *ring;
    size_t capacity; /* a power of two, or 0 */
    size_t at;
    uint64_t first;
    uint64_t end;
};

enum { DUE_CAPACITY_FIRST = 1024 };

sf_meter *sf_meter_new(void)
{
    sf_meter *meter = calloc(1, sizeof(sf_meter));
    if (meter == NULL)
        return NULL;
    for (uint32_t stage = 0; stage < SF_STAGES; stage++) {
        meter->stages[stage] = sf_histogram_new();
        if (meter->stages[stage] == NULL) {
            sf_meter_free(meter);
            return NULL;
        }
    }
    return meter;
}

void sf_meter_free(sf_meter *meter)
{
    if (meter == NULL)
        return;
    for (uint32_t stage = 0; stage < SF_STAGES; stage++)
        sf_histogram_free(meter->stages[stage]);
    free(meter);
}

sf_histogram *sf_meter_stage(sf_meter *meter, uint32_t stage)
{
    SF_ASSERT(stage < SF_STAGES);
    return meter->stages[stage];
}

void sf_meter_count_from(sf_meter *meter, uint64_t from_ns)
{
    meter->from_ns = from_ns;
}

sf_due *sf_due_new(void)
{
    return calloc(1, sizeof(sf_due));
}

void sf_due_free(sf_due *due)
{
    if (due == NULL)
        return;
    free(due->ring);
    free(due);
}

/* Makes room for `count` more.  False without memory, and nothing changed. */
static bool grow(sf_due *due, size_t count)
{
    size_t held = (size_t)(due->end - due->first);
    size_t capacity = due->capacity != 0 ? due->capacity : DUE_CAPACITY_FIRST;
    if (count > SIZE_MAX / 4 / sizeof(int64_t) - held)
        return false;
    while (capacity < held + count)
        capacity *= 2;
    if (capacity == due->capacity)
        return true;
    int64_t *ring = malloc(capacity * sizeof *ring);
    if (ring == NULL)
        return false;
    for (size_t i = 0; i < held; i++)
        ring[i] = due->ring[(due->at + i) & (due->capacity - 1)];
    free(due->ring);
    due->ring = ring;
    due->capacity = capacity;
    due->at = 0;
    return true;
}

static void put(sf_due *due, int64_t due_ns)
{
    due->ring[(due->at + (size_t)(due->end - due->first)) & (due->capacity - 1)] = due_ns;
    due->end += 1;
}

bool sf_due_offer(sf_due *due, uint64_t position, const int64_t *due_ns, size_t count)
{
    bool is_empty = due->first == due->end;
    SF_ASSERT(position >= due->end || is_empty);
    uint64_t skipped = is_empty ? 0 : position - due->end;
    if (skipped > SIZE_MAX / 4 || !grow(due, (size_t)skipped + count))
        return false;
    if (is_empty)
        due->first = due->end = position;
    while (skipped-- != 0)
        put(due, INT64_MAX);
    for (size_t i = 0; i < count; i++)
        put(due, due_ns[i]);
    return true;
}

/* The records below `position` leave the front; those that ran are counted. */
void sf_due_pass(sf_due *due, sf_meter *meter, uint64_t position, uint64_t submitted_ns, uint64_t finished_ns)
{
    uint64_t end = position < due->end ? position : due->end;
    while (due->first < end) {
        int64_t at_ns = due->ring[due->at];
        due->at = (due->at + 1) & (due->capacity - 1);
        due->first += 1;
        if (finished_ns == 0 || at_ns == INT64_MAX || (at_ns >= 0 && (uint64_t)at_ns < meter->from_ns))
            continue;
        uint64_t due_ns = at_ns < 0 ? 0 : (uint64_t)at_ns;
        sf_histogram_record(meter->stages[SF_LATENCY], finished_ns > due_ns ? finished_ns - due_ns : 0);
        sf_histogram_record(meter->stages[SF_WAITING], submitted_ns > due_ns ? submitted_ns - due_ns : 0);
    }
    if (due->first == due->end && position > due->end)
        due->first = due->end = position;
}

int64_t sf_due_first(const sf_due *due)
{
    return due->first == due->end ? INT64_MAX : due->ring[due->at];
}

void sf_meter_answer(sf_meter *meter, sf_due *due, bool certain, uint32_t records, uint64_t submitted_ns, uint64_t started_ns,
                     uint64_t called_ns, uint64_t finished_ns, uint64_t now_ns)
{
    if (certain && due != NULL)
        sf_due_pass(due, meter, due->first + records, submitted_ns, finished_ns);
    if (submitted_ns < meter->from_ns)
        return;
    if (certain && due == NULL)
        sf_histogram_record_times(meter->stages[SF_LATENCY], finished_ns - submitted_ns, records);
    sf_histogram_record(meter->stages[SF_QUEUEING], started_ns - submitted_ns);
    if (called_ns != 0)
        sf_histogram_record(meter->stages[SF_BUILDING], called_ns - started_ns);
    sf_histogram_record(meter->stages[SF_HANDLER], finished_ns - (called_ns != 0 ? called_ns : started_ns));
    sf_histogram_record(meter->stages[SF_COMPLETION], now_ns > finished_ns ? now_ns - finished_ns : 0);
}
