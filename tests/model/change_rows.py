"""Changes as the log lays them out: one message of ours in mapped memory, and structs that point into it."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any

from streamfn import _events
from streamfn._native import ffi, lib
from streamfn.events.dynamodb import DynamoDBSource
from streamfn.log.format.changes import from_changes
from streamfn.types import Change, NewChange

SOURCE = DynamoDBSource(
    "arn:aws:dynamodb:us-east-1:000000000000:table/orders/stream/2024-12-05T17:10:59.000", "us-east-1"
)
BASE = b"49" + b"0" * 34


class MappedChanges:
    """`changes` as one message of a mapped segment, which has to have a sequence number each.

    `address` and `size` are the segment's; `message` is an sf_message *.
    """

    def __init__(self, changes: Sequence[NewChange]) -> None:
        (rows,) = from_changes(changes, 0)
        encoded = rows.draft(0, BASE, 0).finish(1, 0)
        self.size = len(encoded)
        self.memory = mmap.mmap(-1, self.size)
        self.memory[:] = encoded
        self.base = ffi.from_buffer("uint8_t[]", self.memory)
        self.address = int(ffi.cast("uintptr_t", self.base))
        self.message = ffi.new("sf_message *")
        position, offset, count = ffi.new("uint64_t *"), ffi.new("uint64_t *"), ffi.new("size_t *")
        status = lib.sf_scan(
            self.base, self.size, lib.SF_DYNAMODB, position, offset, 1 << 60, self.message, 1, count
        )
        assert (status, count[0], offset[0]) == (lib.SF_SCAN_LIMIT, 1, len(changes))
        self.rows = len(changes)

    def extents(self, *runs: tuple[int, int], segment_id: int = 7) -> Any:
        """Return an sf_extent[] of (first row, rows) each."""
        column = list(self.message.column)
        made = [
            {"segment_id": segment_id, "first_offset": first, "first_row": first, "rows": rows, "column": column}
            for first, rows in runs
        ]
        return ffi.new("sf_extent[]", made)

    def segment(self, source: DynamoDBSource = SOURCE) -> _events.Segment:
        """Return this memory as `build` wants it."""
        of = _events.Source(source.arn, source.region, "shardId-000000000000", "role", "dynamodb")
        return _events.Segment(of, self.address, self.size)

    def build(self, *runs: tuple[int, int], source: DynamoDBSource = SOURCE) -> dict[str, list[dict[str, object]]]:
        """Build the event of some rows natively; of all of them by default."""
        extents = self.extents(*(runs or ((0, self.rows),)))
        return _events.build(int(ffi.cast("uintptr_t", extents)), len(extents), {7: self.segment(source)})


def stored(change: NewChange, offset: int = 0) -> Change:
    """Return a change that has everything as it lies in a shard."""
    number, event_id, created, size = (
        change.sequence_number, change.event_id, change.creation_ms, change.size_bytes,
    )  # fmt: skip
    assert number is not None
    assert event_id is not None
    assert created is not None
    assert size is not None
    return Change(
        offset, number, event_id, change.event_name, change.event_version, created, change.keys,
        change.new_image, change.old_image, size, change.stream_view_type, change.user_identity,
    )  # fmt: skip
