"""Records on their way to one shard, together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from streamfn.errors import RefusedError
from streamfn.log.catalog.stream import Shard
from streamfn.log.format.batch import check_record
from streamfn.log.format.changes import check_change
from streamfn.log.storage.durability import Durability
from streamfn.types import NewChange, NewRecord

New = NewRecord | NewChange


class Part(ABC):
    """Records of one put that go to one shard; `size` is roughly their weight in memory, in bytes.

    `alone` says that they are appended by themselves: they bring sequence numbers along, and those may be refused.
    """

    __slots__ = ("alone", "durability", "records", "size")

    def __init__(self, records: Sequence[New], durability: Durability, size: int) -> None:
        self.records = records
        self.durability = durability
        self.size = size
        if len(records) == 1:
            self.alone = records[0].sequence_number is not None
        else:
            self.alone = any(record.sequence_number is not None for record in records)

    @property
    def changes(self) -> bool:
        """Whether these are DynamoDB change records."""
        return isinstance(self.records[0], NewChange)

    @abstractmethod
    def placed(self, shard: Shard, first: int, base: str) -> None:
        """They have their offsets, from `first` on; sequence numbers given here begin with `base`."""


def run_of(parts: Sequence[Part]) -> int:
    """Return how many of the parts, from the first on, can be appended as one."""
    if parts[0].alone:
        return 1
    kind = type(parts[0].records[0])
    for count, part in enumerate(parts):
        if part.alone or type(part.records[0]) is not kind:
            return count
    return len(parts)


def check_records(records: Sequence[New], *, changes: bool) -> None:
    """Check what another process wants appended, as it has done itself: one bad record would fail all of its group.

    Raises:
        RefusedError: a record breaks a limit, or is not of the stream's kind.
    """
    for record in records:
        if isinstance(record, NewChange) != changes:
            raise RefusedError("change records and others do not share a stream")
        if isinstance(record, NewChange):
            check_change(record)
        else:
            check_record(record)
