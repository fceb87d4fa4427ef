"""What witnesses tell the checker.  Offsets are shard offsets everywhere, times are milliseconds since 1970."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeAlias


class Put(NamedTuple):
    """A producer is about to append `record`: whatever names its key and content, unique in the history."""

    record: Hashable


class Acknowledged(NamedTuple):
    """That append was answered: the record is durable, at this offset, under this sequence number."""

    shard: str
    offset: int
    record: Hashable
    sequence_number: str = ""


class Logged(NamedTuple):
    """A scan of the log at the end found this record; told shard by shard, in the order of the scan."""

    shard: str
    offset: int
    record: Hashable
    sequence_number: str = ""


class Gone(NamedTuple):
    """The records from `first_offset` up to `end_offset` are gone from the log: trimmed, or lost and named so."""

    shard: str
    first_offset: int
    end_offset: int


class Owned(NamedTuple):
    """A runtime has become the owner, with this epoch."""

    epoch: int


class Window(NamedTuple):
    """The tumbling window of an invocation, as the handler saw it."""

    start_ms: int
    state: object
    final: bool = False
    early: bool = False


class Seen(NamedTuple):
    """A worker was handed a batch, written down before anything else was done with it.

    `records` are what it found in the event, as `Put` has them, or nothing.  A final invocation of a window may have
    no offsets.
    """

    shard: str
    epoch: int
    invocation: Hashable
    offsets: Sequence[int]
    event_bytes: int = 0
    time_ms: int | None = None
    records: Sequence[Hashable] = ()
    window: Window | None = None


class Ended(NamedTuple):
    """That invocation is over: with certain success, or not (it failed, or its worker is dead).

    A failure may be partial: the first `done` records succeeded.  One that is not `charged` was a throttle or an
    error of the service, and uses up no attempt.  `state` is what a success of a window gave.
    """

    invocation: Hashable
    ok: bool
    done: int = 0
    charged: bool = True
    state: object = None


class Discard(NamedTuple):
    """Records that were given up, as the durable row has them: all of one lane, in order."""

    offsets: Sequence[int]
    condition: str
    attempts: int = 0


class Committed(NamedTuple):
    """A checkpoint is durable, and with it, in the same transaction, these discards."""

    shard: str
    epoch: int
    offset: int
    discards: Sequence[Discard] = ()
    time_ms: int | None = None


class Clock(NamedTuple):
    """The clock by which records are too old, or windows over, showed this; needed where it may jump."""

    time_ms: int


class Resharded(NamedTuple):
    """Shards were closed, each at its end, and all their keys went to new ones, which begin at offset 0."""

    parents: Mapping[str, int]
    children: Sequence[str]


class Accepted(NamedTuple):
    """Something was accepted to be done later: an invocation, or carrying a discard to its destination."""

    request: Hashable


class Attempted(NamedTuple):
    """It is being tried."""

    request: Hashable


class Settled(NamedTuple):
    """It came to its end: "done", "failed", "expired", whatever the states are."""

    request: Hashable
    state: str


Event: TypeAlias = (
    Put | Acknowledged | Logged | Gone | Owned | Seen | Ended | Committed | Resharded | Accepted | Attempted | Settled
)
