"""The shards of a simulated stream: who descends from whom, which keys each has, and which record has which key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from random import Random

from streamfn.testing.checker import Event, Resharded, Seen, Violation
from streamfn.testing.memory import MemoryShard

KEYS = 16


class Log(MemoryShard):
    """A shard's log whose records are their keys and which put they were."""

    def __init__(self, start_offset: int = 0) -> None:
        super().__init__(start_offset)
        self.contents: list[tuple[int, int]] = []

    def put(self, contents: Sequence[tuple[int, int]], weights: Sequence[int], arrivals: Sequence[int]) -> None:
        self.contents += contents
        self.append(weights, arrivals)

    def content(self, offset: int) -> tuple[int, int]:
        """A record: its key, and which put it was."""
        return self.contents[offset - self.start_offset]


class Family:
    """What the stream's description would say, and the log of each shard."""

    def __init__(self, starts: dict[str, int], draw: Random, log: type[Log] = Log) -> None:
        self.logs: dict[str, Log] = {name: log(start) for name, start in starts.items()}
        self.parents: dict[str, tuple[str, ...]] = dict.fromkeys(starts, ())
        self.ends: dict[str, int] = {}
        self._draw = draw
        self._log = log
        names = list(starts)
        self._keys = {name: {key for key in range(KEYS) if names[key % len(names)] == name} for name in names}
        self._puts = 0

    @property
    def open(self) -> list[str]:
        """The shards that can be appended to."""
        return [name for name in self.logs if name not in self.ends]

    def choose(self, name: str, count: int) -> tuple[str, list[tuple[int, int]]]:
        """What is put next, and where to: into the shard, or where it is closed into some descendant that is open."""
        while name in self.ends:
            name = self._draw.choice([child for child, parents in self.parents.items() if name in parents])
        keys = sorted(self._keys[name])
        contents = [(self._draw.choice(keys), self._puts + number) for number in range(count)]
        self._puts += count
        return name, contents

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
            self.logs[child], self.parents[child], self._keys[child] = self._log(), tuple(parents), mine
        return Resharded({parent: self.ends[parent] for parent in parents}, children)

    def out_of_order(self, history: list[Event], *, across_owners: bool) -> list[Violation]:
        """Judge by keys alone: the records of each are seen for the first time in the order in which they were put.

        Not `across_owners`: what one owner gave up, and died before that was durable, the next one may deliver; and
        what is gone for the next one, a worker of the last may still have.
        """
        latest: defaultdict[tuple[int, int], int] = defaultdict(lambda: -1)  # by owner and key
        met: set[tuple[str, int]] = set()
        found: list[Violation] = []
        for number, event in enumerate(history):
            for offset in event.offsets if isinstance(event, Seen) else ():
                assert isinstance(event, Seen)
                record = (event.shard, offset)
                if record in met:
                    continue
                met.add(record)
                key, put = self.logs[event.shard].content(offset)
                place = (0 if across_owners else event.epoch, key)
                if put < latest[place]:
                    found.append(Violation("R9", "key-order", number, f"key {key}: put {put} after {latest[place]}"))
                latest[place] = put
        return found
