"""Where things lie in the rings, the arena and the side file, and what is refused when they are opened."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from collections import deque

import pytest
from ring_rig import ARENA_BYTES, CAPACITY, CQ_HEAD, CQ_TAIL, Rig, payload, ring_memfd

from streamfn._native import ffi, lib

OK = lib.SF_OK


# ---- room: arena and side file


def test_a_batch_of_ten_thousand_extents_fits_an_empty_arena_of_a_mebibyte() -> None:
    with Rig(capacity=128, arena_bytes=2**20) as rig:
        for _ in range(3):
            assert rig.submit_extents(2000)
            rig.drain()
            rig.reap()
            assert rig.submit_extents(10_000)
            assert not rig.submit_extents(10_000), "a second one does not"
            assert lib.sf_port_in_flight(rig.port) == 1
            assert rig.next() == lib.SF_NEXT_INVOKE
            assert rig.work.records == 10_000
            assert rig.extents() == [(i, i, 1) for i in range(10_000)]
            assert rig.finish()
            rig.reap(release=False)
            assert not rig.submit_extents(10_000), "before it is released"
            lib.sf_port_release(rig.port)


def test_a_full_arena_leaves_room_for_batches_of_one_extent() -> None:
    with Rig() as rig:
        assert not rig.submit_extents(ARENA_BYTES // 80 + 1)
        assert rig.submit_extents(ARENA_BYTES // 80)
        assert not rig.submit_extents(2)
        assert rig.submit_extents(1)
        assert rig.submit()
        assert len(rig.drain()) == 3


def test_extents_stay_as_submitted_while_the_arena_goes_round() -> None:
    dice = random.Random(3)
    with Rig(arena_bytes=ARENA_BYTES + 33) as rig:
        staged: deque[tuple[int, int]] = deque()
        refused = 0
        for offset in range(0, 400_000, 100):
            count = dice.randint(1, 9)
            if rig.submit_extents(count, first_offset=offset):
                staged.append((offset, count))
            else:
                refused += 1
            while staged and dice.random() < 0.5:
                first, rows = staged.popleft()
                assert rig.next() == lib.SF_NEXT_INVOKE
                assert rig.extents() == [(first + i, i, 1) for i in range(rows)]
                assert rig.finish()
            if dice.random() < 0.5:
                rig.reap()
        assert refused > 100


def test_long_payloads_stay_readable_until_they_are_released() -> None:
    dice = random.Random(4)
    with Rig() as rig:
        waiting: deque[bytes] = deque()
        for _ in range(2000):
            rig.submit()
            if lib.sf_port_room(rig.port) == 0 or dice.random() < 0.3:
                answers = rig.reap(release=False)
                # What is written after the reap must not touch what is being read.
                while rig.next() == lib.SF_NEXT_INVOKE:
                    response = dice.randbytes(dice.choice([3, 256, 257, 3000]))
                    waiting.append(response)
                    assert rig.finish(OK, response)
                assert [payload(rig, answer) for answer in answers] == [waiting.popleft() for _ in answers]
                lib.sf_port_release(rig.port)
        assert os.fstat(rig.side).st_size < 4 * CAPACITY * 3000, "though something always was unreleased"


def test_the_side_file_gives_a_burst_back() -> None:
    with Rig() as rig:
        large = b"x" * (3 << 20)
        rig.submit(8)
        for _ in range(8):
            rig.run(payload=large)
        assert [payload(rig, answer) == large for answer in rig.reap()] == [True] * 8
        assert os.fstat(rig.side).st_blocks * 512 >= 24 << 20
        rig.submit()
        rig.run(payload=b"y" * 300)
        assert os.fstat(rig.side).st_blocks * 512 <= 8 << 20
        assert payload(rig, rig.reap()[0]) == b"y" * 300


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 6_291_556])
def test_a_payload_arrives_whole(size: int) -> None:
    with Rig() as rig:
        rig.submit()
        response = random.Random(size).randbytes(size)
        rig.run(payload=response)
        answer = rig.reap(release=False)[0]
        assert answer.payload_inline == (size <= lib.SF_REPLY_BYTES)
        assert payload(rig, answer) == response


# ---- opening


@pytest.mark.parametrize(("capacity", "arena"), [(0, 80), (3, 80), (1 << 17, 80)])
def test_a_shape_that_cannot_be_is_refused(capacity: int, arena: int) -> None:
    memfd = ring_memfd(lib.sf_ring_bytes(capacity, arena))
    assert not lib.sf_port_open(memfd, capacity, arena)
    assert ffi.errno == errno.EINVAL
    os.close(memfd)


def test_a_memfd_that_could_shrink_or_has_another_size_is_refused() -> None:
    size = lib.sf_ring_bytes(CAPACITY, ARENA_BYTES)
    for memfd in (ring_memfd(size, fcntl.F_SEAL_GROW), ring_memfd(size + 1), ring_memfd(0)):
        assert not lib.sf_port_open(memfd, CAPACITY, ARENA_BYTES)
        assert ffi.errno == errno.EINVAL
        os.close(memfd)


def test_a_desk_refuses_rings_of_another_abi_and_descriptors_that_are_not_open() -> None:
    with Rig() as rig:
        assert not lib.sf_desk_open(rig.memfd, rig.doorbell, -1, -1)
        assert ffi.errno == errno.EBADF
        rig.poke(0, lib.SF_RING_ABI + 1, "I")
        assert not lib.sf_desk_open(rig.memfd, rig.doorbell, -1, rig.side)
        assert ffi.errno == errno.EINVAL


def test_a_desk_closes_its_descriptors_on_exec() -> None:
    with Rig() as rig:
        for fd in (rig.doorbell, rig.log, rig.side):
            os.set_inheritable(fd, True)
        assert rig.desk
        assert not any(os.get_inheritable(fd) for fd in (rig.doorbell, rig.log, rig.side))


def test_the_positions_a_reader_of_the_header_expects_lie_where_it_draws_them() -> None:
    with Rig() as rig:
        rig.submit(2)
        rig.run()
        assert (rig.peek(0, "I"), rig.peek(4, "I"), rig.peek(8)) == (lib.SF_RING_ABI, CAPACITY, ARENA_BYTES)
        assert [rig.peek(offset) for offset in (128, 256, CQ_TAIL, CQ_HEAD)] == [2, 1, 1, 0]
        rig.reap()
        assert rig.peek(CQ_HEAD) == 1
