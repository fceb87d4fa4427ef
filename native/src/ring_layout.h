#ifndef SF_RING_LAYOUT_H
#define SF_RING_LAYOUT_H
/*
 * What lies where in the memfd that a port and a desk share: the drawing of sf_ring.h as structs, and the asserts
 * that make it binding.  Private to ring_port.c and ring_desk.c.
 */
#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "sf_ring.h"

/* States of a submission.  READY is left exactly once: by the desk's claim, or by whoever revokes it (the port, or the
   desk itself for an entry that it is going to skip). */
enum { SF_STATE_FREE = 0, SF_STATE_READY = 1, SF_STATE_CLAIMED = 2, SF_STATE_REVOKED = 3 };

enum { SF_KIND_INVOKE = 1, SF_KIND_RETIRE = 2 };

struct sf_ring_header {
    uint32_t abi;
    uint32_t capacity;
    uint64_t arena_bytes;
    alignas(128) _Atomic uint64_t sq_tail;
    alignas(128) _Atomic uint64_t sq_head;
    alignas(128) _Atomic uint32_t worker_sleeps;
    alignas(128) _Atomic uint64_t cq_tail;
    alignas(128) _Atomic uint64_t cq_head;
    alignas(128) _Atomic uint32_t runtime_sleeps;
    alignas(128) _Atomic uint64_t running_started_ns;
};

struct sf_submission {
    _Atomic uint32_t state;
    uint32_t kind;
    uint32_t lane;
    uint32_t epoch;
    uint32_t extent_count; /* 1: the extent beside the entry; more: at arena_offset */
    uint32_t records;
    uint64_t invocation;
    uint64_t submitted_ns;
    uint64_t segment_id;   /* of a retire entry */
    uint64_t arena_offset; /* of the batch's span: its extents if there are several, then its selection */
    uint32_t selected;     /* how many row numbers that has */
    uint32_t reserved;
};

struct sf_extent_slot {
    sf_extent extent;
    uint8_t reserved[48];
};

struct sf_completion {
    uint32_t outcome;
    uint32_t payload_bytes;
    uint64_t started_ns;
    uint64_t finished_ns;
    uint64_t log_end;
    uint64_t side_offset;
    uint32_t payload_inline;
    uint32_t reserved32;
    uint64_t called_ns; /* 0: not stamped */
    uint64_t reserved;
};

struct sf_reply_slot {
    char bytes[SF_REPLY_BYTES];
};

enum { SF_HEADER_BYTES = 4096 };

#define SF_AT(field, offset) \
    static_assert(offsetof(struct sf_ring_header, field) == (offset), #field " moved: bump SF_RING_ABI")
SF_AT(abi, 0);
SF_AT(capacity, 4);
SF_AT(arena_bytes, 8);
SF_AT(sq_tail, 128);
SF_AT(sq_head, 256);
SF_AT(worker_sleeps, 384);
SF_AT(cq_tail, 512);
SF_AT(cq_head, 640);
SF_AT(runtime_sleeps, 768);
SF_AT(running_started_ns, 896);
#undef SF_AT
static_assert(sizeof(struct sf_ring_header) <= SF_HEADER_BYTES, "the header outgrew its page: bump SF_RING_ABI");
static_assert(sizeof(struct sf_submission) == 64, "submissions changed: bump SF_RING_ABI");
static_assert(offsetof(struct sf_submission, state) == 0, "the state word moved: bump SF_RING_ABI");
static_assert(sizeof(struct sf_extent_slot) == 128, "extent slots changed: bump SF_RING_ABI");
static_assert(sizeof(struct sf_completion) == 64, "completions changed: bump SF_RING_ABI");
static_assert(sizeof(struct sf_reply_slot) == 256, "reply slots changed: bump SF_RING_ABI");
static_assert(sizeof(((sf_reaped *)0)->payload) == SF_REPLY_BYTES, "a short reply must fit sf_reaped");
static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2, "atomics between processes must not lock");
static_assert(sizeof(_Atomic uint32_t) == 4 && sizeof(_Atomic uint64_t) == 8, "a futex word is four bytes");

/* Where the parts lie in this process. */
struct sf_rings {
    struct sf_ring_header *header;
    struct sf_submission *submissions;
    struct sf_extent_slot *extents;
    struct sf_completion *completions;
    struct sf_reply_slot *replies;
    char *arena;
    size_t bytes;
};

static inline size_t sf_rings_bytes(uint32_t capacity, uint64_t arena_bytes)
{
    size_t slot_bytes = sizeof(struct sf_submission) + sizeof(struct sf_extent_slot) + sizeof(struct sf_completion) +
                        sizeof(struct sf_reply_slot);
    return SF_HEADER_BYTES + capacity * slot_bytes + (size_t)arena_bytes;
}

static inline struct sf_rings sf_rings_at(void *base, uint32_t capacity, uint64_t arena_bytes)
{
    struct sf_rings rings;
    rings.header = base;
    rings.submissions = (struct sf_submission *)((char *)base + SF_HEADER_BYTES);
    rings.extents = (struct sf_extent_slot *)(rings.submissions + capacity);
    rings.completions = (struct sf_completion *)(rings.extents + capacity);
    rings.replies = (struct sf_reply_slot *)(rings.completions + capacity);
    rings.arena = (char *)(rings.replies + capacity);
    rings.bytes = sf_rings_bytes(capacity, arena_bytes);
    return rings;
}

static inline uint64_t sf_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
#endif
