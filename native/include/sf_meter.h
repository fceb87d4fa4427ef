#ifndef SF_METER_H
#define SF_METER_H
/*
 * Where the time of a measured run goes: one histogram for each stage, and for each lane the moments at which its
 * records were due.
 *
 *      due ──waiting──▶ submitted ──queueing──▶ claimed ──building──▶ called ──handler──▶ finished ──completion──▶ reaped
 *       └───────────────────────────────── latency ──────────────────────────────────────────┘
 *
 * `latency` and `waiting` are counted for each record, from the moment it was due: a stall is charged to every record that
 * had to wait behind it, whether or not it was released in time (coordinated omission).  The other stages are counted once
 * for each invocation that ran, failed ones among them; `building` and `handler` where the worker stamped the call
 * (sf_desk_called), `handler` without that stamp holds both.  A lane without due times is a closed loop: its records count
 * as due when they are submitted, and `waiting` stays empty.
 *
 * Due times   A lane finishes its records in the order in which they were offered, so a queue is enough: an answer that is
 *             certain success takes as many as the batch had from its front, and what is decided otherwise (a response that
 *             is judged, a discard, a gap) is passed by position.
 * Ownership   A meter owns its histograms.  Whoever reaps is the only one who calls anything here: no atomics, no locks.
 * Memory      A meter takes 1.7 MB, a queue 8 bytes a record that is offered and not done.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sf_histogram.h"

/* cdef: begin */
/* The stages, as indices. */
enum {
    SF_LATENCY = 0,
    SF_WAITING = 1,
    SF_QUEUEING = 2,
    SF_BUILDING = 3,
    SF_HANDLER = 4,
    SF_COMPLETION = 5,
    SF_STAGES = 6
};

typedef struct sf_meter sf_meter;
typedef struct sf_due sf_due;

sf_meter *sf_meter_new(void);
void sf_meter_free(sf_meter *meter);
/* The histogram of a stage, for as long as the meter lives. */
sf_histogram *sf_meter_stage(sf_meter *meter, uint32_t stage);
/* From now on only records that were due at `from_ns` (CLOCK_MONOTONIC) or later are counted, and invocations that were
   submitted then or later: what came before is warm-up. */
void sf_meter_count_from(sf_meter *meter, uint64_t from_ns);

sf_due *sf_due_new(void);
void sf_due_free(sf_due *due);
/* The `count` records from `position` on are due at `due_ns`, which is copied.  Positions between the last one offered and
   `position` are skipped: nothing of them is counted.  False when there is no memory for it. */
bool sf_due_offer(sf_due *due, uint64_t position, const int64_t *due_ns, size_t count);
/* The records below `position` were done by an invocation that was submitted and finished at these moments, both 0 where
   they were given up: then they are counted nowhere. */
void sf_due_pass(sf_due *due, sf_meter *meter, uint64_t position, uint64_t submitted_ns, uint64_t finished_ns);
/* When the first record that is not done was due; INT64_MAX if none is known. */
int64_t sf_due_first(const sf_due *due);
/* cdef: end */

/* What the port calls for an answer: see above.  `called_ns` is 0 where the worker did not stamp it, `due` may be NULL. */
void sf_meter_answer(sf_meter *meter, sf_due *due, bool certain, uint32_t records, uint64_t submitted_ns, uint64_t started_ns,
                     uint64_t called_ns, uint64_t finished_ns, uint64_t now_ns);
#endif
