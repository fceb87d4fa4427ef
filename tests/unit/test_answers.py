"""Answers: every waiter is woken, whichever way it waits, and nobody else's timeout or interrupt breaks the chain."""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait

import pytest

from streamfn.log.producer.answer import Answer, Placed, settle

PLACED: Placed = [("shardId-000000000000", "42")]


def waiting(answers: list[Answer], timeout: float | None = None) -> tuple[list[threading.Thread], list[object]]:
    """Threads that wait for answers, all asleep by now if they have not given up, and what they got."""
    got: list[object] = [None] * len(answers)

    def sleep(place: int) -> None:
        try:
            got[place] = answers[place].result(timeout)
        except Exception as error:
            got[place] = error

    threads = [threading.Thread(target=sleep, args=(place,)) for place in range(len(answers))]
    for thread in threads:
        thread.start()
    while any(not answer._sleepers and got[place] is None for place, answer in enumerate(answers)):
        time.sleep(0.001)
    return threads, got


def joined(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_a_group_is_answered_and_the_chain_wakes_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamfn.log.producer.answer._LOOK_UP_S", 60.0)  # nobody looks up by himself
    answers = [Answer() for _ in range(50)]
    threads, got = waiting(answers)
    settle([(answer, PLACED, None) for answer in answers])
    joined(threads)
    assert got == [PLACED] * 50
    assert all(answer.done() for answer in answers)


def test_several_may_wait_for_one_answer() -> None:
    answer = Answer()
    threads, got = waiting([answer, answer, answer])
    settle([(answer, PLACED, None)])
    joined(threads)
    assert got == [PLACED] * 3


def test_an_error_is_raised_by_who_waits_and_by_who_comes_later() -> None:
    answer = Answer()
    threads, got = waiting([answer])
    problem = ValueError("no")
    settle([(answer, None, problem)])
    joined(threads)
    assert got == [problem]
    with pytest.raises(ValueError, match="no"):
        answer.result()
    assert answer.exception() is problem


def test_who_gives_up_leaves_the_chain_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamfn.log.producer.answer._LOOK_UP_S", 60.0)
    answers = [Answer() for _ in range(30)]
    impatient, lost = waiting(answers[::3], timeout=0.05)
    patient, got = waiting([answer for place, answer in enumerate(answers) if place % 3])
    joined(impatient)
    assert all(isinstance(one, TimeoutError) for one in lost)
    settle([(answer, PLACED, None) for answer in answers])
    joined(patient)
    assert got == [PLACED] * 20


def test_giving_up_while_the_answer_comes_never_strands_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamfn.log.producer.answer._LOOK_UP_S", 60.0)
    for round_ in range(30):
        answers = [Answer() for _ in range(8)]
        impatient, _ = waiting(answers[::2], timeout=0.002 + round_ * 1e-4)
        patient, got = waiting(answers[1::2])
        time.sleep(0.001)
        settle([(answer, PLACED, None) for answer in answers])
        joined(impatient + patient)
        assert got == [PLACED] * 4


def test_turn_comes_free_when_all_are_awake() -> None:
    answers = [Answer() for _ in range(10)]
    threads, got = waiting(answers)
    turn = threading.Lock()
    turn.acquire()
    settle([(answer, PLACED, None) for answer in answers], turn)
    assert turn.acquire(timeout=5)
    joined(threads)
    assert got == [PLACED] * 10


def test_turn_comes_free_at_once_where_nobody_sleeps() -> None:
    turn = threading.Lock()
    turn.acquire()
    settle([(Answer(), PLACED, None)], turn)
    assert turn.acquire(timeout=0)


def test_those_with_the_same_then_are_told_together_and_let_the_turn_go() -> None:
    told: list[tuple[list[Answer], threading.Lock]] = []

    def then(answers: list[Answer], lock: threading.Lock) -> None:
        told.append((answers, lock))

    answers = [Answer(then) for _ in range(5)]
    turn = threading.Lock()
    turn.acquire()
    settle([(answer, PLACED, None) for answer in answers], turn)
    assert [together for together, _ in told] == [answers]
    assert not turn.acquire(timeout=0)
    told[0][1].release()
    assert turn.acquire(timeout=0)


def test_an_answer_is_a_future_for_everybody_else() -> None:
    early, late = Answer(), Answer()
    called: list[Future[Placed]] = []
    early.add_done_callback(called.append)
    assert not early.cancel()
    assert early.running()
    thread = threading.Timer(0.02, settle, [[(early, PLACED, None)]])
    thread.start()
    done, left = wait([early, late], 10, return_when=FIRST_COMPLETED)
    thread.join()
    assert (done, left) == ({early}, {late})
    assert called == [early]
    early.add_done_callback(called.append)
    assert called == [early, early]
    with pytest.raises(TimeoutError):
        late.result(0.01)
