"""The ledger of what is gone: ranges that stay disjoint, a file that is whole or known to be damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfn.errors import LogDamaged
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard
from streamfn.log.shard import gaps
from streamfn.log.shard.gaps import DAMAGED, LOST, TRIMMED, Gap, Ledger


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return DataDir.open(tmp_path / "data", create=True).create_stream("s").shards[0]


def test_what_was_recorded_is_read_again(shard: Shard) -> None:
    assert gaps.read(shard).gaps == ()
    lost = Gap(10, 20, LOST, "4910", "4919", at_ms=5)
    damaged = Gap(30, 31, DAMAGED, file="00000000000000000000.arrow", byte=64)
    gaps.record(shard, damaged)
    assert gaps.record(shard, lost).gaps == (lost, damaged)
    assert gaps.read(shard).gaps == (lost, damaged)
    assert [path.name for path in shard.directory.glob("gaps.json*")] == ["gaps.json"]


def test_trimming_never_goes_back_and_takes_in_what_lies_before(shard: Shard) -> None:
    gaps.record(shard, Gap(10, 20, LOST, "4910", "4919"))
    assert gaps.record_trim(shard, 15).gaps == (Gap(0, 15, TRIMMED), Gap(15, 20, LOST, None, "4919"))
    assert gaps.record_trim(shard, 12).horizon == 15
    assert gaps.record_trim(shard, 40).gaps == (Gap(0, 40, TRIMMED),)
    assert gaps.read(shard).horizon == 40


def test_every_changed_byte_of_the_file_is_noticed(shard: Shard) -> None:
    gaps.record(shard, Gap(10, 20, LOST))
    path = shard.directory / "gaps.json"
    content = path.read_bytes()
    known = gaps.read(shard).gaps
    for at in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[at] ^= 1 << bit
            path.write_bytes(changed)
            if json.loads(content) == parsed(changed):
                assert gaps.read(shard).gaps == known
                continue
            with pytest.raises(LogDamaged) as caught:
                gaps.read(shard)
            assert caught.value.path == path


def parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 15), st.sampled_from([TRIMMED, LOST, DAMAGED])), max_size=8
    )
)
def test_a_ledger_is_what_a_list_of_offsets_would_be(added: list[tuple[int, int, str]]) -> None:
    ledger = Ledger()
    wanted: dict[int, str] = {}
    for first, length, why in added:
        ledger = ledger.with_gap(Gap(first, first + length, why))
        if why == TRIMMED:
            wanted.update(dict.fromkeys(range(first + length), TRIMMED))
        for offset in range(first, first + length):
            wanted.setdefault(offset, why)
    for offset in range(60):
        gap = ledger.at(offset)
        assert (gap.why if gap else None) == wanted.get(offset)
        assert ledger.end_at(offset) == next(at for at in range(offset, 100) if at not in wanted)
        assert ledger.start_before(offset) == next(at for at in range(offset, -1, -1) if at - 1 not in wanted)
    there = [offset for offset in range(ledger.horizon, 60) if offset not in wanted]
    for count in (1, 3, 100):
        first = ledger.back(60, count)
        assert [offset for offset in there if offset >= first] == there[-count:]
        assert first in (there[-count:] or [ledger.horizon])[:1] or count > len(there)
    assert ledger.horizon == next(at for at in range(100) if wanted.get(at) != TRIMMED)
    for one, two in zip(ledger.gaps, ledger.gaps[1:], strict=False):
        assert one.end_offset <= two.first_offset
