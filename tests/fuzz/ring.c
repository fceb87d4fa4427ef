/*
 * libFuzzer: the runtime's side of the rings against a worker that writes what it likes.
 *
 * An input is a script, an instruction a byte with its operands behind it: the runtime's calls, what a worker does, forged
 * answers, and writes of any bytes to any place of the shared memory.
 *
 * Holds, whatever the worker wrote: no access outside of the rings; every entry is answered once, in order, or left as an
 * orphan; an answer is about the entry that was submitted, and what it says is within bounds; behind a batch of a lane that
 * failed, was skipped or came back nothing of that lane runs that was in flight then; a worker is broken once.
 */
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "ring_layout.h"

enum { CAPACITY = 8, ARENA = 1024, LANES = 3, REAPED = 3, ROWS_MAX = 20 };

/* ---- the script ---- */

struct script {
    const uint8_t *at, *end;
};

static uint64_t take(struct script *script, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes && script->at < script->end; i++)
        value |= (uint64_t)*script->at++ << (8 * i);
    return value;
}

/* ---- what the runtime knows ---- */

struct expected {
    uint64_t invocation;
    uint32_t lane, epoch, records;
    bool revoked, withdrawn;
};

/* The runtime submits nothing to a lane between a failure or a revocation and the moment when all of it is answered. */
struct lane {
    uint32_t epoch, in_flight;
    bool draining, came_back;
};

struct runtime {
    sf_port *port;
    struct expected queue[CAPACITY];
    uint64_t submitted, answered, invocation, log_end, broken;
    struct lane lanes[LANES];
};

static int memfd, doorbell, side, log_file;
static uint8_t *shared;
static size_t shared_bytes;

int LLVMFuzzerInitialize(int *count, char ***arguments);

int LLVMFuzzerInitialize(int *count, char ***arguments)
{
    (void)count, (void)arguments;
    shared_bytes = sf_ring_bytes(CAPACITY, ARENA);
    memfd = memfd_create("rings", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    REQUIRE(ftruncate(memfd, (off_t)shared_bytes) == 0);
    REQUIRE(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    shared = mmap(NULL, shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    REQUIRE(shared != MAP_FAILED);
    doorbell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    side = memfd_create("side", MFD_CLOEXEC);
    log_file = memfd_create("log", MFD_CLOEXEC);
    return 0;
}

static void expect(struct runtime *runtime, uint32_t lane, uint32_t records)
{
    struct expected entry = {.invocation = ++runtime->invocation, .lane = lane, .records = records};
    if (lane < LANES) {
        entry.epoch = runtime->lanes[lane].epoch;
        runtime->lanes[lane].in_flight += 1;
    }
    runtime->queue[runtime->submitted++ % CAPACITY] = entry;
}

static void submit(struct runtime *runtime, struct script *script)
{
    uint8_t how = (uint8_t)take(script, 1);
    uint32_t lane = how % LANES, rows = 1 + (uint32_t)take(script, 1) % ROWS_MAX, numbers[ROWS_MAX], done;
    uint32_t epoch = runtime->lanes[lane].epoch;
    sf_extent extents[3] = {{.rows = rows}, {.rows = 1, .first_row = SF_SELECTED}, {.rows = 2}};
    uint64_t next = runtime->invocation + 1;
    sf_port *port = runtime->port;
    if (how >> 6 == 3) {
        if (sf_port_retire(port, next))
            expect(runtime, UINT32_MAX, 0);
        return;
    }
    if (runtime->lanes[lane].draining)
        return;
    for (uint32_t i = 0; i < rows; i++)
        numbers[i] = 3 * i;
    if (how >> 6 == 0) {
        for (done = sf_port_submit_run(port, lane, epoch, extents, rows, 2, next, 5, NULL, NULL); done > 0; done--)
            expect(runtime, lane, rows);
    } else if (how >> 6 == 1) {
        if (sf_port_submit_rows(port, lane, epoch, extents, numbers, rows, 1, next, 5, NULL, NULL) == 1)
            expect(runtime, lane, rows);
    } else if (sf_port_submit(port, lane, epoch, extents, 3, numbers, 1, next, 5, NULL, NULL)) {
        expect(runtime, lane, rows + 3);
    }
}

/* What is taken back of a lane is the newest of it, whatever the state words say. */
static void take_back(struct runtime *runtime, uint32_t lane)
{
    uint32_t count = sf_port_revoke(runtime->port, lane), found = 0;
    for (uint64_t at = runtime->submitted; at > runtime->answered && found < count; at--) {
        struct expected *entry = &runtime->queue[(at - 1) % CAPACITY];
        if (entry->lane >= LANES || entry->revoked || entry->withdrawn || (lane != UINT32_MAX && entry->lane != lane))
            continue;
        entry->revoked = true;
        found += 1;
    }
    REQUIRE(found == count);
    for (uint32_t i = 0; i < LANES; i++)
        if ((lane == i || lane == UINT32_MAX) && runtime->lanes[i].in_flight > 0)
            runtime->lanes[i].draining = true;
}

/* What is withdrawn is nobody's any more: its slot belongs to another lane at once. */
static void withdraw(struct runtime *runtime, uint32_t lane)
{
    uint32_t count = sf_port_withdraw(runtime->port, lane);
    struct lane *mine = &runtime->lanes[lane];
    if (count == 0) {
        mine->draining = mine->in_flight > 0;
        return;
    }
    REQUIRE(count == mine->in_flight);
    for (uint64_t at = runtime->answered; at < runtime->submitted; at++)
        if (runtime->queue[at % CAPACITY].lane == lane)
            runtime->queue[at % CAPACITY].withdrawn = true;
    *mine = (struct lane){.epoch = mine->epoch + 1};
}

/* Goes past entries that are withdrawn; nothing is told of them. */
static void pass_withdrawn(struct runtime *runtime)
{
    while (runtime->answered < runtime->submitted && runtime->queue[runtime->answered % CAPACITY].withdrawn)
        runtime->answered++;
}

/* Notes the answer of the oldest entry. */
static void settle(struct runtime *runtime, const struct expected *entry, uint32_t outcome)
{
    struct lane *lane = &runtime->lanes[entry->lane];
    bool ran = outcome == SF_OK || outcome == SF_ERROR || outcome == SF_PARTLY;
    REQUIRE(!ran || !(lane->came_back || entry->revoked));
    if (outcome != SF_OK)
        lane->came_back = lane->draining = true;
    lane->in_flight -= 1;
    if (lane->in_flight == 0 && lane->draining) {
        lane->draining = lane->came_back = false;
        lane->epoch += 1;
    }
}

static void check_answer(struct runtime *runtime, const sf_reaped *reaped)
{
    if (reaped->outcome == SF_BROKEN) {
        REQUIRE(runtime->broken++ == 0 && reaped->lane == UINT32_MAX && reaped->batches == 0);
        return;
    }
    uint32_t entries = reaped->outcome == SF_RETIRED ? 1 : reaped->batches;
    uint64_t records = 0;
    REQUIRE(runtime->broken == 0 && entries > 0 && (entries == 1 || reaped->outcome == SF_OK));
    for (uint32_t i = 0; i < entries; i++) {
        pass_withdrawn(runtime);
        REQUIRE(runtime->answered < runtime->submitted);
        const struct expected entry = runtime->queue[runtime->answered++ % CAPACITY];
        REQUIRE(reaped->lane == entry.lane && (reaped->epoch == entry.epoch || entry.lane == UINT32_MAX));
        REQUIRE(i > 0 || reaped->first_invocation == entry.invocation);
        REQUIRE((reaped->outcome == SF_RETIRED) == (entry.lane == UINT32_MAX));
        records += entry.records;
        if (entry.lane != UINT32_MAX)
            settle(runtime, &entry, reaped->outcome);
    }
    REQUIRE(records == reaped->records && reaped->log_end >= runtime->log_end && reaped->log_end <= INT64_MAX);
    REQUIRE(reaped->printed == (reaped->log_end > runtime->log_end));
    runtime->log_end = reaped->log_end;
    REQUIRE(reaped->payload_inline ? reaped->payload_bytes <= SF_REPLY_BYTES
                                   : reaped->side_offset + reaped->payload_bytes <= INT64_MAX);
    REQUIRE(reaped->started_ns <= reaped->finished_ns);
    REQUIRE(reaped->started_ns == 0 || reaped->submitted_ns <= reaped->started_ns);
}

static void reap(struct runtime *runtime, bool fold)
{
    sf_reaped reaped[REAPED];
    uint32_t count = sf_port_reap(runtime->port, reaped, REAPED, fold);
    REQUIRE(count <= REAPED);
    for (uint32_t i = 0; i < count; i++)
        check_answer(runtime, &reaped[i]);
    uint32_t left = sf_port_in_flight(runtime->port);
    while (runtime->submitted - runtime->answered > left) {
        REQUIRE(runtime->queue[runtime->answered % CAPACITY].withdrawn);
        runtime->answered++;
    }
    REQUIRE(left == runtime->submitted - runtime->answered);
}

static void bury(struct runtime *runtime)
{
    sf_reaped left;
    for (unsigned i = 0; i <= CAPACITY; i++)
        reap(runtime, false);
    for (bool first = true; sf_port_orphan(runtime->port, &left) != 0; first = false) {
        pass_withdrawn(runtime);
        REQUIRE(runtime->answered < runtime->submitted);
        const struct expected entry = runtime->queue[runtime->answered++ % CAPACITY];
        bool charged = left.outcome == SF_ERROR;
        REQUIRE(left.lane == entry.lane && left.first_invocation == entry.invocation && left.records == entry.records);
        REQUIRE(!charged || (first && !entry.revoked && !runtime->lanes[entry.lane].came_back));
    }
    pass_withdrawn(runtime);
    REQUIRE(runtime->answered == runtime->submitted);
}

/* ---- the worker ---- */

static void work(sf_desk *desk, struct script *script)
{
    char payload[SF_REPLY_BYTES + 50] = {0};
    sf_work item;
    uint8_t how = (uint8_t)take(script, 1);
    int kind = sf_desk_next(desk, &item, 0);
    if (kind == SF_NEXT_RETIRE)
        sf_desk_retired(desk);
    if (kind != SF_NEXT_INVOKE && kind != SF_NEXT_SELECTED)
        return;
    for (uint64_t i = 0; i < item.extent_count * sizeof(sf_extent); i++)
        keep(((const uint8_t *)item.extents)[i]);
    for (uint64_t i = 0; i < item.selected * sizeof(uint32_t); i++)
        keep(((const uint8_t *)item.selection)[i]);
    if (how & 1)
        REQUIRE(write(log_file, "x", 1) == 1);
    uint32_t outcome = how & 2 ? SF_OK : how & 4 ? SF_ERROR : SF_PARTLY;
    sf_desk_finish(desk, outcome, payload, how & 8 ? sizeof payload : how >> 4);
}

/* An answer as it could be, to the entry whose turn it is. */
static void forge(struct sf_rings *rings, struct script *script)
{
    uint8_t how = (uint8_t)take(script, 1);
    uint64_t tail = atomic_load(&rings->header->cq_tail);
    struct sf_completion *answer = &rings->completions[tail % CAPACITY];
    memset(answer, 0, sizeof *answer);
    answer->outcome = how % 8;
    answer->payload_inline = how >> 3 & 1;
    answer->payload_bytes = (uint32_t)take(script, how >> 4 & 3);
    answer->log_end = take(script, how >> 6);
    answer->side_offset = take(script, how >> 6);
    atomic_store(&rings->header->cq_tail, tail + 1);
}

static const uint16_t HEADER_FIELDS[] = {128, 256, 384, 512, 640, 768, 896};

static void scribble(struct sf_rings *rings, struct script *script)
{
    uint8_t where = (uint8_t)take(script, 1), width = 1 + (uint8_t)take(script, 1) % 8;
    uint64_t value = take(script, width);
    uint8_t *at;
    switch (where >> 6) {
    case 0: at = shared + HEADER_FIELDS[where % 7]; break;
    case 1: at = (uint8_t *)&rings->completions[where % CAPACITY] + (where >> 3 & 7) * 6; break;
    case 2: at = (uint8_t *)&rings->submissions[where % CAPACITY] + (where >> 3 & 7) * 4; break;
    default: at = shared + (take(script, 2) % (shared_bytes - sizeof value));
    }
    memcpy(at, &value, width);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct script script = {data, data + size};
    struct runtime runtime = {0};
    struct sf_rings rings = sf_rings_at(shared, CAPACITY, ARENA);
    memset(shared, 0, shared_bytes);
    REQUIRE(ftruncate(log_file, 0) == 0 && lseek(log_file, 0, SEEK_SET) == 0);
    runtime.port = sf_port_open(memfd, CAPACITY, ARENA);
    sf_desk *desk = sf_desk_open(memfd, doorbell, log_file, side);
    REQUIRE(runtime.port != NULL && desk != NULL);
    while (script.at < script.end) {
        uint8_t step = *script.at++;
        switch (step % 10) {
        case 0:
        case 1: submit(&runtime, &script); break;
        case 2: sf_port_publish(runtime.port); break;
        case 3:
            if (step >= 200)
                withdraw(&runtime, step % LANES);
            else
                take_back(&runtime, step / 10 % 4 == 3 ? UINT32_MAX : step / 10 % 4);
            break;
        case 4: reap(&runtime, step / 10 % 2); break;
        case 5: sf_port_release(runtime.port); break;
        case 6: keep(sf_port_arm(runtime.port, step / 10)); break;
        case 7: work(desk, &script); break;
        case 8: forge(&rings, &script); break;
        default: scribble(&rings, &script);
        }
    }
    bury(&runtime);
    sf_desk_close(desk);
    sf_port_close(runtime.port);
    return 0;
}
