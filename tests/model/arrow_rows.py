"""Records as the log lays them out: one Arrow message in mapped memory, and structs that point into it."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from streamfn import _events
from streamfn._native import ffi
from streamfn.events.kinesis import KinesisSource
from streamfn.types import Record

SCHEMA = pa.schema(
    [
        pa.field("sequence_number", pa.utf8(), nullable=False),
        pa.field("partition_key", pa.utf8(), nullable=False),
        pa.field("approximate_arrival_timestamp", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("data", pa.binary(), nullable=False),
    ]
)

SOURCE = KinesisSource(
    arn="arn:aws:kinesis:us-east-1:000000000000:stream/flights",
    region="us-east-1",
    shard_id="shardId-000000000003",
    identity_arn="arn:aws:iam::000000000000:role/lambda-role",
)


class MappedRows:
    """`records` as one message of a mapped segment.

    `address` and `size` are the segment's; `message` is an sf_message *.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        batch = pa.record_batch(
            [
                pa.array([record.sequence_number for record in records], pa.utf8()),
                pa.array([record.partition_key for record in records], pa.utf8()),
                pa.array([record.arrival_ms for record in records], pa.int64()).cast(SCHEMA.field(2).type),
                pa.array([record.data for record in records], pa.binary()),
            ],
            schema=SCHEMA,
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_batch(batch)
        written = sink.getvalue()
        self.size = int(written.size)
        self.memory = mmap.mmap(-1, self.size)
        self.memory[:] = written
        mapped = pa.py_buffer(self.memory)
        self.address = int(mapped.address)
        (read,) = pa.ipc.open_stream(mapped)
        sequence, key, arrival, data = (column.buffers() for column in read.columns)
        self.buffers = [sequence[1], sequence[2], key[1], key[2], arrival[1], data[1], data[2]]
        self.rows = len(records)
        columns = [self.offset(buffer) for buffer in self.buffers]
        self.message = ffi.new("sf_message *", {"rows": self.rows, "column": columns})

    def offset(self, buffer: pa.Buffer | None) -> int:
        """Where a buffer lies in the segment; an empty one may lie nowhere, and is then put at the end."""
        if buffer is None or buffer.size == 0:
            return self.size
        offset = int(buffer.address) - self.address
        assert 0 <= offset < self.size, "pyarrow copied a buffer"
        return offset

    def extents(self, *runs: tuple[int, int], segment_id: int = 7) -> Any:
        """Return an sf_extent[] of (first row, rows) each."""
        column = list(self.message.column)
        return ffi.new(
            "sf_extent[]",
            [
                {
                    "segment_id": segment_id,
                    "first_offset": first,
                    "first_row": first,
                    "rows": rows,
                    "column": column,
                }
                for first, rows in runs
            ],
        )

    def segment(self, source: KinesisSource = SOURCE) -> _events.Segment:
        """Return this memory as `build` wants it."""
        return _events.Segment(_events.Source(*source), self.address, self.size)

    def build(
        self, *runs: tuple[int, int], source: KinesisSource = SOURCE
    ) -> dict[str, list[dict[str, object]]]:
        """Build the event of some rows natively; of all of them by default."""
        runs = runs or ((0, self.rows),)
        return build(self.extents(*runs), {7: self.segment(source)})


def build(
    extents: Any, segments: dict[int, _events.Segment], selection: Sequence[int] | None = None
) -> dict[str, list[dict[str, object]]]:
    """Call the native builder with a cffi array of extents, and perhaps the row numbers of selected ones."""
    address = int(ffi.cast("uintptr_t", extents))
    if selection is None:
        return _events.build(address, len(extents), segments)
    numbers = ffi.new("uint32_t[]", list(selection))  # an exact allocation, so that AddressSanitizer sees too many
    return _events.build(address, len(extents), segments, int(ffi.cast("uintptr_t", numbers)), len(numbers))
