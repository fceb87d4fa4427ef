"""Which records of a stream are delivered, and when each of them is due."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from streamfn.benchmark.plan import Load
from streamfn.core.schedule import FixedRate, Ramp, Schedule, Stretch
from streamfn.log.catalog.stream import Stream
from streamfn.log.shard.reader import horizon
from streamfn.mapping.position import committed_end


class Part(NamedTuple):
    """Which records are delivered: from each shard's offset in `starts` to that in `ends`."""

    starts: Mapping[str, int]
    ends: Mapping[str, int]

    @classmethod
    def of(cls, stream: Stream) -> Part:
        """Everything that is in a stream now. Reads the disk."""
        ends = {shard.id: committed_end(shard) for shard in stream.shards}
        return cls({shard.id: min(horizon(shard), ends[shard.id]) for shard in stream.shards}, ends)

    @property
    def records(self) -> int:
        """How many they are."""
        return sum(end - self.starts[shard] for shard, end in self.ends.items())

    def first(self, records: int) -> Part:
        """So many of them, every shard having the same part of its own; all where there are no more."""
        total, ends, taken, seen = self.records, {}, 0, 0
        if records >= total:
            return self
        for shard, end in self.ends.items():
            start = self.starts[shard]
            seen += end - start
            share = round(records * seen / total) - taken
            taken += share
            ends[shard] = start + share
        return Part(self.starts, ends)

    def schedule(self, load: Load) -> Schedule | None:
        """When each of them is due under a load; None: when there is room for it."""
        if load.is_closed:
            return None
        shards = {shard: Stretch(self.starts[shard], end - self.starts[shard]) for shard, end in self.ends.items()}
        if load.ramp_to is None:
            return FixedRate(load.rate, shards)
        return Ramp(load.rate, load.ramp_to, load.duration_s, shards)
