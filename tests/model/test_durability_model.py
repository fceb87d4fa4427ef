"""One shard under changing durabilities, on a disk that forgets what was not synced, against a dictionary.

Goal    What a durability promised is there; what else is there is a prefix of what was given; every other offset is
        in the ledger; new offsets and sequence numbers lie above all that were ever given out.
Method  Hypothesis drives one shard on a simulated disk: appends, syncs, rolls, trims, kills, power cuts that keep any
        part of what was not synced, and syncs that fail.
"""

from __future__ import annotations

import errno
import logging
import random
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamfn.errors import LogError
from streamfn.log.catalog.datadir import make_shard_directories
from streamfn.log.catalog.stream import Shard, Stream, sequence_order, uniform_shards
from streamfn.log.shard import gaps
from streamfn.log.shard.gaps import LOST, TRIMMED
from streamfn.log.shard.reader import ShardReader, horizon, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage.durability import FSYNC, OS, interval
from streamfn.testing.disk import SimDisk
from streamfn.types import NewRecord

SEGMENT = 8 * 1024
durabilities = st.sampled_from([FSYNC, OS, interval(20)])


class Given(NamedTuple):
    """What was appended at an offset."""

    data: bytes
    number: str


class DurabilityMachine(RuleBasedStateMachine):
    @initialize(durability=durabilities)
    def begin(self, durability: object) -> None:
        logging.disable(logging.WARNING)  # cuts and losses are said, hundreds of times here
        self.disk = SimDisk()
        directory = Path("/00c0ffee00c0ffee")
        self.disk.make_directory(directory)
        stream = Stream(directory, "s", "arn", 0, uniform_shards(directory, 1, disk=self.disk), disk=self.disk)
        make_shard_directories(stream, directory, stream.shards)
        self.disk.sync_directory(directory)
        self.disk.sync_directory(Path("/"))
        (self.made,) = stream.shards
        self.alive: dict[int, Given] = {}  # all that may be in the log
        self.durable: set[int] = set()  # all that must be, whatever happens
        self.end = 0
        self.highest = "0"
        # What somebody may have seen, whatever became of it: an end of offsets, a sequence number.
        self.seen_end = 0
        self.seen_highest = "0"
        self.checkpoint = 0
        self.count = 0
        self.open(durability)

    @property
    def shard(self) -> Shard:
        return self.made._replace(disk=self.disk)

    def open(self, durability: object) -> None:
        self.writer = ShardWriter.open(
            self.shard, wait_s=0, segment_bytes=SEGMENT, durability=durability, threaded=False
        )
        assert self.writer.end_offset >= max(self.seen_end, self.checkpoint)
        assert self.writer.synced_offset == self.writer.end_offset
        self.end = self.writer.end_offset
        self.alive = {offset: Given(r.data, r.sequence_number) for offset, r in self.read().items()}
        self.durable = set(self.alive)
        numbers = [given.number for given in self.alive.values()]
        self.highest = max(self.seen_highest, *numbers, key=sequence_order) if numbers else self.seen_highest
        self.see()

    def see(self) -> None:
        self.seen_end, self.seen_highest = self.end, self.highest

    @rule(sizes=st.lists(st.integers(0, 900), min_size=1, max_size=5), commit=st.booleans())
    def append(self, sizes: list[int], commit: bool) -> None:
        self.count += 1
        offsets = self.writer.append([NewRecord(b"%d:" % self.count + b"x" * size, "k", 1) for size in sizes])
        assert offsets.start == self.end
        self.take(offsets, [b"%d:" % self.count + b"x" * size for size in sizes])
        if commit:
            self.commit()

    @rule(steps=st.lists(st.integers(1, 10**22), min_size=1, max_size=3))
    def capture(self, steps: list[int]) -> None:
        numbers = []
        for step in steps:
            numbers.append(str(int(numbers[-1] if numbers else self.highest) + step))
        offsets = self.writer.append([NewRecord(b"captured", "k", 1, number) for number in numbers])
        self.take(offsets, [b"captured"] * len(numbers), numbers)

    def take(self, offsets: range, data: list[bytes], numbers: list[str] | None = None) -> None:
        for offset, content in zip(offsets, data, strict=True):
            number = numbers[offset - offsets.start] if numbers else self.writer.sequence_number(offset)
            assert sequence_order(number) > sequence_order(self.highest)
            self.alive[offset] = Given(content, number)
            self.highest = number
        self.end = offsets.stop

    @rule()
    def commit(self) -> None:
        self.writer.commit()
        if self.writer.durability is FSYNC:
            self.durable = set(self.alive)
        assert self.writer.committed_offset == self.end
        self.see()

    @rule()
    def sync(self) -> None:
        self.writer.sync()
        self.durable = set(self.alive)
        assert self.writer.synced_offset == self.end
        self.see()

    @precondition(lambda self: self.alive)
    @rule(part=st.integers(0, 20))
    def trim(self, part: int) -> None:
        up_to = min(sorted(self.alive)[part % len(self.alive)], self.writer.committed_offset)
        gaps.record_trim(self.shard, up_to)
        self.alive = {offset: given for offset, given in self.alive.items() if offset >= up_to}
        self.durable &= set(self.alive)

    @rule(durability=durabilities)
    def restart(self, durability: object) -> None:
        self.writer.close()
        before, passed = dict(self.alive), gaps.read(self.shard).gaps
        self.open(durability)
        assert self.alive == before
        assert gaps.read(self.shard).gaps == passed

    @rule(durability=durabilities)
    def kill(self, durability: object) -> None:
        before = dict(self.alive)
        self.writer._abandon()
        self.disk = SimDisk(self.disk.crash().killed())
        self.open(durability)
        assert self.alive == before

    @rule(durability=durabilities, keep=st.sampled_from([0.0, 0.5, 0.95]), seed=st.integers(0, 1 << 30))
    def power_cut(self, durability: object, keep: float, seed: int) -> None:
        before, durable = dict(self.alive), set(self.durable)
        crash, chance = self.disk.crash(), random.Random(seed)
        self.writer._abandon()
        picks = [chance.randrange(count) if chance.random() < keep else 0 for count in crash.choices]
        self.disk = SimDisk(crash.image(picks))
        seen = self.read() if chance.random() < 0.5 else None
        self.open(durability)
        assert durable <= self.alive.keys() <= before.keys()
        assert all(before[offset] == given for offset, given in self.alive.items())
        gone = before.keys() - self.alive.keys()
        assert not gone or min(gone) > max(self.alive, default=-1)
        assert seen is None or list(seen) == list(self.alive)

    @rule(durability=durabilities)
    def fail_a_sync(self, durability: object) -> None:
        def fail(call: str) -> None:
            if call == "sync":
                raise OSError(errno.EIO, "Input/output error")

        before = dict(self.alive)
        self.disk.before = fail
        if self.writer.synced_offset != self.end:
            with pytest.raises(LogError):
                self.writer.sync()
            with pytest.raises(LogError):
                self.writer.append([NewRecord(b"", "k", 1)])
        self.disk.before = None
        self.writer.close()
        self.open(durability)
        assert self.alive == before  # as long as the machine runs

    @rule()
    def a_mapping_goes_on(self) -> None:
        """Its checkpoint is durable elsewhere, and may come to lie above what a crash leaves."""
        with ShardReader.open(self.shard, max(self.checkpoint, horizon(self.shard))) as reader:
            while (got := reader.poll(1 << 20)) or reader.gap is not None:
                if reader.gap is not None:
                    reader.skip()
                for record in (record for message in got for record in records(message)):
                    if record.offset in self.alive:
                        assert self.alive[record.offset].data == record.data
            self.checkpoint = max(self.checkpoint, reader.position)

    def read(self) -> dict[int, object]:
        """Everything from offset 0 on: each offset is there, or in a gap that says why."""
        found: dict[int, object] = {}
        with ShardReader.open(self.shard, 0) as reader:
            position = 0
            while (got := reader.poll(1 << 20)) or reader.gap is not None:
                for record in (record for message in got for record in records(message)):
                    if record.offset >= position:
                        assert record.offset == position
                        found[position] = record
                        position += 1
                if reader.gap is not None:
                    gap = reader.skip()
                    assert gap.first_offset == position
                    assert gap.why in (TRIMMED, LOST)
                    position = gap.end_offset
            assert reader.position == position == reader.committed().end_offset
        return found

    @invariant()
    def numbers_rise(self) -> None:
        numbers = [sequence_order(given.number) for _, given in sorted(getattr(self, "alive", {}).items())]
        assert numbers == sorted(set(numbers))

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            self.writer.close()
        logging.disable(logging.NOTSET)


TestDurability = DurabilityMachine.TestCase
TestDurability.settings = settings(
    max_examples=120,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
