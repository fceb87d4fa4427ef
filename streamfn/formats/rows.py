"""Records on their way from a file into a stream, and what a bad one means.

Every reader yields `Rows` or `Changes`: good records, in the file's order.  At a bad one it yields what came
before and raises `BadRecord`, or, told to skip bad ones, counts it and goes on.  A record that is bad says why
in a `ValueError`.

Records are counted from 1, as lines are in an editor; what is counted depends on the format: lines of text, rows
of columns, records of documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from streamfn.formats.fields import KeyOf, TimeOf
from streamfn.limits import RECORD_BYTES_MAX
from streamfn.types import NewChange

if TYPE_CHECKING:
    import pyarrow as pa

Column: TypeAlias = "Sequence[Any] | pa.Array"
"""Values of one column, one for each record: in Python, or in Arrow without an object for each."""


class Origin(NamedTuple):
    """Where captured records come from.  `shard_id` and `arn` are None where the file does not say.

    `shards` is what the file says of the shards of its stream: their ids, hash keys and parents.
    """

    shard_id: str | None = None
    arn: str | None = None
    shards: tuple[ShardOrigin, ...] = ()


class ShardOrigin(NamedTuple):
    """A shard as a file describes it; the hash keys, ends included, are None where it has none.

    `closed` says that the file has all that will ever be in it.
    """

    id: str
    start_hash: int | None = None
    end_hash: int | None = None
    parents: tuple[str, ...] = ()
    closed: bool = False


class Rows(NamedTuple):
    """Good records in the file's order, and how far in the file they reach.

    `arrivals` is milliseconds since 1970, UTC; None takes the time of the append.  `last_line` is the last
    line looked at, good, bad or blank; `bad` how many were skipped as bad.  Without any record it only says
    that the source is quiet.

    Captured records bring their sequence `numbers` and are all of one shard, that of `origin`.  Records out of
    aggregated ones bring the numbers of those in `sources` and their places there in `subsources`.
    """

    data: Column
    keys: Column
    arrivals: Column | None
    last_line: int
    bad: int
    numbers: Column | None = None
    sources: Column | None = None
    subsources: Column | None = None
    origin: Origin | None = None


class Changes(NamedTuple):
    """The same for DynamoDB change records.  Those without sequence numbers are no captured ones."""

    changes: list[NewChange]
    last_line: int
    bad: int
    origin: Origin | None = None


class BadRecord(Exception):
    """A record that cannot be taken; everything before it has been yielded.  `where` may say more of its place."""

    def __init__(self, line: int, reason: str, where: str = "") -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason
        self.where = where


@dataclass(frozen=True, slots=True)
class Reading:
    """How records are read: where keys and times come from, and what happens to bad ones.

    With `new_numbers` captured records come without their sequence numbers and shards; with `deaggregate` too, and
    aggregated ones are taken apart.
    """

    key_of: KeyOf
    time_of: TimeOf | None = None
    skip_bad: bool = False
    skip_lines: int = 0
    new_numbers: bool = False
    deaggregate: bool = False


class Collector:
    """Gathers good records into Rows, and decides what a bad one means."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._key_of, self._time_of = reading.key_of, reading.time_of
        self._start()

    def _start(self) -> None:
        self.data: list[bytes] = []
        self.keys: list[str] = []
        self.arrivals: list[int] | None = None if self._time_of is None else []
        self.bad = 0

    def add(self, data: bytes, value: object) -> None:
        """Take one record; ValueError if it is bad, and then nothing has been taken."""
        if len(data) > RECORD_BYTES_MAX:
            raise ValueError(f"it has more than {RECORD_BYTES_MAX} bytes, and a record may not")
        key = self._key_of(data, value)
        if self.arrivals is not None:
            assert self._time_of is not None
            self.arrivals.append(self._time_of(value))
        self.data.append(data)
        self.keys.append(key)

    def add_all(self, lines: list[bytes], parse: Callable[[bytes], object]) -> None:
        """Take many records, or, where one is bad, none: ValueError, which does not say which one.

        Each parsed value is let go before the next one is made: a block of them would not fit a cache.
        """
        if max(map(len, lines), default=0) > RECORD_BYTES_MAX:
            raise ValueError("one has too many bytes")
        key_of, time_of = self._key_of, self._time_of
        if self.arrivals is None or time_of is None:
            self.keys += [key_of(line, parse(line)) for line in lines]
        else:
            found = [(key_of(line, value), time_of(value)) for line in lines for value in (parse(line),)]
            self.keys += [key for key, _ in found]
            self.arrivals += [arrival for _, arrival in found]
        self.data += lines

    def refuse(self, line: int, error: Exception, where: str = "") -> BadRecord | None:
        """Count a bad record, or return what ends the import."""
        if not self._reading.skip_bad:
            return BadRecord(line, str(error), where)
        self.bad += 1
        return None

    def take(self, last_line: int) -> Rows:
        """Return what has been gathered and start again."""
        rows = Rows(self.data, self.keys, self.arrivals, last_line, self.bad)
        self._start()
        return rows
