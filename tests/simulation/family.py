"""The shards of a simulated stream: who descends from whom, which keys each has, and which record has which key."""

from __future__ import annotations

from random import Random

from streamfn.testing.checker import Event, Resharded, Seen, Violation
from streamfn.testing.memory import MemoryShard

KEYS = 16


class Family:
    """What the stream's description would say, and the log of each shard."""

    def __init__(self, starts: dict[str, int], draw: Random) -> None:
        self.logs = {name: MemoryShard(start) for name, start in starts.items()}
        self.parents: dict[str, tuple[str, ...]] = dict.fromkeys(starts, ())
        self.ends: dict[str, int] = {}
        self._draw = draw
        names = list(starts)
        self._keys = {name: {key for key in range(KEYS) if names[key % len(names)] == name} for name in names}
        self._records: dict[tuple[str, int], tuple[int, int]] = {}  # (shard, offset): its key, and which put it was

    @property
    def open(self) -> list[str]:
        """The shards that can be appended to."""
        return [name for name in self.logs if name not in self.ends]

    def append(self, name: str, weights: list[int]) -> None:
        """Append to a shard, or where it is closed to some descendant that is open."""
        while name in self.ends:
            name = self._draw.choice([child for child, parents in self.parents.items() if name in parents])
        keys = sorted(self._keys[name])
        for offset in range(self.logs[name].end_offset, self.logs[name].end_offset + len(weights)):
            self._records[name, offset] = (self._draw.choice(keys), len(self._records))
        self.logs[name].append(weights)

    def split(self, parent: str) -> Resharded | None:
        """Close a shard and give its keys to two; None if it has only one."""
        keys = sorted(self._keys[parent])
        if len(keys) < 2:
            return None
        at = self._draw.randint(1, len(keys) - 1)
        return self._reshard([parent], [set(keys[:at]), set(keys[at:])])

    def merge(self, first: str, second: str) -> Resharded:
        """Close two shards and give their keys to one."""
        return self._reshard([first, second], [self._keys[first] | self._keys[second]])

    def _reshard(self, parents: list[str], keys: list[set[int]]) -> Resharded:
        children = [f"shardId-{len(self.logs) + place:012}" for place in range(len(keys))]
        for parent in parents:
            self.ends[parent] = self.logs[parent].end_offset
        for child, mine in zip(children, keys, strict=True):
            self.logs[child], self.parents[child], self._keys[child] = MemoryShard(), tuple(parents), mine
        return Resharded({parent: self.ends[parent] for parent in parents}, children)

    def out_of_order(self, history: list[Event]) -> list[Violation]:
        """Judge by keys alone: the records of each are seen for the first time in the order in which they were put."""
        latest = dict.fromkeys(range(KEYS), -1)
        met: set[tuple[str, int]] = set()
        found: list[Violation] = []
        for number, event in enumerate(history):
            for offset in event.offsets if isinstance(event, Seen) else ():
                assert isinstance(event, Seen)
                record = (event.shard, offset)
                if record in met:
                    continue
                met.add(record)
                key, put = self._records[record]
                if put < latest[key]:
                    found.append(Violation("R9", "key-order", number, f"key {key}: put {put} after {latest[key]}"))
                latest[key] = put
        return found
