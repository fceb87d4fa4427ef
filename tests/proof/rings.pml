/*
 * The rings of native/include/sf_ring.h as a Spin model: what the C does with shared memory, step by step, on a machine with
 * store buffers, and every moment at which either side can be killed.
 *
 * Memory.  Each side has a buffer of stores that memory has not seen; a load sees the side's own buffer, then memory.  A fence
 * waits until the buffer is empty, and so does every read-modify-write, and every system call that matters here (the kernel
 * takes a lock).  Plain build: buffers are first in, first out, as on x86 (TSO).  With WEAK a store may overtake earlier ones of
 * other words unless it is a release, as on machines that reorder stores.  What a killed side has stored still arrives, and
 * arrives before the other side hears of the death.
 *
 * Configurations, by what is defined:
 *      RINGS           two sides that never sleep: entries, answers, slots that are used again
 *      REVOKE          and the runtime takes back what is not begun, of one lane or of both; batches fail
 *      REVOKE WITHDRAW and gives a lane's slot to another one at once, where nothing of it had begun
 *      DOORBELL        both sides sleep, the runtime with any low-water mark; entries are submitted while it sleeps
 *      WORKER_DEATH    and the worker is killed at any step (with REVOKE too, and AWAKE where nobody is to sleep)
 *      RUNTIME_DEATH   and the runtime is killed at any step
 *
 * Checked: what is taken is what was submitted, what is reaped is what was answered, each entry once and in order; nothing runs
 * that was taken back, nor behind what was taken back or failed in its lane; a dead worker is charged with what it had begun
 * and with nothing it was going to skip; and when nothing can move any more, everything is done: no wake-up was lost.
 *
 * Every OMIT_... leaves something out that the C has.  Each must be found: see test_ring_model.py.
 */
#ifdef REVOKE
#define REVOKES
#endif
#if defined(DOORBELL) || defined(WORKER_DEATH) || defined(RUNTIME_DEATH)
#ifndef AWAKE
#define SLEEPS
#endif
#endif

#ifndef ITEMS
#define ITEMS 4
#endif
#ifndef CAPACITY
#define CAPACITY 2
#endif
#ifndef BUFFER
#define BUFFER 2
#endif

/* ---- memory ---- */

#define RUNTIME 0
#define WORKER 1

#define SQ_TAIL 0
#define CQ_TAIL 1
#define WORKER_SLEEPS 2
#define RUNTIME_SLEEPS 3
#define STATE(slot) (4 + (slot))
#define ENTRY(slot) (4 + CAPACITY + (slot))
#define ANSWER(slot) (4 + 2 * CAPACITY + (slot))
#define WORDS (4 + 3 * CAPACITY)

byte memory[WORDS];
byte buffered[2];                       /* how many stores are in a side's buffer, oldest first */
byte address[2 * BUFFER];
byte value[2 * BUFFER];
bit release[2 * BUFFER];

byte i_;                                /* of the inlines; always 0 between two steps */

inline put(side, a, v, ordered) {
    atomic {
        buffered[side] < BUFFER;
        address[side * BUFFER + buffered[side]] = a;
        value[side * BUFFER + buffered[side]] = v;
        release[side * BUFFER + buffered[side]] = ordered;
        buffered[side] = buffered[side] + 1
    }
}
#define store(side, a, v) put(side, a, v, 0)
#define store_release(side, a, v) put(side, a, v, 1)

inline load(side, a, to) {
    d_step {
        to = memory[a];
        i_ = 0;
        do
        :: i_ < buffered[side] ->
            if
            :: address[side * BUFFER + i_] == a -> to = value[side * BUFFER + i_]
            :: else
            fi;
            i_ = i_ + 1
        :: else -> break
        od;
        i_ = 0
    }
}

#define fence(side) buffered[side] == 0

/* to = what was there; there is `new` now if it was `old` */
inline compare_and_swap(side, a, old, new, to) {
    atomic {
        buffered[side] == 0;
        to = memory[a];
        if
        :: to == old -> memory[a] = new
        :: else
        fi
    }
}

inline exchange(side, a, new, to) {
    atomic {
        buffered[side] == 0;
        to = memory[a];
        memory[a] = new
    }
}

/* Takes the store in place `at` out of a buffer, into memory. */
inline arrive(side, at) {
    d_step {
        memory[address[side * BUFFER + at]] = value[side * BUFFER + at];
        i_ = at + 1;
        do
        :: i_ < buffered[side] ->
            address[side * BUFFER + i_ - 1] = address[side * BUFFER + i_];
            value[side * BUFFER + i_ - 1] = value[side * BUFFER + i_];
            release[side * BUFFER + i_ - 1] = release[side * BUFFER + i_];
            i_ = i_ + 1
        :: else -> break
        od;
        buffered[side] = buffered[side] - 1;
        address[side * BUFFER + buffered[side]] = 0;
        value[side * BUFFER + buffered[side]] = 0;
        release[side * BUFFER + buffered[side]] = 0;
        i_ = 0
    }
}

#define overtakes(side, at, earlier) \
    (!release[side * BUFFER + at] && address[side * BUFFER + at] != address[side * BUFFER + earlier])

proctype buffer(byte side) {
end:
    do
    :: buffered[side] > 0 -> arrive(side, 0)
#ifdef WEAK
    :: buffered[side] > 1 && overtakes(side, 1, 0) -> arrive(side, 1)
    :: buffered[side] > 2 && overtakes(side, 2, 0) && overtakes(side, 2, 1) -> arrive(side, 2)
#endif
    od
}

/* ---- what the kernel has, and what we keep to check ---- */

bit worker_waits;                       /* in the futex queue */
bit rung;                               /* the eventfd has been written to since the runtime looked */
bit worker_dead, runtime_dead;
bit runtime_done, worker_done;

#define READY 1
#define CLAIMED 2
#define REVOKED 3

#define OK 1
#define FAILED 2
#define SKIPPED 3
#define TAKEN_BACK 4

/* Items are 1 .. ITEMS, of lanes 0 1 1 0 0 1 1 ..; an item's slot is (item - 1) % CAPACITY. */
#define SLOT(item) (((item) - 1) % CAPACITY)
#define LANE(item) (((item) / 2) & 1)

bit begun[ITEMS + 1];                   /* the handler has been called */
bit revoked[ITEMS + 1];
bit withdrawn[ITEMS + 1];               /* revoked, and its lane has gone elsewhere */
bit fails[ITEMS + 1];                   /* it is going to fail */
byte epoch[ITEMS + 1];                  /* of its lane, when it was submitted */
byte reaped;                            /* answers the runtime has seen */

/* An answer says whose it is, so that one that is read too early is noticed. */
#define SAY(item, outcome) (8 * (item) + (outcome))

/* ---- the worker: native/src/ring_desk.c ---- */

byte failed_below[2];                   /* of a lane: what is of an earlier epoch is skipped */

inline ring() {
    exchange(WORKER, RUNTIME_SLEEPS, 0, w_seen);
    if
    :: w_seen != 0 ->
        fence(WORKER);
        rung = 1
    :: else
    fi
}

/* Publishes the answer of the entry at head. */
inline answer(outcome) {
#ifdef OMIT_ANSWER_ORDER
    store_release(WORKER, CQ_TAIL, head + 1);
    store(WORKER, ANSWER(SLOT(head + 1)), SAY(head + 1, outcome));
#else
    store(WORKER, ANSWER(SLOT(head + 1)), SAY(head + 1, outcome));
#ifdef OMIT_ANSWER_RELEASE
    store(WORKER, CQ_TAIL, head + 1);
#else
    store_release(WORKER, CQ_TAIL, head + 1);       /* E */
#endif
#endif
    head = head + 1;
#ifdef SLEEPS
#ifndef OMIT_FENCE_ANSWER
    fence(WORKER);
#endif
    load(WORKER, RUNTIME_SLEEPS, w_seen);
    if
    :: w_seen != 0 ->
        load(WORKER, SQ_TAIL, tail);
        if
        :: outcome == OK && tail - head > w_seen - 1
#ifdef OMIT_LOW_WATER
        :: outcome == OK && tail - head <= w_seen - 1
        :: outcome != OK -> ring()
#else
        :: else -> ring()
#endif
        fi
    :: else
    fi
#endif
}

/* Waits until sq_tail moves. */
inline wait_for_entry() {
    store(WORKER, WORKER_SLEEPS, 1);
#ifndef OMIT_FENCE_WORKER_SLEEP
    fence(WORKER);
#endif
#ifndef OMIT_RECHECK_WORKER
    load(WORKER, SQ_TAIL, tail);
#endif
    if
    :: tail == head ->
        fence(WORKER);
        atomic {
            if
            :: memory[WORKER_SLEEPS] == 1 -> worker_waits = 1
            :: else
            fi
        }
#ifdef OMIT_WATCH_RUNTIME
        worker_waits == 0
#else
        worker_waits == 0 || runtime_dead
#endif
    :: else
    fi;
    store(WORKER, WORKER_SLEEPS, 0);
    load(WORKER, SQ_TAIL, tail)                     /* B */
}

/* Takes the entry at head, and answers it. */
inline take() {
    load(WORKER, ENTRY(SLOT(head + 1)), w_seen);
    assert(w_seen == head + 1);                     /* what was submitted is visible */
    skip_it = epoch[head + 1] < failed_below[LANE(head + 1)];
#ifdef OMIT_CLAIM
    load(WORKER, STATE(SLOT(head + 1)), w_seen);
    if
    :: w_seen == READY && !skip_it -> store(WORKER, STATE(SLOT(head + 1)), CLAIMED)
    :: w_seen == READY && skip_it -> store(WORKER, STATE(SLOT(head + 1)), REVOKED)
    :: else
    fi;
#else
#ifdef OMIT_SKIP_UNCLAIMED
    compare_and_swap(WORKER, STATE(SLOT(head + 1)), READY, CLAIMED, w_seen);
#else
    if
    :: skip_it -> compare_and_swap(WORKER, STATE(SLOT(head + 1)), READY, REVOKED, w_seen)
    :: else -> compare_and_swap(WORKER, STATE(SLOT(head + 1)), READY, CLAIMED, w_seen)  /* C */
    fi;
#endif
#endif
    assert(w_seen == READY || w_seen == REVOKED);
    if
    :: w_seen == REVOKED -> answer(TAKEN_BACK)
    :: w_seen == READY && skip_it -> answer(SKIPPED)
    :: else ->
        invoke(head + 1);
        if
        :: fails[head + 1] ->
#ifndef OMIT_SKIP
            failed_below[LANE(head + 1)] = epoch[head + 1] + 1;
#endif
            answer(FAILED)
        :: else -> answer(OK)
        fi
    fi;
    atomic { skip_it = 0; w_seen = 0 }
}

/* The handler.  Nothing of its lane before it has come back while it was in flight, or failed in its epoch. */
inline invoke(item) {
    d_step {
        assert(!revoked[item]);
        i_ = 1;
        do
        :: i_ < item ->
            assert(!(LANE(i_) == LANE(item) && revoked[i_] && !withdrawn[i_] && i_ > reaped));
            assert(!(LANE(i_) == LANE(item) && epoch[i_] == epoch[item] && begun[i_] && fails[i_]));
            i_ = i_ + 1
        :: else -> break
        od;
        i_ = 0;
        begun[item] = 1
    }
}

proctype worker() provided (!worker_dead) {
    byte head, tail, w_seen;
    bit skip_it;
    do
    :: head == ITEMS -> break
#ifdef RUNTIME_DEATH
    :: runtime_dead && head == tail -> break        /* killed with it, whenever it looks */
#endif
    :: head < ITEMS && head == tail ->
        load(WORKER, SQ_TAIL, tail);
#ifdef SLEEPS
        if
        :: head == tail -> wait_for_entry()
        :: else
        fi
#endif
    :: head < ITEMS && head != tail -> take()
    od;
    worker_done = 1
}

/* ---- the runtime: native/src/ring_port.c ---- */

inline submit(item) {
    atomic {
        epoch[item] = lane_epoch[LANE(item)];
        if
#ifdef REVOKES
        :: fails[item] = 1
#endif
        :: skip
        fi
    };
#ifdef OMIT_SUBMIT_ORDER
    store_release(RUNTIME, SQ_TAIL, item);
#endif
    store(RUNTIME, ENTRY(SLOT(item)), item);
    store(RUNTIME, STATE(SLOT(item)), READY)
}

inline publish() {
#ifdef OMIT_SUBMIT_ORDER
    skip;
#else
#ifdef OMIT_PUBLISH_RELEASE
    store(RUNTIME, SQ_TAIL, submitted);
#else
    store_release(RUNTIME, SQ_TAIL, submitted);     /* A */
#endif
#endif
#ifdef SLEEPS
#ifndef OMIT_FENCE_PUBLISH
    fence(RUNTIME);
#endif
    load(RUNTIME, WORKER_SLEEPS, seen);
    if
    :: seen != 0 ->
        exchange(RUNTIME, WORKER_SLEEPS, 0, seen);
        if
        :: seen != 0 -> worker_waits = 0            /* futex wake */
        :: else
        fi
    :: else
    fi;
    seen = 0
#endif
}

/* Submits one or all there is room for, and publishes.  A lane that drains gets nothing. */
#define ROOM (submitted < ITEMS && submitted - reaped < CAPACITY && !draining[LANE(submitted + 1)])
/* An entry of an epoch that failed. */
#define OVER(item) (epoch[item] < over_below[LANE(item)])

inline submit_some() {
    submit(submitted + 1);
    submitted = submitted + 1;
    do
    :: ROOM ->
        submit(submitted + 1);
        submitted = submitted + 1
    :: break
    od;
    publish()
}

/* Takes back what is not begun of a lane (2: of both), the newest first. */
inline revoke(lane) {
    at = submitted;
#ifdef OMIT_NEWEST_FIRST
    at = reaped + 1;
#endif
    do
#ifdef OMIT_NEWEST_FIRST
    :: at <= submitted ->
#else
    :: at > reaped ->
#endif
        if
        :: !revoked[at] && (lane == 2 || LANE(at) == lane) ->
#ifdef OMIT_REVOKE_SWAP
            load(RUNTIME, STATE(SLOT(at)), seen);
            if
            :: seen == READY -> store(RUNTIME, STATE(SLOT(at)), REVOKED)
            :: else
            fi;
#else
            compare_and_swap(RUNTIME, STATE(SLOT(at)), READY, REVOKED, seen);   /* D */
#endif
            if
            :: seen == READY -> revoked[at] = 1
#ifdef OMIT_NEWEST_FIRST
            :: else
#else
            :: else -> break
#endif
            fi
        :: else
        fi;
#ifdef OMIT_NEWEST_FIRST
        at = at + 1
#else
        at = at - 1
#endif
    :: else -> break
    od;
    at = 0;
    d_step {
        seen = 0;
        if
        :: lane == 2 -> draining[0] = 1; draining[1] = 1
        :: else -> draining[lane] = 1
        fi;
        settle()
    }
}

/* Gives up what a lane has outstanding, if nothing of it has begun: another lane has its slot at once, in an epoch of its own. */
inline withdraw(lane) {
    revoke(lane);
    d_step {
        i_ = reaped + 1;
        at = 0;
        do
        :: i_ <= submitted ->
            if
            :: LANE(i_) == lane && !withdrawn[i_] ->
                seen = 1;
                at = (revoked[i_] -> at : 1)
            :: else
            fi;
            i_ = i_ + 1
        :: else -> break
        od;
#ifdef OMIT_WITHDRAW_WHOLE
        at = 0;
#endif
        if
        :: seen && at == 0 ->
            i_ = reaped + 1;
            do
            :: i_ <= submitted ->
                if
                :: LANE(i_) == lane && !withdrawn[i_] ->
                    withdrawn[i_] = 1;
                    assert(!begun[i_])
                :: else
                fi;
                i_ = i_ + 1
            :: else -> break
            od;
            lane_epoch[lane] = lane_epoch[lane] + 1
        :: else
        fi;
        at = 0;
        seen = 0;
        settle()
    }
}

/* A lane of which nothing is in flight goes on, after a failure in a new epoch; what was of it is of no interest any more. */
inline settle() {
    i_ = reaped + 1;
    do
    :: i_ <= submitted ->
        if
        :: !withdrawn[i_] -> flying[LANE(i_)] = 1
        :: else
        fi;
        i_ = i_ + 1
    :: else -> break
    od;
    i_ = 1;
    do
    :: i_ <= reaped ->
        if
        :: !flying[LANE(i_)] -> fails[i_] = 0; begun[i_] = 0; revoked[i_] = 0; withdrawn[i_] = 0
        :: else
        fi;
        i_ = i_ + 1
    :: else -> break
    od;
    i_ = 0;
    do
    :: i_ < 2 ->
        if
        :: !flying[i_] ->
            draining[i_] = 0;
            lane_epoch[i_] = (over_below[i_] > lane_epoch[i_] -> over_below[i_] : lane_epoch[i_])
        :: else
        fi;
        flying[i_] = 0;
        i_ = i_ + 1
    :: else -> break
    od;
    i_ = 0
}

/* Takes in every answer there is. */
inline reap() {
    load(RUNTIME, CQ_TAIL, tail);                   /* F */
    assert(tail <= submitted);
    do
    :: reaped < tail ->
        load(RUNTIME, ANSWER(SLOT(reaped + 1)), seen);
        d_step {
            reaped = reaped + 1;
            /* it is this entry's own answer, and says what became of it */
            assert(seen / 8 == reaped);
            seen = seen % 8;
            assert(seen == (revoked[reaped] -> TAKEN_BACK : (OVER(reaped) -> SKIPPED : (fails[reaped] -> FAILED : OK))));
            assert(begun[reaped] == (seen == OK || seen == FAILED));
            if
            :: seen == FAILED ->
                over_below[LANE(reaped)] = epoch[reaped] + 1;
                draining[LANE(reaped)] = 1
            :: else
            fi;
            seen = 0;
            settle()
        }
    :: else -> break
    od;
    tail = 0
}

/* Raises the word; woken is set if there is something worth waking for already. */
inline arm(check) {
    store(RUNTIME, RUNTIME_SLEEPS, mark + 1);
#ifndef OMIT_FENCE_ARM
    fence(RUNTIME);
#endif
    armed = 1;
    if
    :: check ->
#ifndef OMIT_RECHECK_RUNTIME
        load(RUNTIME, CQ_TAIL, tail);
        d_step {
            if
            :: tail != reaped ->
#ifndef OMIT_RECHECK_MARK
                if
                :: submitted - tail <= mark -> woken = 1
                :: else
                fi;
#endif
                skip
            :: else
            fi
        };
        at = reaped + 1;
        do
        :: at <= tail ->
            load(RUNTIME, ANSWER(SLOT(at)), seen);
            if
            :: seen % 8 != OK -> woken = 1
            :: else
            fi;
            at = at + 1
        :: else -> break
        od;
        atomic { at = 0; tail = 0; seen = 0 };
#endif
        skip
    :: else
    fi
}

inline disarm() {
    store(RUNTIME, RUNTIME_SLEEPS, 0);
    armed = 0
}

/* The reap loop's sleep.  While it sleeps, other tasks of its thread may submit. */
inline sleep() {
    if
    :: submitted != reaped ->
        if
        :: mark = 0
        :: mark = CAPACITY
#if CAPACITY > 2
        :: mark = 1
#endif
        fi;
        arm(1)
    :: else
    fi;
    do
    :: woken -> break
    :: !woken && rung -> rung = 0; break
#ifndef OMIT_WATCH_WORKER
    :: worker_dead && buffered[WORKER] == 0 -> break
#endif
    :: !woken && !rung && !worker_dead && ROOM ->
#ifdef OMIT_ARM_FIRST
        submit_some();
        if
        :: !armed -> mark = CAPACITY; arm(0)
        :: else
        fi
#else
        if
        :: !armed -> mark = CAPACITY; arm(0)
        :: else
        fi;
        submit_some()
#endif
    od;
    woken = 0;
    mark = 0;
    if
    :: armed -> disarm()
    :: else
    fi
}

/* After the worker's end: what it left. */
inline bury() {
    reap();
    charged = 0;
    do
    :: reaped < submitted ->
        load(RUNTIME, STATE(SLOT(reaped + 1)), seen);
        d_step {
            reaped = reaped + 1;
            assert(!(revoked[reaped] && begun[reaped]));
            if
            :: !charged && seen == CLAIMED && !revoked[reaped] && !OVER(reaped) -> at = 1
            :: else
            fi;
            assert(!begun[reaped] || at == 1);      /* what was begun is charged */
            assert(!(seen == CLAIMED && OVER(reaped)));     /* what it was going to skip does not look begun */
            charged = 1;
            at = 0
        }
    :: else -> break
    od
}

proctype runtime() provided (!runtime_dead) {
    byte submitted, tail, seen, at, mark;
    bit armed, woken, charged;
    bit draining[2], flying[2];
    byte lane_epoch[2], over_below[2];
    do
    :: reaped == ITEMS -> break
    :: reaped < ITEMS && worker_dead && buffered[WORKER] == 0 ->
        bury();
        break
    :: reaped < ITEMS && ROOM && !worker_dead -> submit_some()
#ifdef SLEEPS
    :: reaped < ITEMS ->
        reap();
        if
        :: reaped < ITEMS -> sleep()
        :: else
        fi
#else
    :: reaped < submitted -> reap()
#endif
#ifdef REVOKES
    :: reaped < submitted && !worker_dead ->
        if
        :: revoke(0)
        :: revoke(1)
        :: revoke(2)
#ifdef WITHDRAW
        :: withdraw(0)
        :: withdraw(1)
#endif
        fi
#endif
    od;
    runtime_done = 1
}

/* ---- deaths, and the end ---- */

#ifdef WORKER_DEATH
proctype killer() {
    if
    :: !worker_done -> worker_dead = 1
    :: skip
    fi
}
#endif
#ifdef RUNTIME_DEATH
proctype killer() {
    if
    :: !runtime_done -> runtime_dead = 1
    :: skip
    fi
}
#endif

/* When nothing can move any more, everything is done. */
proctype watch() {
    timeout -> assert((runtime_done || runtime_dead) && (worker_done || worker_dead))
}

init {
    atomic {
        run buffer(RUNTIME);
        run buffer(WORKER);
        run worker();
        run runtime();
#if defined(WORKER_DEATH) || defined(RUNTIME_DEATH)
        run killer();
#endif
        run watch()
    }
}
