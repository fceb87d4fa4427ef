/*
 * Both sides of the rings in one process, one thread each, for the sanitizers.
 *
 *      ring_threads ITEMS SEED
 *
 * The runtime submits runs, batches of many extents, of selected rows and retire entries on several lanes, revokes and withdraws at times, and sleeps on
 * the eventfd with changing low-water marks.  The worker's outcomes and payloads are functions of the invocation number,
 * so both sides know what has to arrive.  Checked: every entry is answered once and in order, by the worker that saw
 * that very entry; what follows a failure in its lane and epoch is skipped; nothing runs behind a batch revoked with it;
 * no side sleeps past a wake-up (10 s).
 *
 * ThreadSanitizer knows addresses, not pages: linked with --wrap=mmap,--wrap=munmap and SHARE_MAPPING, both sides use one
 * mapping, so that it sees that they meet.  Without, the memfd is mapped twice, as between processes.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sf_ring.h"

enum { CAPACITY = 64, LANES = 4, EXTENTS_MAX = 40, ROWS_MAX = 2 * EXTENTS_MAX, ARENA = 84 * EXTENTS_MAX + 900, PAYLOAD_MAX = 1500 };

#define STOP UINT64_MAX
#define SLEEP_MS 10000

#define CHECK(what)                                                        \
    do {                                                                   \
        if (!(what)) {                                                     \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
            exit(3);                                                       \
        }                                                                  \
    } while (0)

#ifdef SHARE_MAPPING
void *__real_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *address, size_t length);

static void *shared_base;
static int shared_users;

void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (shared_users++ == 0)
        shared_base = __real_mmap(address, length, protection, flags, fd, offset);
    return shared_base;
}

int __wrap_munmap(void *address, size_t length)
{
    return --shared_users == 0 ? __real_munmap(address, length) : 0;
}
#endif

static uint64_t mix(uint64_t value)
{
    value ^= value >> 33;
    value *= UINT64_C(0xff51afd7ed558ccd);
    value ^= value >> 33;
    value *= UINT64_C(0xc4ceb9fe1a85ec53);
    return value ^ value >> 33;
}

/* ---- what an invocation does, known to both sides ---- */

static uint32_t outcome_of(uint64_t invocation)
{
    uint64_t dice = mix(invocation) % 97;
    return dice == 0 ? SF_ERROR : dice == 1 ? SF_PARTLY : SF_OK;
}

static size_t payload_size(uint64_t invocation)
{
    uint64_t dice = mix(invocation + 1);
    return 8 + (dice % 53 == 0 ? SF_REPLY_BYTES + dice % 1000 : dice % 40);
}

/* The number of the batch's row in place `i`, where it is selected; those of a batch ascend, and do not follow each other. */
static uint32_t row_number(uint64_t invocation, uint32_t i)
{
    return (uint32_t)(mix(invocation) % 1000) + 3 * i;
}

/* Whether the extent that begins with the row in place `i` has selected rows. */
static bool is_selected(uint64_t invocation, uint32_t i)
{
    return mix(invocation + i) % 4 == 0;
}

static void make_payload(uint64_t invocation, char *payload, size_t bytes)
{
    memcpy(payload, &invocation, 8);
    memset(payload + 8, (int)(mix(invocation) & 127), bytes - 8);
}

/* ---- the worker ---- */

struct shared {
    sf_port *port;
    sf_desk *desk;
    int doorbell;
    int side;
    uint64_t items;
    uint64_t seed;
    uint64_t ran; /* written by the worker, read after it was joined */
};

static void check_extents(const sf_work *work)
{
    const sf_extent *extents = (const sf_extent *)work->extents;
    const uint32_t *selection = (const uint32_t *)work->selection;
    uint32_t records = 0;
    uint64_t selected = 0;
    for (uint32_t i = 0; i < work->extent_count; i++) {
        CHECK(extents[i].segment_id == work->invocation);
        CHECK(extents[i].first_offset == mix(work->invocation) + records);
        bool wanted = extents[i].rows > 1 && is_selected(work->invocation, records);
        CHECK(wanted == (extents[i].first_row == SF_SELECTED));
        for (uint32_t row = 0; wanted && row < extents[i].rows; row++)
            CHECK(selection[selected++] == row_number(work->invocation, records + row));
        records += extents[i].rows;
    }
    CHECK(records == work->records && selected == work->selected);
}

static void *work(void *argument)
{
    struct shared *shared = argument;
    char payload[PAYLOAD_MAX];
    uint64_t last = 0;
    for (;;) {
        sf_work item;
        int kind = sf_desk_next(shared->desk, &item, (uint64_t)SLEEP_MS * 1000000u);
        CHECK(kind == SF_NEXT_INVOKE || kind == SF_NEXT_SELECTED || kind == SF_NEXT_RETIRE); /* AGAIN: a wake-up was lost */
        if (kind == SF_NEXT_RETIRE) {
            CHECK(sf_desk_retired(shared->desk));
            if (item.segment_id == STOP)
                return NULL;
            continue;
        }
        CHECK(item.invocation > last);
        last = item.invocation;
        CHECK((kind == SF_NEXT_SELECTED) == (item.selected != 0));
        check_extents(&item);
        size_t bytes = payload_size(item.invocation);
        make_payload(item.invocation, payload, bytes);
        CHECK(sf_desk_finish(shared->desk, outcome_of(item.invocation), payload, bytes));
        shared->ran += 1;
    }
}

/* ---- the runtime ---- */

struct expected {
    uint64_t invocation;
    uint32_t lane;
    uint32_t epoch;
    uint32_t records;
    uint64_t revocations; /* calls of sf_port_revoke before it */
    bool withdrawn;       /* nobody is told of it any more */
};

struct runtime {
    struct shared *shared;
    struct expected queue[CAPACITY];
    uint64_t submitted;
    uint64_t answered;
    uint64_t invocation;
    uint64_t dice;
    uint64_t outcomes[7];
    uint64_t withdrawn;
    uint32_t epoch[LANES];
    uint64_t failed_below[LANES];
    uint64_t revocations;
    uint64_t revoked[LANES]; /* 1 + `revocations` of the last revoked entry: what shares it and follows must not run */
};

static uint64_t roll(struct runtime *runtime, uint64_t sides)
{
    runtime->dice += UINT64_C(0x9e3779b97f4a7c15);
    return mix(runtime->dice) % sides;
}

static void expect(struct runtime *runtime, uint64_t invocation, uint32_t lane, uint32_t records)
{
    uint32_t epoch = lane < LANES ? runtime->epoch[lane] : 0;
    struct expected expected = {invocation, lane, epoch, records, runtime->revocations, false};
    runtime->queue[runtime->submitted++ % CAPACITY] = expected;
}

static sf_extent extent_of(uint64_t invocation, uint64_t skipped, uint32_t rows)
{
    return (sf_extent){.segment_id = invocation, .first_offset = mix(invocation) + skipped, .rows = rows};
}

static void submit_single(struct runtime *runtime, uint32_t lane)
{
    uint32_t rows = 1 + (uint32_t)roll(runtime, 9);
    uint64_t invocation = ++runtime->invocation;
    sf_extent extent = extent_of(invocation, 0, rows);
    sf_port *port = runtime->shared->port;
    uint32_t epoch = runtime->epoch[lane], done, numbers[9];
    if (rows > 1 && is_selected(invocation, 0)) {
        for (uint32_t i = 0; i < rows; i++)
            numbers[i] = row_number(invocation, i);
        extent.first_offset -= numbers[0];
        done = sf_port_submit_rows(port, lane, epoch, &extent, numbers, rows, 1, invocation, 1, NULL, NULL);
    } else {
        done = sf_port_submit_run(port, lane, epoch, &extent, rows, 1, invocation, 1, NULL, NULL);
    }
    CHECK(done <= 1);
    if (done == 1)
        expect(runtime, invocation, lane, rows);
}

static void submit_many_extents(struct runtime *runtime, uint32_t lane)
{
    sf_extent extents[EXTENTS_MAX];
    uint32_t count = 1 + (uint32_t)roll(runtime, EXTENTS_MAX);
    uint32_t records = 0, selected = 0, selection[ROWS_MAX];
    uint64_t invocation = runtime->invocation + 1;
    for (uint32_t i = 0; i < count; i++) {
        extents[i] = extent_of(invocation, records, i % 3);
        if (extents[i].rows > 1 && is_selected(invocation, records)) {
            extents[i].first_row = SF_SELECTED;
            for (uint32_t row = 0; row < extents[i].rows; row++)
                selection[selected++] = row_number(invocation, records + row);
        }
        records += i % 3;
    }
    if (sf_port_submit(runtime->shared->port, lane, runtime->epoch[lane], extents, count, selection, selected, invocation, 1,
                       NULL, NULL)) {
        expect(runtime, invocation, lane, records);
        runtime->invocation += 1;
    }
}

/* Gives up what a lane has outstanding, if none of it has begun; its slot goes to another lane. */
static void withdraw(struct runtime *runtime, uint32_t lane)
{
    uint32_t count = sf_port_withdraw(runtime->shared->port, lane), found = 0;
    for (uint64_t at = runtime->answered; count > 0 && at < runtime->submitted; at++) {
        struct expected *entry = &runtime->queue[at % CAPACITY];
        found += entry->lane == lane && !entry->withdrawn;
        entry->withdrawn = entry->withdrawn || entry->lane == lane;
    }
    CHECK(found == count);
    runtime->withdrawn += count;
    runtime->epoch[lane] += count > 0;
}

static void pass_withdrawn(struct runtime *runtime)
{
    while (runtime->answered < runtime->submitted && runtime->queue[runtime->answered % CAPACITY].withdrawn)
        runtime->answered += 1;
}

static void submit(struct runtime *runtime)
{
    uint64_t rounds = 1 + roll(runtime, 40);
    for (uint64_t i = 0; i < rounds; i++) {
        uint32_t lane = (uint32_t)(roll(runtime, 200) / 60);
        uint64_t what = roll(runtime, 100);
        if (what < 80)
            submit_single(runtime, lane);
        else if (what < 98)
            submit_many_extents(runtime, lane);
        else if (sf_port_retire(runtime->shared->port, 5))
            expect(runtime, 5, UINT32_MAX, 0);
    }
    sf_port_publish(runtime->shared->port);
    if (roll(runtime, 20) == 0) {
        runtime->revocations += 1;
        sf_port_revoke(runtime->shared->port, roll(runtime, 3) == 0 ? UINT32_MAX : (uint32_t)roll(runtime, LANES));
    } else if (roll(runtime, 20) == 0) {
        runtime->revocations += 1;
        withdraw(runtime, (uint32_t)roll(runtime, LANES));
    }
}

static void check_payload(const struct runtime *runtime, const sf_reaped *reaped, uint64_t invocation)
{
    char wanted[PAYLOAD_MAX];
    char found[PAYLOAD_MAX];
    size_t bytes = payload_size(invocation);
    CHECK(reaped->payload_bytes == bytes);
    CHECK(reaped->payload_inline == (bytes <= SF_REPLY_BYTES));
    make_payload(invocation, wanted, bytes);
    if (reaped->payload_inline)
        memcpy(found, reaped->payload, bytes);
    else
        CHECK(pread(runtime->shared->side, found, bytes, (off_t)reaped->side_offset) == (ssize_t)bytes);
    CHECK(memcmp(wanted, found, bytes) == 0);
}

/* Checks one answer against the oldest of what is expected; the last of the batches folded into it against its payload. */
static void check_answer(struct runtime *runtime, const sf_reaped *reaped)
{
    uint32_t entries = reaped->outcome == SF_RETIRED ? 1 : reaped->batches;
    uint64_t records = 0;
    CHECK(entries == 1 || (entries > 1 && reaped->outcome == SF_OK));
    for (uint32_t i = 0; i < entries; i++) {
        pass_withdrawn(runtime);
        CHECK(runtime->answered < runtime->submitted);
        const struct expected *wanted = &runtime->queue[runtime->answered++ % CAPACITY];
        CHECK(i > 0 || reaped->first_invocation == wanted->invocation);
        CHECK(reaped->lane == wanted->lane && reaped->epoch == wanted->epoch);
        records += wanted->records;
        runtime->outcomes[reaped->outcome] += 1;
        bool failed = reaped->outcome == SF_ERROR || reaped->outcome == SF_PARTLY;
        bool ran = reaped->outcome == SF_OK || failed;
        bool is_failed = wanted->lane < LANES && wanted->epoch < runtime->failed_below[wanted->lane];
        CHECK(!ran || (!is_failed && reaped->outcome == outcome_of(wanted->invocation)));
        CHECK(!ran || runtime->revoked[wanted->lane] != wanted->revocations + 1);
        if (reaped->outcome == SF_REVOKED)
            runtime->revoked[wanted->lane] = wanted->revocations + 1;
        CHECK(reaped->outcome != SF_SKIPPED || is_failed);
        CHECK((reaped->outcome == SF_RETIRED) == (wanted->lane == UINT32_MAX));
        if (ran && i == entries - 1)
            check_payload(runtime, reaped, wanted->invocation);
        if (failed) {
            runtime->failed_below[wanted->lane] = wanted->epoch + 1;
            if (runtime->epoch[wanted->lane] == wanted->epoch)
                runtime->epoch[wanted->lane] += 1;
        }
    }
    CHECK(records == reaped->records);
}

static void reap(struct runtime *runtime)
{
    sf_reaped reaped[16];
    uint32_t count;
    do {
        count = sf_port_reap(runtime->shared->port, reaped, 16, roll(runtime, 2) == 0);
        for (uint32_t i = 0; i < count; i++)
            check_answer(runtime, &reaped[i]);
        if (roll(runtime, 4) != 0)
            sf_port_release(runtime->shared->port);
    } while (count == 16);
    sf_port_release(runtime->shared->port);
    uint64_t left = sf_port_in_flight(runtime->shared->port);
    for (; runtime->submitted - runtime->answered > left; runtime->answered++)
        CHECK(runtime->queue[runtime->answered % CAPACITY].withdrawn);
    CHECK(left == runtime->submitted - runtime->answered);
}

static void sleep_for_answers(struct runtime *runtime)
{
    uint32_t in_flight = sf_port_in_flight(runtime->shared->port);
    uint32_t low_water = roll(runtime, 3) == 0 ? CAPACITY : (uint32_t)roll(runtime, in_flight + 1);
    struct pollfd bell = {.fd = runtime->shared->doorbell, .events = POLLIN};
    uint64_t rung;
    if (in_flight == 0 || sf_port_arm(runtime->shared->port, low_water))
        return;
    CHECK(poll(&bell, 1, SLEEP_MS) == 1); /* 0: a wake-up was lost */
    CHECK(read(bell.fd, &rung, sizeof rung) == sizeof rung);
    if (roll(runtime, 2) == 0)
        sf_port_disarm(runtime->shared->port);
}

static void run(struct shared *shared)
{
    static struct runtime runtime;
    runtime.shared = shared;
    runtime.dice = shared->seed;
    while (runtime.answered < shared->items) {
        submit(&runtime);
        if (roll(&runtime, 4) != 0)
            sleep_for_answers(&runtime);
        reap(&runtime);
    }
    while (runtime.answered < runtime.submitted) {
        sleep_for_answers(&runtime);
        reap(&runtime);
    }
    CHECK(sf_port_retire(shared->port, STOP));
    sf_port_publish(shared->port);
    printf("ok %lu error %lu partly %lu skipped %lu revoked %lu retired %lu withdrawn %lu\n", (unsigned long)runtime.outcomes[SF_OK],
           (unsigned long)runtime.outcomes[SF_ERROR], (unsigned long)runtime.outcomes[SF_PARTLY],
           (unsigned long)runtime.outcomes[SF_SKIPPED],
           (unsigned long)runtime.outcomes[SF_REVOKED], (unsigned long)runtime.outcomes[SF_RETIRED],
           (unsigned long)runtime.withdrawn);
    shared->items = runtime.outcomes[SF_OK] + runtime.outcomes[SF_ERROR] + runtime.outcomes[SF_PARTLY];
}

int main(int count, char **arguments)
{
    CHECK(count == 3);
    struct shared shared = {.items = strtoull(arguments[1], NULL, 10), .seed = strtoull(arguments[2], NULL, 10)};
    int memfd = memfd_create("rings", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(ftruncate(memfd, (off_t)sf_ring_bytes(CAPACITY, ARENA)) == 0);
    CHECK(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    shared.doorbell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    shared.side = memfd_create("side", MFD_CLOEXEC);
    shared.port = sf_port_open(memfd, CAPACITY, ARENA);
    CHECK(shared.port != NULL);
    shared.desk = sf_desk_open(memfd, shared.doorbell, -1, shared.side);
    CHECK(shared.desk != NULL);
    pthread_t worker;
    CHECK(pthread_create(&worker, NULL, work, &shared) == 0);
    run(&shared);
    pthread_join(worker, NULL);
    CHECK(shared.ran == shared.items);
    CHECK(lseek(shared.side, 0, SEEK_END) < 4 * CAPACITY * PAYLOAD_MAX);
    sf_desk_close(shared.desk);
    sf_port_close(shared.port);
    return 0;
}
