/*
 * The worker's side of the rings.  The contract is sf_ring.h; the letters mark its memory-ordering edges.
 *
 * A handler runs in this process, so nothing here is safe from it.  What can be checked cheaply is (descriptors, positions,
 * lane numbers), and ends in "lost" instead of a write to somebody else's file or a crash far from its cause.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ring_layout.h"
#include "sf_assert.h"

/* How often a handler's process is looked at.  The look takes 2.4 us, so this is less than a hundredth of the time. */
#define LOOK_EVERY_NS UINT64_C(500000)

/* What the side file keeps once nothing in it is needed: one full response and some. */
#define SIDE_KEEP_BYTES (UINT64_C(8) << 20)
#define SLICE_NS_MAX (UINT64_C(3600) * 1000000000u)

/* A descriptor, and the file it has to be. */
struct guarded {
    int fd;
    dev_t device;
    ino_t inode;
    mode_t mode;
};

/* A long payload that the runtime has not released. */
struct side_span {
    uint64_t index; /* of its completion */
    uint64_t start;
    uint64_t end;
};

/* Limits that later invocations, and the worker itself, would run into. */
static const int watched_limits[] = {RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_STACK, RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_AS, RLIMIT_CPU};
enum { WATCHED_LIMITS = sizeof watched_limits / sizeof watched_limits[0] };

/* How the process was before the first handler ran. */
struct surroundings {
    rlim_t limits[WATCHED_LIMITS];
    sigset_t mask;
    uint64_t looked_ns; /* when it was compared last; 0: not taken down yet */
};

struct sf_desk {
    struct sf_rings rings;
    uint32_t capacity;
    uint32_t mask;
    uint64_t arena_bytes;
    uint64_t head;         /* the next entry to answer; sq_head and cq_tail both follow it */
    uint64_t tail_seen;    /* sq_tail when it was last read */
    uint64_t started_ns;   /* of the claimed entry */
    uint64_t called_ns;    /* of it; 0: not stamped */
    uint64_t log_end;
    uint64_t side_bytes;   /* how far the side file has been written since it was last trimmed */
    uint64_t spans_oldest; /* positions in `spans`, counted on */
    uint64_t spans_newest;
    uint32_t claimed_kind; /* 0: nothing is claimed */
    uint32_t lane;         /* of the claimed entry, as is the epoch: kept here, where a handler is less likely to write */
    uint32_t epoch;
    bool lost;
    pid_t owner;
    struct guarded doorbell;
    struct guarded log;
    struct guarded side;
    struct guarded control; /* fd -1: none */
    struct surroundings before;
    struct side_span *spans;  /* capacity */
    uint64_t failed_below[];  /* of each lane: entries of an epoch below it are skipped */
};

/* ---- descriptors ---- */

static bool guard(struct guarded *guarded, int fd)
{
    struct stat status;
    if (fstat(fd, &status) != 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        return false;
    *guarded = (struct guarded){.fd = fd, .device = status.st_dev, .inode = status.st_ino, .mode = status.st_mode};
    return true;
}

/* Whether the descriptor still is the file it was; its status in `status`. */
static bool is_ours(const struct guarded *guarded, struct stat *status)
{
    return fstat(guarded->fd, status) == 0 && status->st_dev == guarded->device && status->st_ino == guarded->inode &&
           status->st_mode == guarded->mode;
}

static bool ring_doorbell(const sf_desk *desk)
{
    const uint64_t one = 1;
    struct stat status;
    if (!is_ours(&desk->doorbell, &status))
        return false;
    ssize_t written;
    do
        written = write(desk->doorbell.fd, &one, sizeof one);
    while (written < 0 && errno == EINTR);
    return written == (ssize_t)sizeof one || (written < 0 && errno == EAGAIN); /* EAGAIN: it is readable as it is */
}

/* Notes how much has been printed. */
static bool look_at_log(sf_desk *desk)
{
    struct stat status;
    if (desk->log.fd < 0)
        return true;
    if (!is_ours(&desk->log, &status))
        return false;
    desk->log_end = (uint64_t)status.st_size;
    return true;
}

/* ---- surroundings ---- */

static void take_down(struct surroundings *found)
{
    memset(&found->mask, 0, sizeof found->mask);
    pthread_sigmask(SIG_BLOCK, NULL, &found->mask);
    for (int i = 0; i < WATCHED_LIMITS; i++) {
        struct rlimit limit;
        found->limits[i] = getrlimit(watched_limits[i], &limit) == 0 ? limit.rlim_cur : RLIM_INFINITY;
    }
}

/* Whether a handler has left the process as one in which others can run. */
static bool is_sound(const sf_desk *desk)
{
    struct surroundings now;
    struct stat status;
    take_down(&now);
    for (int i = 0; i < WATCHED_LIMITS; i++)
        if (now.limits[i] < desk->before.limits[i])
            return false;
    return memcmp(&now.mask, &desk->before.mask, sizeof now.mask) == 0 &&
           (desk->control.fd < 0 || is_ours(&desk->control, &status));
}

/* ---- opening ---- */

static sf_desk *open_rings(int memfd)
{
    struct stat status;
    if (fstat(memfd, &status) != 0)
        return NULL;
    if (status.st_size < SF_HEADER_BYTES) {
        errno = EINVAL;
        return NULL;
    }
    size_t bytes = (size_t)status.st_size;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (base == MAP_FAILED)
        return NULL;
    const struct sf_ring_header *header = base;
    uint32_t capacity = header->capacity;
    uint64_t arena_bytes = header->arena_bytes;
    sf_desk *desk = NULL;
    errno = EINVAL;
    if (header->abi == SF_RING_ABI && capacity != 0 && (capacity & (capacity - 1)) == 0 &&
        sf_ring_bytes(capacity, arena_bytes) == bytes)
        desk = calloc(1, sizeof(sf_desk) + capacity * (sizeof(uint64_t) + sizeof(struct side_span)));
    if (desk == NULL) {
        int error = errno;
        munmap(base, bytes);
        errno = error;
        return NULL;
    }
    madvise(base, bytes, MADV_DONTFORK);
    desk->rings = sf_rings_at(base, capacity, arena_bytes);
    desk->capacity = capacity;
    desk->mask = capacity - 1;
    desk->arena_bytes = arena_bytes;
    desk->owner = getpid();
    desk->spans = (struct side_span *)(desk->failed_below + capacity);
    return desk;
}

sf_desk *sf_desk_open(int memfd, int doorbell, int log_fd, int side_fd)
{
    sf_desk *desk = open_rings(memfd);
    if (desk == NULL)
        return NULL;
    desk->log.fd = desk->control.fd = -1;
    if (!guard(&desk->doorbell, doorbell) || !guard(&desk->side, side_fd) ||
        (log_fd >= 0 && !guard(&desk->log, log_fd))) {
        int error = errno;
        sf_desk_close(desk);
        errno = error;
        return NULL;
    }
    return desk;
}

bool sf_desk_watch(sf_desk *desk, int control)
{
    take_down(&desk->before);
    return guard(&desk->control, control);
}

void sf_desk_close(sf_desk *desk)
{
    if (desk == NULL)
        return;
    /* In a forked child the mapping is not there, and something else may be in its place. */
    if (getpid() == desk->owner)
        munmap(desk->rings.header, desk->rings.bytes);
    free(desk);
}

/* ---- answering ---- */

/* Publishes the completion of the entry at head, and wakes the runtime if it waits for this one. */
static bool answer(sf_desk *desk, const struct sf_completion *completion, bool plain)
{
    struct sf_ring_header *header = desk->rings.header;
    struct sf_completion *slot = &desk->rings.completions[(uint32_t)desk->head & desk->mask];
    *slot = *completion;
    desk->head += 1;
    desk->claimed_kind = 0;
    atomic_store_explicit(&header->running_started_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&header->sq_head, desk->head, memory_order_release);
    atomic_store_explicit(&header->cq_tail, desk->head, memory_order_release); /* E */
    atomic_thread_fence(memory_order_seq_cst);
    uint32_t sleeps = atomic_load_explicit(&header->runtime_sleeps, memory_order_relaxed);
    if (sleeps == 0)
        return true;
    uint64_t left = atomic_load_explicit(&header->sq_tail, memory_order_relaxed) - desk->head;
    if (plain && left > sleeps - 1)
        return true;
    if (atomic_exchange_explicit(&header->runtime_sleeps, 0, memory_order_relaxed) == 0)
        return true;
    return ring_doorbell(desk);
}

/* Answers an entry that did not run. */
static bool answer_unrun(sf_desk *desk, uint32_t outcome)
{
    const struct sf_completion completion = {.outcome = outcome, .log_end = desk->log_end, .payload_inline = 1};
    return answer(desk, &completion, false);
}

/* Where `bytes` can go in the side file without touching a payload that is not released yet: the start of the file if it
   is free, else behind the newest payload, else behind all of them.  So the file stays within a small multiple of what
   can be unreleased at once. */
static uint64_t side_place(sf_desk *desk, uint64_t bytes)
{
    uint64_t released = atomic_load_explicit(&desk->rings.header->cq_head, memory_order_acquire); /* H */
    while (desk->spans_oldest != desk->spans_newest && desk->spans[desk->spans_oldest & desk->mask].index < released)
        desk->spans_oldest += 1;
    if (desk->spans_oldest == desk->spans_newest) {
        if (desk->side_bytes > SIDE_KEEP_BYTES) {
            (void)fallocate(desk->side.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)SIDE_KEEP_BYTES,
                            (off_t)(desk->side_bytes - SIDE_KEEP_BYTES)); /* if it cannot be, memory is kept, no more */
            desk->side_bytes = SIDE_KEEP_BYTES;
        }
        return 0;
    }
    uint64_t lowest = UINT64_MAX;
    uint64_t highest = 0;
    uint64_t behind_newest = desk->spans[(desk->spans_newest - 1) & desk->mask].end;
    bool is_free = true;
    for (uint64_t at = desk->spans_oldest; at != desk->spans_newest; at++) {
        const struct side_span *span = &desk->spans[at & desk->mask];
        lowest = span->start < lowest ? span->start : lowest;
        highest = span->end > highest ? span->end : highest;
        is_free = is_free && (span->end <= behind_newest || span->start >= behind_newest + bytes);
    }
    return bytes <= lowest ? 0 : is_free ? behind_newest : highest;
}

static bool write_side(sf_desk *desk, const char *payload, size_t bytes, uint64_t *offset)
{
    struct stat status;
    if (!is_ours(&desk->side, &status))
        return false;
    *offset = side_place(desk, bytes);
    if (desk->spans_newest - desk->spans_oldest >= desk->capacity)
        return false; /* cq_head was overwritten */
    size_t done = 0;
    while (done < bytes) {
        ssize_t written = pwrite(desk->side.fd, payload + done, bytes - done, (off_t)(*offset + done));
        if (written > 0)
            done += (size_t)written;
        else if (written == 0 || errno != EINTR)
            return false;
    }
    desk->spans[desk->spans_newest++ & desk->mask] =
        (struct side_span){.index = desk->head, .start = *offset, .end = *offset + bytes};
    if (*offset + bytes > desk->side_bytes)
        desk->side_bytes = *offset + bytes;
    return true;
}

void sf_desk_called(sf_desk *desk)
{
    desk->called_ns = sf_now_ns();
}

bool sf_desk_finish(sf_desk *desk, uint32_t outcome, const char *payload, size_t payload_bytes)
{
    SF_ASSERT(outcome == SF_OK || outcome == SF_ERROR || outcome == SF_PARTLY);
    if (desk->lost || desk->claimed_kind != SF_KIND_INVOKE)
        return false;
    uint64_t finished_ns = sf_now_ns();
    uint32_t slot = (uint32_t)desk->head & desk->mask;
    struct sf_completion completion = {.outcome = outcome,
                                       .payload_bytes = (uint32_t)payload_bytes,
                                       .started_ns = desk->started_ns,
                                       .finished_ns = finished_ns,
                                       .called_ns = desk->called_ns,
                                       .payload_inline = payload_bytes <= SF_REPLY_BYTES};
    if (!completion.payload_inline) {
        if (payload_bytes > UINT32_MAX || !write_side(desk, payload, payload_bytes, &completion.side_offset)) {
            desk->lost = true;
            return false;
        }
    } else if (payload_bytes != 0) {
        memcpy(desk->rings.replies[slot].bytes, payload, payload_bytes);
    }
    if (outcome != SF_OK && desk->failed_below[desk->lane] <= desk->epoch)
        desk->failed_below[desk->lane] = (uint64_t)desk->epoch + 1;
    /* A lost log or doorbell does not take the answer back: the handler did return. */
    uint64_t log_before = desk->log_end;
    desk->lost = !look_at_log(desk);
    completion.log_end = desk->log_end;
    bool plain = outcome == SF_OK && desk->log_end == log_before;
    desk->lost = !answer(desk, &completion, plain) || desk->lost;
    if (desk->control.fd >= 0 && finished_ns - desk->before.looked_ns >= LOOK_EVERY_NS) {
        desk->before.looked_ns = finished_ns;
        desk->lost = desk->lost || !is_sound(desk);
    }
    return !desk->lost;
}

bool sf_desk_retired(sf_desk *desk)
{
    if (desk->lost || desk->claimed_kind != SF_KIND_RETIRE)
        return false;
    desk->lost = !answer_unrun(desk, SF_RETIRED);
    return !desk->lost;
}

bool sf_desk_return(sf_desk *desk)
{
    if (desk->lost || desk->claimed_kind != SF_KIND_INVOKE)
        return false;
    desk->lost = !answer_unrun(desk, SF_SKIPPED);
    return !desk->lost;
}

bool sf_desk_log(const sf_desk *desk, const char *text, size_t bytes)
{
    struct stat status;
    if (desk->log.fd < 0 || !is_ours(&desk->log, &status))
        return false;
    while (bytes > 0) {
        ssize_t written = write(desk->log.fd, text, bytes);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            break;
        text += written;
        bytes -= (size_t)written;
    }
    return true;
}

/* ---- taking ---- */

/* Waits until sq_tail moves or `deadline` (CLOCK_MONOTONIC) passes.  False: nothing came, or a signal did. */
static bool wait_for_entry(sf_desk *desk, const struct timespec *deadline)
{
    struct sf_ring_header *header = desk->rings.header;
    for (;;) {
        atomic_store_explicit(&header->worker_sleeps, 1, memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst);
        desk->tail_seen = atomic_load_explicit(&header->sq_tail, memory_order_acquire); /* B */
        long result = 0;
        if (desk->tail_seen == desk->head)
            result = syscall(SYS_futex, &header->worker_sleeps, FUTEX_WAIT_BITSET, 1, deadline, NULL,
                             FUTEX_BITSET_MATCH_ANY);
        int error = result != 0 ? errno : 0;
        atomic_store_explicit(&header->worker_sleeps, 0, memory_order_relaxed);
        desk->tail_seen = atomic_load_explicit(&header->sq_tail, memory_order_acquire); /* B */
        if (desk->tail_seen != desk->head)
            return true;
        if (error != 0 && error != EAGAIN) /* ETIMEDOUT, EINTR: Python's signal handlers want to run */
            return false;
    }
}

/* Fills `work`.  False if the extents or the selection would not lie in the rings. */
static bool describe(const sf_desk *desk, const struct sf_submission *entry, sf_work *work)
{
    uint32_t extent_count = entry->extent_count, selected = entry->selected;
    uint64_t extent_bytes = extent_count > 1 ? (uint64_t)extent_count * sizeof(sf_extent) : 0;
    uint64_t bytes = extent_bytes + (uint64_t)selected * sizeof(uint32_t);
    uint64_t offset = entry->arena_offset;
    work->invocation = entry->invocation;
    work->submitted_ns = entry->submitted_ns;
    work->started_ns = desk->started_ns;
    work->segment_id = entry->segment_id;
    work->extent_count = extent_count;
    work->records = entry->records;
    work->extents = (uintptr_t)&desk->rings.extents[(uint32_t)desk->head & desk->mask].extent;
    work->selection = 0;
    work->selected = selected;
    if (bytes == 0)
        return true;
    if (bytes > desk->arena_bytes || offset > desk->arena_bytes - bytes)
        return false;
    if (extent_count > 1)
        work->extents = (uintptr_t)(desk->rings.arena + offset);
    work->selection = (uintptr_t)(desk->rings.arena + offset + extent_bytes);
    return true;
}

/* Takes the entry at head: SF_NEXT_INVOKE, _SELECTED or _RETIRE, or SF_NEXT_AGAIN when it has been answered without running. */
static int take_entry(sf_desk *desk, sf_work *work)
{
    struct sf_submission *entry = &desk->rings.submissions[(uint32_t)desk->head & desk->mask];
    bool is_invoke = entry->kind == SF_KIND_INVOKE;
    desk->lane = entry->lane;
    desk->epoch = entry->epoch;
    if (is_invoke ? desk->lane >= desk->capacity : entry->kind != SF_KIND_RETIRE)
        return SF_NEXT_LOST;
    /* What is going to be skipped is revoked, not claimed: were we killed right here, it must not look as if it had run. */
    bool skip = is_invoke && desk->epoch < desk->failed_below[desk->lane];
    uint32_t expected = SF_STATE_READY;
    bool won = atomic_compare_exchange_strong_explicit(&entry->state, &expected,
                                                       skip ? SF_STATE_REVOKED : SF_STATE_CLAIMED,
                                                       memory_order_acq_rel, memory_order_acquire); /* C */
    if (!won && expected != SF_STATE_REVOKED)
        return SF_NEXT_LOST;
    if (!won || skip)
        return answer_unrun(desk, won ? SF_SKIPPED : SF_REVOKED) ? SF_NEXT_AGAIN : SF_NEXT_LOST;
    desk->claimed_kind = is_invoke ? SF_KIND_INVOKE : SF_KIND_RETIRE;
    desk->started_ns = desk->called_ns = 0;
    if (is_invoke) {
        desk->started_ns = sf_now_ns();
        atomic_store_explicit(&desk->rings.header->running_started_ns, desk->started_ns, memory_order_relaxed);
    }
    if (!describe(desk, entry, work))
        return SF_NEXT_LOST;
    return !is_invoke ? SF_NEXT_RETIRE : work->selected != 0 ? SF_NEXT_SELECTED : SF_NEXT_INVOKE;
}

int sf_desk_next(sf_desk *desk, sf_work *work, uint64_t slice_ns)
{
    struct timespec deadline = {0};
    bool has_deadline = false;
    if (desk->claimed_kind != 0)
        desk->lost = true; /* the last entry was not answered: going on would answer it with the next one's outcome */
    while (!desk->lost) {
        if (desk->head == desk->tail_seen)
            desk->tail_seen = atomic_load_explicit(&desk->rings.header->sq_tail, memory_order_acquire); /* B */
        if (desk->head == desk->tail_seen) {
            if (!has_deadline) {
                uint64_t at_ns = sf_now_ns() + (slice_ns < SLICE_NS_MAX ? slice_ns : SLICE_NS_MAX);
                deadline.tv_sec = (time_t)(at_ns / 1000000000u);
                deadline.tv_nsec = (long)(at_ns % 1000000000u);
                has_deadline = true;
            }
            if (slice_ns == 0 || !wait_for_entry(desk, &deadline))
                return SF_NEXT_AGAIN;
        }
        int taken = desk->tail_seen - desk->head <= desk->capacity ? take_entry(desk, work) : SF_NEXT_LOST;
        if (taken == SF_NEXT_LOST)
            desk->lost = true;
        else if (taken != SF_NEXT_AGAIN)
            return taken;
    }
    return SF_NEXT_LOST;
}
