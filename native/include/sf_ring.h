#ifndef SF_RING_H
#define SF_RING_H
/*
 * One pair of rings between the runtime and one worker, shaped like io_uring, in one sealed memfd.
 *
 * Roles        The runtime holds a *port*, the worker a *desk*.  A port is used by one thread at a time
 *              (the Trio thread), a desk by the worker's main thread.  The submission ring has one
 *              producer (port) and one consumer (desk), the completion ring the reverse.
 *
 * Pairing      The desk takes submissions in order and answers every one of them with exactly one
 *              completion, in the same order: run, skipped, revoked and retired entries alike.  So a
 *              completion's identity is its position: the port keeps its own, private copy of what it
 *              submitted (the shadow) and believes nothing about identity that a worker can write.
 *
 * Capacity     At most `capacity` (a power of two) entries are submitted and not yet released, so neither
 *              ring can overflow and neither side ever waits for room.
 *
 * Lanes        Every invocation names a lane slot (0 .. capacity - 1, chosen by the runtime for as long as
 *              the lane has anything in flight on this worker) and an epoch of that slot, which only grows.
 *              After an outcome that is not a certain success the desk remembers the epoch as failed, and
 *              answers every later entry of that slot and epoch (or an older one) with SF_SKIPPED.
 *
 * Claim        Each submission has a state word.  The desk claims it (READY -> CLAIMED) before it starts it;
 *              the port revokes it (READY -> REVOKED).  Exactly one of the two wins, so a revoked entry has
 *              not run and never will, and a crash is charged to the claimed entry alone.  The port revokes the newest
 *              entry first: as the desk claims the oldest first, what of a lane still runs is a prefix.  An entry that the
 *              desk skips it revokes itself, so that a worker killed just there is not charged with it.  A revocation
 *              does not fail the epoch.
 *
 * Memory ordering
 *   submit:  entry, extent, state = READY     plain stores, state RELAXED
 *            sq_tail += n                     RELEASE  (A)
 *   next:    load sq_tail                     ACQUIRE  (B)   B reads A => entry and extents are visible
 *            CAS state READY -> CLAIMED       ACQ_REL  (C)   to skip: READY -> REVOKED
 *   revoke:  CAS state READY -> REVOKED       ACQ_REL  (D)
 *   finish:  completion, reply                plain stores
 *            sq_head += 1                     RELEASE
 *            cq_tail += 1                     RELEASE  (E)
 *   reap:    load cq_tail                     ACQUIRE  (F)   F reads E => completion and reply are visible
 *   release: cq_head += n                     RELEASE  (G)   the reply slots and side file are the desk's again
 *   finish:  load cq_head                     ACQUIRE  (H)   H reads G before bytes of the side file are reused
 *
 *   Sleeping, both ways (a store, a load of the other's word, and nothing may pass between: SEQ_CST fences,
 *   needed on x86 too):
 *   worker:  worker_sleeps = 1; FENCE; re-check sq_tail; futex wait       runtime: (A); FENCE; worker_sleeps? wake
 *   runtime: runtime_sleeps = w + 1; FENCE; re-check cq_tail; wait        worker:  (E); FENCE; runtime_sleeps? ring
 *
 *   The runtime's word carries a low-water mark w: the worker rings the eventfd only when at most w submissions
 *   are left to it, or the completion is not a plain success (SF_OK and nothing printed).  So a deep backlog costs one
 *   wake-up for many batches.  The runtime's re-check asks the same question: an answer the worker would not have rung for
 *   does not keep it awake.  The worker takes the word down (exchange to 0) when it rings: one write per sleep.
 *
 * Hostility    A handler can write anywhere in the memfd.  The port masks every index, copies every completion once
 *              before it looks at it, checks lengths against the slot, and treats a cq_tail that is out of bounds, or
 *              an outcome that the entry cannot have, as a broken worker (SF_BROKEN), to be killed: a batch that ran
 *              although it was revoked, or although one before it of its lane and epoch failed or was skipped, too; so
 *              the port's owner may rely on that order.  SF_SKIPPED without such a cause is believed, and the last thing
 *              that is: the worker could not begin it, and goes away.  The port never reads
 *              submissions back, except the state word, and revokes a suffix of what a lane has in flight whatever those
 *              words say.  Stamps are forced into submitted <= started <= finished <= now,
 *              and a log_end that goes back (the handler cut its log file) counts as unchanged; it may still lie past the
 *              file's end.
 *
 * Doorbell     Before the desk writes to the eventfd it checks with fstat that the descriptor still is the one it was
 *              given (device, inode, mode); a handler may have closed every descriptor and opened a file in its place.
 *              If it is not, or the log or side descriptor is not, the desk says so (false, SF_NEXT_LOST) and the worker
 *              must exit.  An answer given at that moment stands, unless its payload had to go to the lost side file.
 *              Each worker has an eventfd of its own, which the runtime neither reads nor writes: what a handler does to it
 *              (it may fill it, empty it, or make it block) costs its worker the wake-ups, and nobody else anything.
 *              All eventfds share one inode: one that took the doorbell's number would be counted up by one, and the
 *              runtime would find the answer at its next look.
 *
 * Side file    Payloads over SF_REPLY_BYTES.  The desk writes where no unreleased payload lies: at the start if that is
 *              free, else behind the newest, else behind all.  When none is unreleased it gives what is past 8 MiB back to
 *              the system, so neither a burst nor a runtime that is always a little behind makes the file grow for ever.
 *
 * Arena        The port's alone: spans are taken in a circle, each contiguous, and come back with the entry's release.  An
 *              empty arena starts anew, so a batch of arena_bytes always fits it.  A batch has one span at most: its extents,
 *              if it has more than one, and behind them its selection, if it has any (sf_extent.h), as uint32.
 *
 * Fork         The mapping is MADV_DONTFORK on both sides: children of a handler, or of the runtime, cannot touch the rings.
 *
 * Layout       One cache line pair (128 bytes) per writer.  Bump SF_RING_ABI when any of it moves.
 *      0  abi:u32 capacity:u32 arena_bytes:u64          written once, before sharing
 *    128  sq_tail:u64                                   runtime
 *    256  sq_head:u64                                   worker
 *    384  worker_sleeps:u32                             futex word
 *    512  cq_tail:u64                                   worker
 *    640  cq_head:u64                                   runtime
 *    768  runtime_sleeps:u32
 *    896  running_started_ns:u64                        worker; 0 when nothing runs
 *   4096  submissions   capacity x  64
 *         extents       capacity x 128                  the one extent of a batch, beside its entry
 *         completions   capacity x  64
 *         replies       capacity x 256                  short responses, beside their completion
 *         arena         arena_bytes                     extents of batches that have more than one, and row numbers
 *
 * Crashes      A worker killed before (E) has answered nothing: the port sees the entry CLAIMED, or READY and free to
 *              be handed to another.  A runtime that dies leaves nothing: the memfd goes with the last mapping.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sf_extent.h"
#include "sf_histogram.h"
#include "sf_meter.h"

/* cdef: begin */
enum { SF_RING_ABI = 3, SF_REPLY_BYTES = 256 };

/* What a completion says. */
enum {
    SF_OK = 0,       /* the handler returned and its response was marshalled: certain success */
    SF_ERROR = 1,    /* the payload is the error document */
    SF_SKIPPED = 2,  /* not run: an earlier batch of the lane's epoch was not a certain success */
    SF_REVOKED = 3,  /* not run: the port had revoked it */
    SF_RETIRED = 4,  /* a retire entry: the segment's mapping is gone */
    SF_BROKEN = 5,   /* never in a ring: what sf_port_reap reports when the worker broke the protocol */
    SF_PARTLY = 6    /* the handler returned, but what it returned, the payload, is no certain success: the port's owner judges */
};

/* What sf_desk_next returns. */
enum {
    SF_NEXT_INVOKE = 0, /* `work` describes a claimed batch, all of whose extents are runs of rows */
    SF_NEXT_RETIRE = 1, /* drop the mapping of work->segment_id, then sf_desk_retired */
    SF_NEXT_AGAIN = 2,  /* nothing within the slice, or a signal: run Python's handlers and call again */
    SF_NEXT_LOST = 3,   /* the rings' descriptors are not ours any more: exit */
    SF_NEXT_SELECTED = 4 /* as SF_NEXT_INVOKE, and the batch has selected rows */
};

typedef struct sf_port sf_port;
typedef struct sf_desk sf_desk;

/* What the desk was given: addresses are valid until sf_desk_finish. */
typedef struct sf_work {
    uint64_t invocation;    /* the number in the request id */
    uint64_t submitted_ns;  /* CLOCK_MONOTONIC */
    uint64_t started_ns;    /* CLOCK_MONOTONIC, stamped by sf_desk_next when it claimed */
    uint64_t segment_id;    /* of a retire entry */
    uintptr_t extents;      /* address of `extent_count` sf_extent */
    uint32_t extent_count;
    uint32_t records;
    uintptr_t selection;    /* address of `selected` row numbers (uint32), those of its SF_SELECTED extents */
    uint64_t selected;
} sf_work;

/* One answer, or a run of plain successes of one lane and epoch folded into one. */
typedef struct sf_reaped {
    uint32_t outcome;
    uint32_t lane;
    uint32_t epoch;
    uint32_t batches;          /* > 1 only for SF_OK; 0 for SF_RETIRED and SF_BROKEN, whose lane is UINT32_MAX */
    uint64_t records;          /* in all of them */
    uint64_t first_invocation; /* folded ones need not be consecutive numbers; of a retire entry: the segment id */
    uint64_t submitted_ns;     /* of the last one, as are the stamps below */
    uint64_t started_ns;       /* 0, as is finished_ns, of what did not run */
    uint64_t finished_ns;
    uint64_t log_end;          /* size of the log file after it: bytes the worker has ever written there */
    uint64_t side_offset;      /* where a long payload lies in the side file */
    uint32_t payload_bytes;    /* of the last one */
    uint32_t payload_inline;   /* 1: in `payload`; 0: in the side file */
    uint32_t printed;          /* 1 if log_end moved */
    uint32_t reserved;
    char payload[256];
} sf_reaped;

/* ---- the runtime's side: a port ---- */

/* Bytes a memfd needs for these rings. */
size_t sf_ring_bytes(uint32_t capacity, uint64_t arena_bytes);
/* Maps `memfd`, which must be sf_ring_bytes long, zero and sealed against resizing (F_SEAL_SHRINK and F_SEAL_GROW), takes
   its memory and writes the header.  `capacity` is a power of two up to 65536.  Does not keep the descriptor.  NULL with
   errno set (EINVAL; ENOMEM, ENOSPC: no memory for it). */
sf_port *sf_port_open(int memfd, uint32_t capacity, uint64_t arena_bytes);
void sf_port_close(sf_port *port);

/* Entries that can be submitted now. */
uint32_t sf_port_room(const sf_port *port);
/* Entries submitted and not answered yet. */
uint32_t sf_port_in_flight(const sf_port *port);

/* Submits up to `batches` batches of `rows_per_batch` rows each, the first of them at `first` (whose `rows` is ignored),
   each following the one before in the same message; as many as there is room for.  Invocation numbers count up from
   `first_invocation`.  Returns how many.  Nothing is visible to the worker before sf_port_publish.  The histograms may be
   NULL; otherwise they must live until the entry is reaped, or the port closed. */
uint32_t sf_port_submit_run(sf_port *port, uint32_t lane, uint32_t epoch, const sf_extent *first, uint32_t rows_per_batch,
                            uint32_t batches, uint64_t first_invocation, uint64_t now_ns, sf_histogram *latency,
                            sf_histogram *duration);
/* The same of selected rows of one message: each batch has the next `rows_per_batch` numbers of `rows`, which ascend and are enough
   for all.  Of `message` the segment, the columns and first_offset are used, which is the shard offset of the message's row 0.
   What `rows` holds is copied.  Fewer than there is room for in the ring are submitted when the arena is full; batches of
   consecutive rows need none. */
uint32_t sf_port_submit_rows(sf_port *port, uint32_t lane, uint32_t epoch, const sf_extent *message, const uint32_t *rows,
                             uint32_t rows_per_batch, uint32_t batches, uint64_t first_invocation, uint64_t now_ns,
                             sf_histogram *latency, sf_histogram *duration);
/* Submits one batch of `extent_count` >= 1 extents, whose selection is the `selected` numbers at `selection`: as many as its
   SF_SELECTED extents have rows; NULL and 0 where there are none.  All of it is copied.  False, and nothing changed, when the
   ring or the arena has no room for it; of one extent alone, without a selection, it needs no arena. */
bool sf_port_submit(sf_port *port, uint32_t lane, uint32_t epoch, const sf_extent *extents, uint32_t extent_count,
                    const uint32_t *selection, uint32_t selected, uint64_t invocation, uint64_t now_ns,
                    sf_histogram *latency, sf_histogram *duration);
/* From now on the answers of `lane` are counted in the meter, and its due times, if it has any (NULL: a closed loop), taken from
   the queue; NULL for the meter ends that.  Both must live until then, or the port is closed.  A lane is given up with nothing
   measured: whoever sits down in the slot next asks anew.  False without memory: nothing is measured. */
bool sf_port_measure(sf_port *port, uint32_t lane, sf_meter *meter, sf_due *due);
/* Asks the worker to unmap a segment.  False when the ring is full. */
bool sf_port_retire(sf_port *port, uint64_t segment_id);
/* Makes what was submitted visible, and wakes the worker if it sleeps. */
void sf_port_publish(sf_port *port);
/* Revokes every entry of `lane` that is not claimed (all lanes for UINT32_MAX), retire entries apart.  Returns how many;
   each is still answered by a completion (SF_REVOKED) if the worker lives. */
uint32_t sf_port_revoke(sf_port *port, uint32_t lane);

/* Revokes what `lane` has outstanding, and if nothing of it has been claimed, gives it up: returns how many entries that are, none
   of which will run or be reaped, and the slot is free for another lane at once.  0, and only revoked, if one was claimed. */
uint32_t sf_port_withdraw(sf_port *port, uint32_t lane);

/* Copies up to `capacity` answers to `out`, folding plain successes (SF_OK, same lane and epoch, nothing printed) if `fold`.
   Latencies (finished - submitted) and durations (finished - started) of invocations that ran are recorded in the histograms
   named at submission.  Returns how many were written to `out`; fewer than `capacity`: that was all.  Their side payloads
   stay readable until sf_port_release, which must follow.  SF_BROKEN comes once, after what could be believed; then 0. */
uint32_t sf_port_reap(sf_port *port, sf_reaped *out, uint32_t capacity, bool fold);
/* Gives the slots of everything reaped back to the worker. */
void sf_port_release(sf_port *port);
/* After the worker's end, and after the last reap (one that returned fewer than its capacity): what is left, in order.
   Returns 0 when nothing is; otherwise fills lane, epoch, batches, records, first_invocation, submitted_ns and started_ns
   of the next unanswered entry and sets outcome to SF_ERROR if it was claimed, SF_SKIPPED if not (SF_RETIRED for a retire
   entry).  At most the first can be SF_ERROR: a worker runs one at a time and answers in order. */
uint32_t sf_port_orphan(sf_port *port, sf_reaped *out);

/* Before the runtime sleeps: raises the word with the low-water mark.  True, and the word is down again, if something worth
   waking for is already there (then do not sleep): at most `low_water` submissions unanswered, or an answer that is not a
   plain success.  Plain successes above the mark may lie unreaped meanwhile: bound the sleep while anything is in flight. */
bool sf_port_arm(sf_port *port, uint32_t low_water);
void sf_port_disarm(sf_port *port);
/* When the running invocation was started, by the worker's own word; 0 if nothing runs, or the word is of a time before the oldest
   unanswered entry was submitted. */
uint64_t sf_port_running_since(const sf_port *port);

/* ---- the worker's side: a desk ---- */

/* Maps the rings.  `doorbell` is an eventfd that the runtime waits for, `log_fd` the file that fds 1 and 2 append to (-1: none, as with a
   terminal), `side_fd` the file for long payloads.  Uses all three from here on, makes them close-on-exec and never closes
   them; `memfd` may be closed.  The doorbell must be non-blocking.  NULL with errno set. */
sf_desk *sf_desk_open(int memfd, int doorbell, int log_fd, int side_fd);
/* Notes how the process is before any handler has run: its limits, its signal mask, `control`, which is another descriptor that
   has to stay what it is.  From here on it is looked at again behind an answer, but at most every 500 us; where a limit has
   been lowered, the mask changed or the descriptor lost, sf_desk_finish says false.  False if `control` is none. */
bool sf_desk_watch(sf_desk *desk, int control);
/* Waits at most `slice_ns` for the next entry to run, answering skipped and revoked ones on the way.  SF_NEXT_LOST if the
   entry it gave last has not been answered. */
int sf_desk_next(sf_desk *desk, sf_work *work, uint64_t slice_ns);
/* Stamps that the handler is called now; otherwise nobody knows where building the event ended. */
void sf_desk_called(sf_desk *desk);
/* Answers the claimed entry.  `outcome` is SF_OK, SF_ERROR or SF_PARTLY; a payload over SF_REPLY_BYTES goes through the side file.
   False: the descriptors are lost, the process is not what it was, or nothing is claimed (exit).  ENOSPC and the like on the side file count as lost. */
bool sf_desk_finish(sf_desk *desk, uint32_t outcome, const char *payload, size_t payload_bytes);
/* Answers the claimed retire entry.  False as with sf_desk_finish. */
bool sf_desk_retired(sf_desk *desk);
/* Gives the claimed batch back as SF_SKIPPED: what it needs did not come, and nothing of it has run.  False as with
   sf_desk_finish.  The worker must exit then, or it would go on with the lane's next batch. */
bool sf_desk_return(sf_desk *desk);
/* Appends to the log file, whatever fds 1 and 2 have become.  False, and nothing written, if its descriptor is not ours any
   more, or there is none; what a full disk or a limit cuts off is lost. */
bool sf_desk_log(const sf_desk *desk, const char *text, size_t bytes);
/* Unmaps the rings; the descriptors stay open.  A worker need not: it exits. */
void sf_desk_close(sf_desk *desk);
/* cdef: end */
#endif
