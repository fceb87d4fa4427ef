"""The rings when a worker dies, writes where it must not, or has lost its descriptors."""

from __future__ import annotations

import faulthandler
import mmap
import os
import random
import resource
import signal
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ring_rig import CAPACITY, CQ_HEAD, CQ_TAIL, SQ_TAIL, STARTED, Rig, outcomes

from streamfn._native import ffi, lib

OK, ERROR, SKIPPED, RETIRED, BROKEN = lib.SF_OK, lib.SF_ERROR, lib.SF_SKIPPED, lib.SF_RETIRED, lib.SF_BROKEN
SECOND = 1_000_000_000


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


# ---- death


def test_a_killed_worker_is_charged_with_the_claimed_batch_alone(rig: Rig) -> None:
    def die_in_the_third(desk: Any) -> None:
        work = ffi.new("sf_work *")
        for _ in range(2):
            lib.sf_desk_next(desk, work, SECOND)
            lib.sf_desk_finish(desk, OK, b"", 0)
        lib.sf_desk_next(desk, work, SECOND)
        os.kill(os.getpid(), signal.SIGKILL)

    before = time.monotonic_ns()
    rig.submit(4, lane=3, epoch=9, rows=10)
    lib.sf_port_retire(rig.port, 5)
    rig.fork(die_in_the_third)
    assert rig.wait() == -signal.SIGKILL
    assert outcomes(rig.reap()) == [OK, OK]
    orphans = rig.orphans()
    assert [(a.outcome, a.batches, a.records, a.first_invocation) for a in orphans] == [
        (ERROR, 1, 10, 102),
        (SKIPPED, 1, 10, 103),
        (RETIRED, 0, 0, 5),
    ]
    assert (orphans[0].lane, orphans[0].epoch) == (3, 9)
    assert before < orphans[0].submitted_ns <= orphans[0].started_ns < time.monotonic_ns()
    assert lib.sf_port_in_flight(rig.port) == 0


def test_a_worker_that_died_between_two_batches_is_charged_with_none(rig: Rig) -> None:
    rig.submit(2)
    rig.run()
    assert outcomes(rig.reap()) == [OK]
    assert outcomes(rig.orphans()) == [SKIPPED]


def test_what_was_revoked_before_the_death_did_not_run(rig: Rig) -> None:
    rig.submit(3)
    assert rig.next() == lib.SF_NEXT_INVOKE
    assert lib.sf_port_revoke(rig.port, 0) == 2
    assert outcomes(rig.orphans()) == [ERROR, SKIPPED, SKIPPED]


def test_of_what_is_left_only_the_oldest_can_be_charged_whatever_the_worker_wrote(rig: Rig) -> None:
    rig.submit(3)
    for slot in range(3):
        rig.poke(rig.state_at(slot), 2, "I")
    rig.poke(STARTED, 2**64 - 1)
    orphans = rig.orphans()
    assert outcomes(orphans) == [ERROR, SKIPPED, SKIPPED]
    assert orphans[0].submitted_ns <= orphans[0].started_ns <= time.monotonic_ns()


def test_what_was_never_published_comes_back(rig: Rig) -> None:
    first = ffi.new("sf_extent *")
    lib.sf_port_submit_run(rig.port, 0, 0, first, 1, 2, 50, 0, ffi.NULL, ffi.NULL)
    assert [(a.outcome, a.first_invocation) for a in rig.orphans()] == [(SKIPPED, 50), (SKIPPED, 51)]


def test_a_batch_that_could_not_begin_comes_back_and_is_charged_with_nothing(rig: Rig) -> None:
    rig.submit(3)
    assert rig.next() == lib.SF_NEXT_INVOKE
    assert lib.sf_desk_return(rig.desk)
    assert not lib.sf_desk_return(rig.desk), "nothing is claimed any more"
    assert outcomes(rig.reap()) == [SKIPPED, BROKEN], "and the worker is not gone on with"
    assert outcomes(rig.orphans()) == [SKIPPED, SKIPPED]


def test_what_is_withdrawn_behind_another_lanes_batch_is_done_with_at_once(rig: Rig) -> None:
    rig.submit(1, lane=1)
    rig.submit(2, lane=2)
    rig.submit(1, lane=3)
    assert rig.next() == lib.SF_NEXT_INVOKE
    assert lib.sf_port_withdraw(rig.port, 1) == 0, "it runs"
    assert lib.sf_port_withdraw(rig.port, 2) == 2
    rig.submit(1, lane=2, epoch=1)
    assert rig.finish()
    assert len(rig.drain()) == 2
    assert [(a.outcome, a.lane, a.epoch) for a in rig.reap()] == [(OK, 1, 0), (OK, 3, 0), (OK, 2, 1)]
    assert lib.sf_port_in_flight(rig.port) == 0


def test_a_worker_that_dies_leaves_nothing_of_what_was_withdrawn(rig: Rig) -> None:
    rig.submit(1, lane=1)
    rig.submit(2, lane=2)
    rig.submit(1, lane=3)
    assert rig.next() == lib.SF_NEXT_INVOKE
    assert lib.sf_port_withdraw(rig.port, 2) == 2
    assert [(a.outcome, a.lane) for a in rig.orphans()] == [(ERROR, 1), (SKIPPED, 3)]


def test_a_worker_that_answers_what_was_withdrawn_as_if_it_had_run_is_broken(rig: Rig) -> None:
    rig.submit(1, lane=1)
    rig.submit(1, lane=2)
    assert rig.next() == lib.SF_NEXT_INVOKE
    assert lib.sf_port_withdraw(rig.port, 2) == 1
    rig.poke(rig.state_at(1), 1, "I")
    assert rig.finish()
    assert rig.next() == lib.SF_NEXT_INVOKE
    assert rig.finish()
    assert outcomes(rig.reap()) == [OK, BROKEN]
    assert rig.orphans() == []


# ---- a handler that writes into the rings


@pytest.mark.parametrize("tail", [3, 2**63, 2**64 - 1, CAPACITY + 1])
def test_a_completion_position_out_of_bounds_breaks_the_worker_once(rig: Rig, tail: int) -> None:
    rig.submit(2)
    rig.poke(CQ_TAIL, tail)
    assert lib.sf_port_arm(rig.port, 0)
    answers = rig.reap()
    assert outcomes(answers) == [BROKEN]
    assert (answers[0].batches, answers[0].lane) == (0, 2**32 - 1)
    assert rig.reap() == []
    assert not lib.sf_port_arm(rig.port, 0), "no spinning on it until the worker is dead"
    assert len(rig.orphans()) == 2


def test_a_completion_position_that_goes_back_breaks_the_worker(rig: Rig) -> None:
    rig.submit(2)
    rig.drain()
    rig.reap()
    rig.poke(CQ_TAIL, 1)
    assert outcomes(rig.reap()) == [BROKEN]


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        (0, lib.SF_RETIRED, "I"),
        (0, lib.SF_REVOKED, "I"),
        (0, lib.SF_BROKEN, "I"),
        (0, lib.SF_PARTLY + 1, "I"),
        (0, 2**32 - 1, "I"),
        (4, 257, "I"),
        (4, 2**32 - 1, "I"),
        (24, 2**63, "Q"),
    ],
)
def test_an_answer_that_cannot_be_breaks_the_worker_behind_what_can(
    rig: Rig, field: int, value: int, kind: str
) -> None:
    rig.submit(3)
    rig.drain()
    rig.poke(rig.completion_at(1) + field, value, kind)
    assert outcomes(rig.reap(fold=True)) == [OK, BROKEN]
    assert outcomes(rig.orphans()) == [ERROR, SKIPPED]


def test_a_side_payload_that_no_file_could_hold_breaks_the_worker(rig: Rig) -> None:
    rig.submit()
    rig.run(payload=b"x" * 300)
    rig.poke(rig.completion_at(0) + 32, 2**63 - 300)
    assert outcomes(rig.reap()) == [BROKEN]


def test_a_revoked_batch_that_claims_success_breaks_the_worker(rig: Rig) -> None:
    rig.submit()
    lib.sf_port_revoke(rig.port, 0)
    rig.next()
    rig.poke(rig.completion_at(0), OK, "I")
    assert outcomes(rig.reap()) == [BROKEN]


@pytest.mark.parametrize("failure", [ERROR, lib.SF_PARTLY])
@pytest.mark.parametrize("claim", [OK, ERROR, lib.SF_PARTLY])
def test_a_batch_that_claims_to_have_run_behind_a_failed_one_breaks_the_worker(
    rig: Rig, failure: int, claim: int
) -> None:
    rig.submit(2, lane=1, epoch=4)
    rig.submit(1, lane=2, epoch=4)
    rig.run(failure)
    rig.drain()
    rig.poke(rig.completion_at(1), claim, "I")
    assert outcomes(rig.reap()) == [failure, BROKEN]


def test_a_failed_epoch_stays_failed_and_the_next_one_runs(rig: Rig) -> None:
    rig.submit(1, lane=1, epoch=4)
    rig.run(ERROR)
    assert outcomes(rig.reap()) == [ERROR]
    rig.submit(1, lane=1, epoch=5)
    rig.submit(1, lane=1, epoch=4)
    rig.drain()
    rig.poke(rig.completion_at(2), OK, "I")
    assert outcomes(rig.reap()) == [OK, BROKEN]


def test_a_batch_that_a_worker_could_not_begin_comes_back_and_is_its_last_word(rig: Rig) -> None:
    rig.submit(3, lane=1)
    rig.drain()
    rig.poke(rig.completion_at(1), SKIPPED, "I")
    assert outcomes(rig.reap()) == [OK, SKIPPED, BROKEN]
    assert rig.reap() == []
    assert outcomes(rig.orphans()) == [SKIPPED]


def test_a_dead_worker_is_not_charged_with_a_batch_behind_a_failed_one(rig: Rig) -> None:
    rig.submit(2, lane=1)
    rig.run(ERROR)
    rig.poke(rig.state_at(1), 2, "I")
    assert outcomes(rig.reap()) == [ERROR]
    assert outcomes(rig.orphans()) == [SKIPPED]


@pytest.mark.parametrize("claimed", [[1], [0, 1], [2], [0, 2]])
def test_what_is_revoked_is_the_newest_of_a_lane_whatever_the_state_words_say(rig: Rig, claimed: list[int]) -> None:
    rig.submit(4, lane=1)
    for slot in claimed:
        rig.poke(rig.state_at(slot), 2, "I")
    assert lib.sf_port_revoke(rig.port, 1) == 3 - max(claimed)


@pytest.mark.parametrize("started", [0, 2**64 - 1])
@pytest.mark.parametrize("finished", [0, 2**64 - 1])
def test_stamps_from_any_time_become_times_that_can_be(rig: Rig, started: int, finished: int) -> None:
    latency = ffi.gc(lib.sf_histogram_new(), lib.sf_histogram_free)
    duration = ffi.gc(lib.sf_histogram_new(), lib.sf_histogram_free)
    rig.submit(latency=latency, duration=duration)
    rig.run()
    rig.poke(rig.completion_at(0) + 8, started)
    rig.poke(rig.completion_at(0) + 16, finished)
    answer = rig.reap()[0]
    assert answer.submitted_ns <= answer.started_ns <= answer.finished_ns <= time.monotonic_ns()
    assert lib.sf_histogram_max(latency) < 60 * SECOND
    assert lib.sf_histogram_max(duration) < 60 * SECOND


def test_a_start_before_the_entry_was_submitted_is_no_start(rig: Rig) -> None:
    """Else a handler that wrote 1 there would have its next batch killed for a timeout."""
    rig.submit(2)
    rig.next()
    started = lib.sf_port_running_since(rig.port)
    assert started > 0
    for stamp in (1, started - SECOND):
        rig.poke(STARTED, stamp)
        assert lib.sf_port_running_since(rig.port) == 0
    rig.finish()
    rig.run()
    rig.reap()
    rig.poke(STARTED, 2**63)
    assert lib.sf_port_running_since(rig.port) == 0, "nothing is in flight"


def test_a_log_that_shrank_counts_as_unchanged(rig: Rig) -> None:
    rig.submit(3)
    os.write(rig.log, b"hello")
    rig.run()
    os.ftruncate(rig.log, 0)
    rig.run()
    rig.run()
    assert [(answer.printed, answer.log_end) for answer in rig.reap()] == [(1, 5), (0, 5), (0, 5)]


@pytest.mark.parametrize(
    ("offset", "value", "kind"),
    [(SQ_TAIL, CAPACITY + 1, "Q"), (4096 + 8, 2**31, "I"), (4096 + 4, 9, "I"), (4096, 0, "I")],
    ids=["sq_tail", "lane", "kind", "state"],
)
def test_a_worker_whose_submissions_make_no_sense_gives_up(rig: Rig, offset: int, value: int, kind: str) -> None:
    rig.submit()
    assert rig.desk
    rig.poke(offset, value, kind)
    assert rig.next() == lib.SF_NEXT_LOST
    assert rig.next() == lib.SF_NEXT_LOST


@pytest.mark.parametrize(("offset", "value", "kind"), [(16, 2**32 - 1, "I"), (48, 2**64 - 8, "Q"), (48, 80, "Q")])
def test_a_worker_does_not_follow_extents_out_of_the_arena(rig: Rig, offset: int, value: int, kind: str) -> None:
    assert rig.submit_extents(16)
    rig.poke(4096 + offset, value, kind)
    assert rig.next() == lib.SF_NEXT_LOST


def test_a_release_position_that_was_overwritten_does_not_overflow_the_worker(rig: Rig) -> None:
    for _ in range(3 * CAPACITY):
        rig.submit()
        rig.poke(CQ_HEAD, 0)
        if rig.next() != lib.SF_NEXT_INVOKE or not rig.finish(OK, b"x" * 300):
            break
        rig.reap()
    assert rig.next() == lib.SF_NEXT_LOST


# ---- descriptors


def unharmed_file(fd: int) -> Any:
    """A file of eight bytes put in the place of `fd`."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    file.write(b"precious")
    file.flush()
    os.dup2(file.fileno(), fd)
    return file


def test_a_file_in_the_doorbells_place_is_not_written_to(rig: Rig) -> None:
    rig.submit(2)
    assert rig.next() == lib.SF_NEXT_INVOKE
    lib.sf_port_arm(rig.port, CAPACITY)
    kept = os.dup(rig.doorbell)
    with unharmed_file(rig.doorbell) as file:
        assert not rig.finish()
        assert os.pread(file.fileno(), 100, 0) == b"precious"
    assert rig.next() == lib.SF_NEXT_LOST
    assert outcomes(rig.reap()) == [OK], "the handler did return: its answer stands"
    os.close(kept)


def test_a_closed_doorbell_ends_the_worker(rig: Rig) -> None:
    rig.submit()
    assert rig.next() == lib.SF_NEXT_INVOKE
    lib.sf_port_arm(rig.port, CAPACITY)
    os.close(rig.doorbell)
    assert not rig.finish()
    rig.doorbell = -1


def test_a_file_in_the_logs_place_ends_the_worker_and_the_answer_stands(rig: Rig) -> None:
    rig.submit()
    assert rig.next() == lib.SF_NEXT_INVOKE
    lib.sf_port_arm(rig.port, CAPACITY)
    with unharmed_file(rig.log):
        assert not rig.finish()
    assert rig.rung(), "the runtime is told"
    answer = rig.reap()[0]
    assert (answer.outcome, answer.printed, answer.log_end) == (OK, 0, 0)
    assert rig.next() == lib.SF_NEXT_LOST


def test_a_worker_writes_to_its_log_wherever_its_standard_output_leads(rig: Rig) -> None:
    assert lib.sf_desk_log(rig.desk, b"text", 4)
    assert os.pread(rig.log, 100, 0) == b"text"
    kept = os.dup(rig.log)
    with unharmed_file(rig.log) as file:
        assert not lib.sf_desk_log(rig.desk, b"text", 4)
        assert os.pread(file.fileno(), 100, 0) == b"precious"
    assert os.fstat(kept).st_size == 4
    os.close(kept)


def lower_a_limit(rig: Rig) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))


def block_a_signal(rig: Rig) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])


def lose_the_control(rig: Rig) -> None:
    os.dup2(rig.side, rig.control)


def raise_a_limit(rig: Rig) -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) is not None


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [(lower_a_limit, False), (block_a_signal, False), (lose_the_control, False), (raise_a_limit, True)],
)
def test_a_process_that_a_handler_has_spoilt_answers_and_takes_nothing_more(
    rig: Rig, change: Callable[[Rig], None], goes_on: bool
) -> None:
    def work_on(desk: Any) -> int:
        assert lib.sf_desk_watch(desk, rig.control)
        assert lib.sf_desk_next(desk, rig.work, SECOND) == lib.SF_NEXT_INVOKE
        change(rig)
        assert lib.sf_desk_finish(desk, OK, b"", 0) == goes_on
        return int(lib.sf_desk_next(desk, rig.work, 0))

    rig.control = os.dup(rig.doorbell)
    rig.submit(2)
    rig.fork(work_on)
    assert rig.wait() == (lib.SF_NEXT_INVOKE if goes_on else lib.SF_NEXT_LOST)
    assert outcomes(rig.reap()) == [OK]
    assert outcomes(rig.orphans()) == [ERROR if goes_on else SKIPPED]
    os.close(rig.control)


def test_a_file_in_the_side_files_place_is_not_written_to(rig: Rig) -> None:
    rig.submit(2)
    assert rig.next() == lib.SF_NEXT_INVOKE
    with unharmed_file(rig.side) as file:
        assert not rig.finish(OK, b"x" * 300)
        assert os.pread(file.fileno(), 100, 0) == b"precious"
    assert outcomes(rig.orphans()) == [ERROR, SKIPPED]


def test_without_a_log_nothing_counts_as_printed() -> None:
    with Rig(log=False) as rig:
        rig.submit(2)
        rig.drain()
        assert [(answer.batches, answer.printed) for answer in rig.reap(fold=True)] == [(2, 0)]


def test_a_handlers_child_cannot_touch_the_rings(rig: Rig) -> None:
    def fork_and_go_on(desk: Any) -> int:
        work = ffi.new("sf_work *")
        lib.sf_desk_next(desk, work, SECOND)
        child = os.fork()
        if child == 0:
            faulthandler.disable()
            lib.sf_desk_finish(desk, ERROR, b"from the child", 14)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        lib.sf_desk_finish(desk, OK, b"", 0)
        return -os.waitstatus_to_exitcode(status)

    rig.submit()
    rig.fork(fork_and_go_on)
    assert rig.wait() == signal.SIGSEGV
    assert outcomes(rig.reap()) == [OK]


def test_a_child_of_the_runtime_cannot_touch_them_and_may_close_its_port(rig: Rig) -> None:
    child = os.fork()
    if child == 0:
        lib.sf_port_close(rig.port)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    rig.submit()
    rig.run()
    assert outcomes(rig.reap()) == [OK]


def test_a_worker_that_gives_the_rings_memory_back_breaks_nobody_but_itself(rig: Rig) -> None:
    """The seals keep the file's size, not its pages: what the port reads then is zeros."""
    rig.submit(3)
    rig.run()
    assert outcomes(rig.reap()) == [OK]
    rig.memory.madvise(mmap.MADV_REMOVE)
    assert outcomes(rig.reap()) == [BROKEN]
    rig.submit(2)
    assert lib.sf_port_revoke(rig.port, 0) == 2
    assert outcomes(rig.orphans()) == [SKIPPED] * 4


def test_random_bytes_in_the_rings_end_in_an_answer_or_a_broken_worker() -> None:
    """What a worker can write, the runtime survives: no crash, and never more answers than entries."""
    dice = random.Random(5)
    for _ in range(300):
        with Rig() as rig:
            rig.submit(dice.randint(1, CAPACITY), lane=1)
            for _ in range(dice.randint(0, 5)):
                if rig.next() == lib.SF_NEXT_INVOKE:
                    rig.finish(dice.choice([OK, ERROR, lib.SF_PARTLY]), dice.randbytes(dice.choice([2, 300])))
            for _ in range(dice.randint(1, 8)):
                value = dice.choice([0, 1, 5, 2**31, 2**32 - 1, 2**63, 2**64 - 1, dice.getrandbits(64)])
                answer_field = rig.completion_at(dice.randrange(6)) + 8 * dice.randrange(6)
                at = dice.choice([CQ_TAIL, STARTED, answer_field])
                rig.memory[at : at + 8] = struct.pack("<Q", value)
            lib.sf_port_arm(rig.port, dice.randint(0, CAPACITY))
            lib.sf_port_revoke(rig.port, 1)
            submitted = lib.sf_port_in_flight(rig.port)
            answers = rig.reap(fold=dice.random() < 0.5)
            assert sum(a.batches for a in answers) + len(rig.orphans()) == submitted
            assert all(len(ffi.buffer(a.payload)) >= a.payload_bytes for a in answers if a.payload_inline)
