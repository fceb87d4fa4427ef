/*
 * The runtime's side of the rings.  The contract is sf_ring.h; the letters mark its memory-ordering edges.
 *
 * Everything the port decides on is in its own memory: the four positions and the shadow of each entry.  Of the shared
 * pages it reads completions (copied once, then checked), cq_tail, the state words and the start stamp, nothing else.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ring_layout.h"
#include "sf_assert.h"
#include "sf_rows.h"

/* What the port remembers of an entry, out of the worker's reach. */
struct shadow {
    uint64_t invocation; /* of a retire entry: the segment */
    uint64_t submitted_ns;
    uint64_t arena_end;  /* arena_tail after this entry's extents; 0: it has none there */
    sf_histogram *latency;
    sf_histogram *duration;
    uint32_t lane;
    uint32_t epoch;
    uint32_t records;
    uint16_t kind;
    uint8_t revoked;
    uint8_t withdrawn; /* revoked, and told of already: its answer is nobody's */
};

/* What counts a lane's answers; see sf_meter.h. */
struct measure {
    sf_meter *meter;
    sf_due *due;
};

enum broken { SOUND = 0, BROKEN_FOUND = 1, BROKEN_REPORTED = 2 };

struct sf_port {
    struct sf_rings rings;
    uint32_t capacity;
    uint32_t mask;
    uint64_t arena_bytes;
    /* Positions: released <= reaped <= published <= submitted <= released + capacity. */
    uint64_t submitted;
    uint64_t published;
    uint64_t reaped;
    uint64_t released;
    /* The arena in use is arena_head .. arena_tail, both counted on over all its laps. */
    uint64_t arena_head;
    uint64_t arena_tail;
    uint64_t log_end; /* the highest that was believed */
    enum broken broken;
    bool orphaned; /* sf_port_orphan has been called */
    pid_t owner;
    uint64_t *over_below;     /* of each lane: entries of an epoch below it cannot run any more, whatever the worker says */
    struct measure *measures; /* of each lane; NULL while none is measured */
    struct shadow shadows[];
};

static bool shape_is_valid(uint32_t capacity, uint64_t arena_bytes)
{
    return capacity != 0 && (capacity & (capacity - 1)) == 0 && capacity <= 65536 && arena_bytes <= (UINT64_C(1) << 40);
}

size_t sf_ring_bytes(uint32_t capacity, uint64_t arena_bytes)
{
    return sf_rings_bytes(capacity, arena_bytes);
}

/* A worker that could shrink the file would kill us with SIGBUS at our next access. */
static bool is_sealed(int memfd)
{
    const int needed = F_SEAL_SHRINK | F_SEAL_GROW;
    int seals = fcntl(memfd, F_GET_SEALS);
    return seals >= 0 && (seals & needed) == needed;
}

sf_port *sf_port_open(int memfd, uint32_t capacity, uint64_t arena_bytes)
{
    struct stat status;
    if (fstat(memfd, &status) != 0)
        return NULL;
    if (!shape_is_valid(capacity, arena_bytes) || (uint64_t)status.st_size != sf_ring_bytes(capacity, arena_bytes) ||
        !is_sealed(memfd)) {
        errno = EINVAL;
        return NULL;
    }
    /* Memory that runs out must be an error here, not a SIGBUS later. */
    int error = posix_fallocate(memfd, 0, status.st_size);
    if (error != 0) {
        errno = error;
        return NULL;
    }
    sf_port *port = calloc(1, sizeof(sf_port) + capacity * (sizeof(struct shadow) + sizeof(uint64_t)));
    if (port == NULL)
        return NULL;
    void *base = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (base == MAP_FAILED) {
        free(port);
        return NULL;
    }
    madvise(base, (size_t)status.st_size, MADV_DONTFORK);
    port->rings = sf_rings_at(base, capacity, arena_bytes);
    port->capacity = capacity;
    port->mask = capacity - 1;
    port->arena_bytes = arena_bytes;
    port->owner = getpid();
    port->over_below = (uint64_t *)(port->shadows + capacity);
    port->rings.header->abi = SF_RING_ABI;
    port->rings.header->capacity = capacity;
    port->rings.header->arena_bytes = arena_bytes;
    return port;
}

void sf_port_close(sf_port *port)
{
    if (port == NULL)
        return;
    /* In a forked child the mapping is not there, and something else may be in its place. */
    if (getpid() == port->owner)
        munmap(port->rings.header, port->rings.bytes);
    free(port->measures);
    free(port);
}

uint32_t sf_port_room(const sf_port *port)
{
    return port->capacity - (uint32_t)(port->submitted - port->released);
}

uint32_t sf_port_in_flight(const sf_port *port)
{
    return (uint32_t)(port->submitted - port->reaped);
}

bool sf_port_measure(sf_port *port, uint32_t lane, sf_meter *meter, sf_due *due)
{
    SF_ASSERT(lane < port->capacity);
    if (port->measures == NULL && meter != NULL)
        port->measures = calloc(port->capacity, sizeof *port->measures);
    if (port->measures != NULL)
        port->measures[lane] = (struct measure){meter, meter != NULL ? due : NULL};
    return port->measures != NULL || meter == NULL;
}

/* ---- submitting ---- */

/* Writes the next entry.  It is not visible before sq_tail moves. */
static void put_entry(sf_port *port, const struct shadow *shadow, uint32_t extent_count, uint32_t selected,
                      uint64_t arena_offset)
{
    uint32_t slot = (uint32_t)port->submitted & port->mask;
    struct sf_submission *entry = &port->rings.submissions[slot];
    SF_ASSERT(port->submitted - port->released < port->capacity);
    port->shadows[slot] = *shadow;
    entry->kind = shadow->kind;
    entry->lane = shadow->lane;
    entry->epoch = shadow->epoch;
    entry->extent_count = extent_count;
    entry->records = shadow->records;
    entry->invocation = shadow->kind == SF_KIND_INVOKE ? shadow->invocation : 0;
    entry->submitted_ns = shadow->submitted_ns;
    entry->segment_id = shadow->kind == SF_KIND_RETIRE ? shadow->invocation : 0;
    entry->arena_offset = arena_offset;
    entry->selected = selected;
    atomic_store_explicit(&entry->state, SF_STATE_READY, memory_order_relaxed);
    port->submitted += 1;
}

uint32_t sf_port_submit_run(sf_port *port, uint32_t lane, uint32_t epoch, const sf_extent *first, uint32_t rows_per_batch,
                            uint32_t batches, uint64_t first_invocation, uint64_t now_ns, sf_histogram *latency,
                            sf_histogram *duration)
{
    SF_ASSERT(lane < port->capacity);
    SF_ASSERT(rows_per_batch > 0);
    uint32_t room = sf_port_room(port);
    uint32_t count = batches < room ? batches : room;
    SF_ASSERT((uint64_t)first->first_row + (uint64_t)rows_per_batch * count <= UINT32_MAX);
    struct shadow shadow = {.invocation = first_invocation,
                            .submitted_ns = now_ns,
                            .latency = latency,
                            .duration = duration,
                            .lane = lane,
                            .epoch = epoch,
                            .records = rows_per_batch,
                            .kind = SF_KIND_INVOKE};
    sf_extent extent = *first;
    extent.rows = rows_per_batch;
    for (uint32_t i = 0; i < count; i++) {
        port->rings.extents[(uint32_t)port->submitted & port->mask].extent = extent;
        put_entry(port, &shadow, 1, 0, 0);
        shadow.invocation += 1;
        extent.first_offset += rows_per_batch;
        extent.first_row += rows_per_batch;
    }
    return count;
}

/* Takes `bytes` contiguous bytes of the arena, from a multiple of 8 on.  An empty arena starts anew, so that the largest batch always fits it. */
static bool arena_take(sf_port *port, uint64_t bytes, uint64_t *offset)
{
    uint64_t size = port->arena_bytes;
    bytes = (bytes + 7) & ~UINT64_C(7);
    if (bytes > size)
        return false;
    if (port->arena_head == port->arena_tail)
        port->arena_head = port->arena_tail = 0;
    uint64_t at = port->arena_tail % size;
    uint64_t skipped = at + bytes > size ? size - at : 0;
    if (port->arena_tail + skipped + bytes - port->arena_head > size)
        return false;
    port->arena_tail += skipped + bytes;
    SF_ASSERT((skipped != 0 ? 0 : at) + bytes <= size);
    *offset = skipped != 0 ? 0 : at;
    return true;
}

uint32_t sf_port_submit_rows(sf_port *port, uint32_t lane, uint32_t epoch, const sf_extent *message, const uint32_t *rows,
                             uint32_t rows_per_batch, uint32_t batches, uint64_t first_invocation, uint64_t now_ns,
                             sf_histogram *latency, sf_histogram *duration)
{
    SF_ASSERT(lane < port->capacity);
    SF_ASSERT(rows_per_batch > 0);
    uint32_t room = sf_port_room(port);
    uint32_t count = batches < room ? batches : room;
    uint64_t bytes = (uint64_t)rows_per_batch * sizeof *rows;
    struct shadow shadow = {.invocation = first_invocation,
                            .submitted_ns = now_ns,
                            .latency = latency,
                            .duration = duration,
                            .lane = lane,
                            .epoch = epoch,
                            .records = rows_per_batch,
                            .kind = SF_KIND_INVOKE};
    for (uint32_t i = 0; i < count; i++) {
        sf_extent *extent = &port->rings.extents[(uint32_t)port->submitted & port->mask].extent;
        uint64_t offset = 0;
        bool selected = sf_aim(message, rows, rows_per_batch, extent);
        if (selected && !arena_take(port, bytes, &offset))
            return i;
        if (selected)
            memcpy(port->rings.arena + offset, rows, bytes);
        shadow.arena_end = selected ? port->arena_tail : 0;
        put_entry(port, &shadow, 1, selected ? rows_per_batch : 0, offset);
        shadow.invocation += 1;
        rows += rows_per_batch;
    }
    return count;
}

bool sf_port_submit(sf_port *port, uint32_t lane, uint32_t epoch, const sf_extent *extents, uint32_t extent_count,
                    const uint32_t *selection, uint32_t selected, uint64_t invocation, uint64_t now_ns,
                    sf_histogram *latency, sf_histogram *duration)
{
    SF_ASSERT(lane < port->capacity);
    SF_ASSERT(extent_count > 0);
    uint64_t offset = 0;
    uint64_t extent_bytes = extent_count > 1 ? (uint64_t)extent_count * sizeof(sf_extent) : 0;
    uint64_t selection_bytes = (uint64_t)selected * sizeof *selection;
    bool in_arena = extent_bytes + selection_bytes != 0;
    if (sf_port_room(port) == 0)
        return false;
    if (in_arena && !arena_take(port, extent_bytes + selection_bytes, &offset))
        return false;
    struct shadow shadow = {.invocation = invocation,
                            .submitted_ns = now_ns,
                            .latency = latency,
                            .duration = duration,
                            .lane = lane,
                            .epoch = epoch,
                            .kind = SF_KIND_INVOKE};
    uint64_t wanted = 0;
    for (uint32_t i = 0; i < extent_count; i++) {
        shadow.records += extents[i].rows;
        wanted += extents[i].first_row == SF_SELECTED ? extents[i].rows : 0;
    }
    SF_ASSERT(wanted == selected);
    if (extent_count > 1)
        memcpy(port->rings.arena + offset, extents, extent_bytes);
    else
        port->rings.extents[(uint32_t)port->submitted & port->mask].extent = extents[0];
    if (selected != 0)
        memcpy(port->rings.arena + offset + extent_bytes, selection, selection_bytes);
    if (in_arena)
        shadow.arena_end = port->arena_tail;
    put_entry(port, &shadow, extent_count, selected, offset);
    return true;
}

bool sf_port_retire(sf_port *port, uint64_t segment_id)
{
    if (sf_port_room(port) == 0)
        return false;
    struct shadow shadow = {.invocation = segment_id, .lane = UINT32_MAX, .kind = SF_KIND_RETIRE};
    put_entry(port, &shadow, 0, 0, 0);
    return true;
}

void sf_port_publish(sf_port *port)
{
    struct sf_ring_header *header = port->rings.header;
    if (port->published == port->submitted)
        return;
    port->published = port->submitted;
    atomic_store_explicit(&header->sq_tail, port->published, memory_order_release); /* A */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&header->worker_sleeps, memory_order_relaxed) != 0 &&
        atomic_exchange_explicit(&header->worker_sleeps, 0, memory_order_relaxed) != 0)
        syscall(SYS_futex, &header->worker_sleeps, FUTEX_WAKE, 1, NULL, NULL, 0);
}

uint32_t sf_port_revoke(sf_port *port, uint32_t lane)
{
    uint32_t count = 0;
    /* Newest first: the desk claims oldest first, so what of a lane still runs is a prefix, never a batch behind a
       revoked one.  What is older than a claimed entry has been claimed, too; not to look there keeps the prefix one
       however the worker has written over the state words. */
    for (uint64_t at = port->submitted; at != port->reaped; at--) {
        uint32_t slot = (uint32_t)(at - 1) & port->mask;
        struct shadow *shadow = &port->shadows[slot];
        uint32_t expected = SF_STATE_READY;
        if (shadow->kind != SF_KIND_INVOKE || shadow->revoked || (lane != UINT32_MAX && shadow->lane != lane))
            continue;
        if (!atomic_compare_exchange_strong_explicit(&port->rings.submissions[slot].state, &expected, SF_STATE_REVOKED,
                                                     memory_order_acq_rel, memory_order_acquire)) /* D */
            break;
        shadow->revoked = 1;
        count += 1;
    }
    return count;
}

uint32_t sf_port_withdraw(sf_port *port, uint32_t lane)
{
    uint32_t count = 0;
    sf_port_revoke(port, lane);
    for (uint64_t at = port->reaped; at != port->submitted; at++) {
        const struct shadow *shadow = &port->shadows[(uint32_t)at & port->mask];
        if (shadow->kind != SF_KIND_INVOKE || shadow->lane != lane || shadow->withdrawn)
            continue;
        if (!shadow->revoked)
            return 0;
        count += 1;
    }
    for (uint64_t at = port->reaped; at != port->submitted; at++) {
        struct shadow *shadow = &port->shadows[(uint32_t)at & port->mask];
        if (shadow->kind == SF_KIND_INVOKE && shadow->lane == lane)
            shadow->withdrawn = 1;
    }
    return count;
}

/* ---- reaping ---- */

static bool did_run(uint32_t outcome)
{
    return outcome == SF_OK || outcome == SF_ERROR || outcome == SF_PARTLY;
}

/* Whether a batch of the entry's lane and epoch before it was not a certain success: then it has not run. */
static bool is_over(const sf_port *port, const struct shadow *shadow)
{
    return shadow->kind == SF_KIND_INVOKE && shadow->epoch < port->over_below[shadow->lane];
}

static bool is_believable(const sf_port *port, const struct shadow *shadow, const struct sf_completion *answer)
{
    if (answer->log_end > INT64_MAX)
        return false;
    if (answer->payload_inline != 0 && answer->payload_bytes > SF_REPLY_BYTES)
        return false;
    if (answer->payload_inline == 0 && answer->side_offset > (uint64_t)INT64_MAX - answer->payload_bytes)
        return false;
    if (shadow->kind == SF_KIND_RETIRE)
        return answer->outcome == SF_RETIRED;
    if (shadow->revoked)
        return answer->outcome == SF_REVOKED;
    return answer->outcome == SF_SKIPPED || (did_run(answer->outcome) && !is_over(port, shadow));
}

static uint64_t clamp(uint64_t value, uint64_t low, uint64_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* Puts stamps that a worker wrote into an order that can be: submitted <= started <= called <= finished
   <= now; and counts what is to be counted. */
static void settle_stamps(const sf_port *port, const struct shadow *shadow, struct sf_completion *answer, uint64_t now_ns)
{
    uint64_t now = now_ns < shadow->submitted_ns ? shadow->submitted_ns : now_ns;
    if (!did_run(answer->outcome)) {
        answer->started_ns = answer->finished_ns = 0;
        return;
    }
    answer->finished_ns = clamp(answer->finished_ns, shadow->submitted_ns, now);
    answer->started_ns = clamp(answer->started_ns, shadow->submitted_ns, answer->finished_ns);
    if (shadow->latency != NULL)
        sf_histogram_record(shadow->latency, answer->finished_ns - shadow->submitted_ns);
    if (shadow->duration != NULL)
        sf_histogram_record(shadow->duration, answer->finished_ns - answer->started_ns);
    struct measure measure = port->measures != NULL ? port->measures[shadow->lane] : (struct measure){NULL, NULL};
    if (measure.meter == NULL)
        return;
    if (answer->called_ns != 0)
        answer->called_ns = clamp(answer->called_ns, answer->started_ns, answer->finished_ns);
    sf_meter_answer(measure.meter, measure.due, answer->outcome == SF_OK, shadow->records, shadow->submitted_ns,
                    answer->started_ns, answer->called_ns, answer->finished_ns, now);
}

/* Starts an answer: what the port itself knows of the entry. */
static void begin_reaped(sf_reaped *out, const struct shadow *shadow, uint32_t outcome)
{
    memset(out, 0, offsetof(sf_reaped, payload));
    out->outcome = outcome;
    out->lane = shadow->lane;
    out->epoch = shadow->epoch;
    out->first_invocation = shadow->invocation;
}

/* Adds the entry's answer to `out`: its counts to what is there, its stamps and payload over them. */
static void add_answer(const sf_port *port, sf_reaped *out, uint32_t slot, const struct sf_completion *answer)
{
    const struct shadow *shadow = &port->shadows[slot];
    out->batches += shadow->kind == SF_KIND_INVOKE;
    out->records += shadow->records;
    out->submitted_ns = shadow->submitted_ns;
    out->started_ns = answer->started_ns;
    out->finished_ns = answer->finished_ns;
    out->log_end = port->log_end;
    out->side_offset = answer->side_offset;
    out->payload_bytes = answer->payload_bytes;
    out->payload_inline = answer->payload_inline != 0;
    SF_ASSERT(!out->payload_inline || answer->payload_bytes <= SF_REPLY_BYTES);
    if (out->payload_inline)
        memcpy(out->payload, port->rings.replies[slot].bytes, answer->payload_bytes);
}

static bool folds_into(const sf_reaped *last, const struct shadow *shadow)
{
    return last != NULL && last->outcome == SF_OK && !last->printed && last->lane == shadow->lane &&
           last->epoch == shadow->epoch;
}

uint32_t sf_port_reap(sf_port *port, sf_reaped *out, uint32_t capacity, bool fold)
{
    uint64_t tail = atomic_load_explicit(&port->rings.header->cq_tail, memory_order_acquire); /* F */
    uint32_t count = 0;
    uint64_t now_ns = tail != port->reaped ? sf_now_ns() : 0;
    sf_reaped *last = NULL;
    if (port->broken == SOUND && tail - port->reaped > port->published - port->reaped)
        port->broken = BROKEN_FOUND;
    while (port->broken == SOUND && port->reaped != tail) {
        uint32_t slot = (uint32_t)port->reaped & port->mask;
        const struct shadow *shadow = &port->shadows[slot];
        struct sf_completion answer = port->rings.completions[slot];
        atomic_signal_fence(memory_order_seq_cst); /* the compiler must not go back to the shared copy */
        if (!is_believable(port, shadow, &answer)) {
            port->broken = BROKEN_FOUND;
            break;
        }
        if (shadow->withdrawn) {
            port->reaped += 1;
            continue;
        }
        bool printed = answer.log_end > port->log_end;
        bool folds = fold && !printed && answer.outcome == SF_OK && folds_into(last, shadow);
        if (!folds && count == capacity)
            break;
        if (printed)
            port->log_end = answer.log_end;
        settle_stamps(port, shadow, &answer, now_ns);
        if (!folds) {
            last = &out[count++];
            begin_reaped(last, shadow, answer.outcome);
            last->printed = printed;
        }
        add_answer(port, last, slot, &answer);
        port->reaped += 1;
        /* A batch skipped without cause is one that a worker could not begin: it goes away, and takes nothing more. */
        if (answer.outcome == SF_SKIPPED && !is_over(port, shadow))
            port->broken = BROKEN_FOUND;
        if (answer.outcome != SF_OK && shadow->kind == SF_KIND_INVOKE && !is_over(port, shadow) && !shadow->revoked)
            port->over_below[shadow->lane] = (uint64_t)shadow->epoch + 1;
    }
    if (port->broken == BROKEN_FOUND && count < capacity) {
        const struct shadow nobody = {.lane = UINT32_MAX};
        begin_reaped(&out[count++], &nobody, SF_BROKEN);
        port->broken = BROKEN_REPORTED;
    }
    return count;
}

void sf_port_release(sf_port *port)
{
    if (port->released == port->reaped)
        return;
    for (uint64_t at = port->released; at != port->reaped; at++) {
        uint64_t arena_end = port->shadows[(uint32_t)at & port->mask].arena_end;
        if (arena_end != 0)
            port->arena_head = arena_end;
    }
    SF_ASSERT(port->reaped - port->released <= port->capacity && port->arena_head <= port->arena_tail);
    port->released = port->reaped;
    atomic_store_explicit(&port->rings.header->cq_head, port->released, memory_order_release); /* G */
}

uint32_t sf_port_orphan(sf_port *port, sf_reaped *out)
{
    for (; port->reaped != port->submitted && port->shadows[(uint32_t)port->reaped & port->mask].withdrawn; port->reaped++)
        port->orphaned = true;
    if (port->reaped == port->submitted)
        return 0;
    uint32_t slot = (uint32_t)port->reaped & port->mask;
    const struct shadow *shadow = &port->shadows[slot];
    struct sf_ring_header *header = port->rings.header;
    uint32_t state = atomic_load_explicit(&port->rings.submissions[slot].state, memory_order_acquire);
    /* The desk runs one entry at a time and answers in order: only the first one left can have been running. */
    bool claimed = !port->orphaned && shadow->kind == SF_KIND_INVOKE && !shadow->revoked && !is_over(port, shadow) &&
                   state == SF_STATE_CLAIMED;
    port->orphaned = true;
    begin_reaped(out, shadow, shadow->kind == SF_KIND_RETIRE ? SF_RETIRED : claimed ? SF_ERROR : SF_SKIPPED);
    out->batches = shadow->kind == SF_KIND_INVOKE;
    out->records = shadow->records;
    out->submitted_ns = shadow->submitted_ns;
    out->log_end = port->log_end;
    if (claimed) {
        uint64_t started_ns = atomic_load_explicit(&header->running_started_ns, memory_order_relaxed);
        uint64_t now_ns = sf_now_ns();
        uint64_t latest_ns = now_ns < shadow->submitted_ns ? shadow->submitted_ns : now_ns;
        out->started_ns = clamp(started_ns, shadow->submitted_ns, latest_ns);
    }
    port->reaped += 1;
    SF_ASSERT(port->reaped <= port->submitted);
    return 1;
}

/* ---- sleeping ---- */

/* Whether the worker would have rung for one of the answers up to `tail`, had it seen the word. */
static bool is_worth_waking(const sf_port *port, uint64_t tail, uint32_t low_water)
{
    if (port->broken != SOUND)
        return port->broken == BROKEN_FOUND;
    if (tail == port->reaped)
        return false;
    if (tail - port->reaped > port->published - port->reaped || port->published - tail <= low_water)
        return true;
    for (uint64_t at = port->reaped; at != tail; at++) {
        const struct sf_completion *answer = &port->rings.completions[(uint32_t)at & port->mask];
        if (answer->outcome != SF_OK || answer->log_end != port->log_end)
            return true;
    }
    return false;
}

bool sf_port_arm(sf_port *port, uint32_t low_water)
{
    struct sf_ring_header *header = port->rings.header;
    uint32_t mark = low_water < port->capacity ? low_water : port->capacity;
    atomic_store_explicit(&header->runtime_sleeps, mark + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    uint64_t tail = atomic_load_explicit(&header->cq_tail, memory_order_acquire); /* F */
    if (!is_worth_waking(port, tail, mark))
        return false;
    sf_port_disarm(port);
    return true;
}

void sf_port_disarm(sf_port *port)
{
    atomic_store_explicit(&port->rings.header->runtime_sleeps, 0, memory_order_relaxed);
}

uint64_t sf_port_running_since(const sf_port *port)
{
    uint64_t started_ns = atomic_load_explicit(&port->rings.header->running_started_ns, memory_order_relaxed);
    /* The oldest that is not answered; a worker that runs one of them has begun after that was submitted. */
    const struct shadow *oldest = &port->shadows[(uint32_t)port->reaped & port->mask];
    return port->reaped == port->submitted || started_ns < oldest->submitted_ns ? 0 : started_ns;
}
