"""Selected rows on their way through the rings."""

from __future__ import annotations

import random
from collections import deque

import pytest
from ring_rig import ARENA_BYTES, CAPACITY, Rig, outcomes

from streamfn import limits
from streamfn._native import lib

SELECTED = lib.SF_SELECTED


def test_batches_of_selected_rows_carry_their_numbers() -> None:
    with Rig() as rig:
        assert rig.submit_rows([0, 2, 5, 6, 9, 30], 2, 3) == 3
        found = []
        for _ in range(3):
            assert rig.next() in (lib.SF_NEXT_SELECTED, lib.SF_NEXT_INVOKE)
            found.append((rig.work.records, rig.extents(), rig.selection()))
            assert rig.finish()
        assert found == [
            (2, [(1000, SELECTED, 2)], [0, 2]),
            (2, [(1005, 5, 2)], []),
            (2, [(1009, SELECTED, 2)], [9, 30]),
        ]
        assert [answer.records for answer in rig.reap()] == [2, 2, 2]


def test_consecutive_rows_make_plain_extents_and_need_no_arena() -> None:
    with Rig(arena_bytes=0) as rig:
        assert rig.submit_rows([4, 5, 6, 7], 2, 2) == 2
        assert rig.submit_rows([4, 6, 9, 13], 1, 4) == 4
        for _ in range(6):
            assert rig.next() == lib.SF_NEXT_INVOKE
            assert rig.selection() == []
            assert rig.finish()
        assert rig.submit_rows([4, 6], 2, 1) == 0, "these do"


def test_a_batch_mixes_runs_and_selected_rows_of_several_messages() -> None:
    with Rig() as rig:
        assert rig.submit_mixed(3, [1, 4], [], 2, [0, 7, 8])
        assert rig.next() == lib.SF_NEXT_SELECTED
        assert rig.work.records == 10
        rows = [(row == SELECTED, count) for _, row, count in rig.extents()]
        assert rows == [(False, 3), (True, 2), (True, 0), (False, 2), (True, 3)]
        assert rig.selection() == [1, 4, 0, 7, 8]


def test_one_extent_of_selected_rows_lies_beside_its_entry() -> None:
    with Rig(arena_bytes=16) as rig:
        assert rig.submit_mixed([3, 5, 9])
        assert rig.next() == lib.SF_NEXT_SELECTED
        assert (rig.extents(), rig.selection()) == ([(0, SELECTED, 3)], [3, 5, 9])


def test_fewer_batches_go_where_the_arena_is_full_and_the_rest_when_it_is_released() -> None:
    rows = [3 * i for i in range(4 * CAPACITY)]
    with Rig(arena_bytes=80) as rig:  # 20 numbers
        assert rig.submit_rows(rows, 4, CAPACITY) == 5
        assert rig.submit_rows(rows[20:], 4, 1) == 0
        assert lib.sf_port_in_flight(rig.port) == 5
        assert len(rig.drain()) == 5
        rig.reap(release=False)
        assert rig.submit_rows(rows[20:], 4, 1) == 0, "before it is released"
        lib.sf_port_release(rig.port)
        assert rig.submit_rows(rows[20:], 4, CAPACITY) == 5


def test_more_batches_than_the_ring_has_room_for_are_cut() -> None:
    with Rig() as rig:
        assert rig.submit_rows(list(range(0, 8 * CAPACITY, 2)), 1, 3 * CAPACITY) == CAPACITY


def test_the_largest_batch_fits_an_empty_arena_however_its_rows_lie() -> None:
    half = limits.BATCH_SIZE_MAX // 2
    with Rig(arena_bytes=limits.ARENA_BYTES) as rig:
        assert rig.submit_rows(list(range(0, 2 * limits.BATCH_SIZE_MAX, 2)), limits.BATCH_SIZE_MAX, 1) == 1
        rig.drain()
        rig.reap()
        assert rig.submit_mixed(*[[0, 2] for _ in range(half)])
        assert rig.next() == lib.SF_NEXT_SELECTED
        assert rig.work.records == limits.BATCH_SIZE_MAX


def test_row_numbers_stay_as_submitted_while_the_arena_goes_round() -> None:
    dice = random.Random(3)
    with Rig(arena_bytes=ARENA_BYTES + 33) as rig:
        staged: deque[list[int]] = deque()
        refused = 0
        for first in range(0, 100_000, 100):
            rows = sorted(dice.sample(range(first, first + 100), dice.randint(2, 40)))
            if rig.submit_rows(rows, len(rows), 1) if dice.random() < 0.5 else rig.submit_mixed(rows, 1):
                staged.append(rows)
            else:
                refused += 1
            while staged and dice.random() < 0.5:
                wanted = staged.popleft()
                rig.next()
                assert rig.selection() in (wanted, [] if wanted[-1] - wanted[0] < len(wanted) else wanted)
                assert rig.finish()
            if dice.random() < 0.5:
                rig.reap()
        assert refused > 50


# ---- a handler that writes into the rings


@pytest.mark.parametrize(
    ("offset", "value", "kind"),
    [(56, 2**32 - 1, "I"), (56, ARENA_BYTES // 4 + 1, "I"), (48, 2**64 - 8, "Q"), (48, ARENA_BYTES - 8, "Q")],
    ids=["far more", "one more", "wraps", "behind the end"],
)
def test_a_worker_does_not_follow_row_numbers_out_of_the_arena(offset: int, value: int, kind: str) -> None:
    with Rig() as rig:
        assert rig.submit_rows([0, 2, 4], 3, 1) == 1
        rig.poke(4096 + offset, value, kind)
        assert rig.next() == lib.SF_NEXT_LOST


def test_a_plain_batch_that_is_made_to_look_selected_stays_in_bounds() -> None:
    with Rig() as rig:
        rig.submit()
        rig.poke(4096 + 56, 5, "I")
        assert rig.next() == lib.SF_NEXT_SELECTED
        assert len(rig.selection()) == 5
        assert rig.finish()
        assert outcomes(rig.reap()) == [lib.SF_OK], "what was submitted is known from the port's own memory"
