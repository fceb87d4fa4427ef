"""A stream's records as Arrow columns, for whoever computes over them: nothing is copied, segments are mapped.

    scan      record batches, one for each message, through our own reader: what is committed, every message's
              CRC checked before it is handed out
    dataset   a pyarrow dataset: sealed segments as files that pyarrow maps and reads itself, the rest as
              batches from `scan`; filters and projections reach the files

pyarrow is imported here and by nobody who only puts or runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs

from streamfn.errors import RefusedError
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.segment.segment import FILE_MAGIC, Segment, SegmentFile, header, list_segments
from streamfn.log.shard.reader import Message, ShardReader, horizon
from streamfn.log.shard.seek import offset_at_time

_READ_BYTES = 16 * 1024 * 1024
SHARD_ID = pa.field("shard_id", pa.string())


def scan(
    stream: Stream, shard_ids: Sequence[str] | None = None, *, from_ms: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the committed records of a stream, shard after shard, each in its order.

    With `from_ms` (since 1970, UTC) each shard begins with the first record that arrived then or later; what follows
    it may have arrived earlier.

    A batch is one message, with the columns of its shard log.  Its schema's metadata has `shard_id` and
    `first_offset` (of its first row).  It keeps its segment mapped for as long as it, or anything sliced from
    it, lives, also when retention or compaction has unlinked the file.  What retention or damage that was
    salvaged has taken is left out.

    Raises:
        RefusedError: there is no shard of such an id.
        LogDamaged: a message is damaged; those before it have been yielded.
        LogError: a file cannot be read.
    """
    for shard in _chosen(stream, shard_ids):
        yield from _scan_shard(shard, horizon(shard) if from_ms is None else offset_at_time(shard, from_ms))


def dataset(stream: Stream, shard_ids: Sequence[str] | None = None) -> ds.Dataset:
    """Return a pyarrow dataset of the committed records, with a column `shard_id` added.

    It shows what there is now: what is appended later is in the next one.  Sealed segments are read by
    pyarrow, which trusts them: `streamfn verify` checks them first.

    Raises:
        RefusedError, LogDamaged, LogError: as `scan`.
    """
    chosen = _chosen(stream, shard_ids)
    sealed: list[tuple[Shard, SegmentFile]] = []
    batches: list[pa.RecordBatch] = []
    for shard in chosen:
        files = list_segments(shard)
        sealed += [(shard, file) for file in files if file.sealed]
        for file in files:
            if not file.sealed:  # the active segment, and those before it that await sealing
                batches += [_labelled(batch, shard) for batch in _scan_shard(shard, file.first_offset)]
                break
    schema = _schema(stream.shards[0], sealed, batches)
    parts = []
    if sealed:
        parts.append(
            ds.FileSystemDataset.from_paths(
                [str(file.path) for _, file in sealed],
                schema=schema,
                format=ds.IpcFileFormat(),
                filesystem=pyarrow.fs.LocalFileSystem(use_mmap=True),
                partitions=[ds.field("shard_id") == shard.id for shard, _ in sealed],
            )
        )
    if batches or not sealed:
        parts.append(ds.dataset([_widened(batch, schema) for batch in batches], schema=schema))
    return ds.dataset(parts)


def _chosen(stream: Stream, shard_ids: Sequence[str] | None) -> list[Shard]:
    if shard_ids is None:
        return list(stream.shards)
    known = {shard.id: shard for shard in stream.shards}
    for shard_id in shard_ids:
        if shard_id not in known:
            raise RefusedError(f"stream {stream.name!r} has no shard {shard_id!r}: it has {', '.join(known)}")
    return [known[shard_id] for shard_id in shard_ids]


def _scan_shard(shard: Shard, start: int) -> Iterator[pa.RecordBatch]:
    mapping: _Mapping | None = None
    with ShardReader.open(shard, start) as reader:
        end = reader.committed().end_offset
        while (messages := reader.poll(_READ_BYTES, end)) or reader.gap is not None:
            if not messages:
                reader.skip()
            for message in messages:
                if mapping is None or mapping.segment_id != message.segment.id:
                    mapping = _Mapping(shard, message.segment)
                yield mapping.batch(message, max(0, start - message.first_offset))


class _Mapping:
    """A segment, mapped for record batches: it goes when the last batch and the scan have gone.

    It is not the reader's mapping, because what Python's collector lets go of, at any moment and in any thread,
    must not need a lock.
    """

    def __init__(self, shard: Shard, segment: Segment) -> None:
        self.segment_id = segment.id
        self._shard_id = shard.id
        self._address = shard.disk.map(segment.fd, segment.size)
        weakref.finalize(self, shard.disk.unmap, self._address, segment.size)
        magic = len(FILE_MAGIC) if segment.sealed else 0
        self._schema = pa.ipc.read_schema(self._buffer(magic, segment.data_at - magic))

    def batch(self, message: Message, first_row: int = 0) -> pa.RecordBatch:
        """Return a proven message, from a row on, as a record batch over the mapped bytes."""
        batch = pa.ipc.read_record_batch(self._buffer(message.cdata.position, message.bytes), self._schema)
        about = {"shard_id": self._shard_id, "first_offset": str(message.first_offset + first_row)}
        return batch.slice(first_row).replace_schema_metadata(about)

    def _buffer(self, position: int, length: int) -> pa.Buffer:
        return pa.foreign_buffer(self._address + position, length, self)


def _labelled(batch: pa.RecordBatch, shard: Shard) -> pa.RecordBatch:
    return batch.append_column(SHARD_ID, pa.repeat(pa.scalar(shard.id), batch.num_rows))


def _schema(
    shard: Shard, sealed: Sequence[tuple[Shard, SegmentFile]], batches: Sequence[pa.RecordBatch]
) -> pa.Schema:
    """Every column that any of them has; those of a new segment where there are none yet."""
    seen = [pa.ipc.read_schema(pa.py_buffer(header(shard, sealed=False)))]
    for _, file in sealed:
        with pa.memory_map(str(file.path)) as content:
            seen.append(pa.ipc.open_file(content).schema)
    seen += [batch.schema for batch in batches]
    return pa.unify_schemas([*(schema.remove_metadata() for schema in seen), pa.schema([SHARD_ID])])


def _widened(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with nulls for the columns that its segment does not have."""
    names = set(batch.schema.names)
    columns = [
        batch.column(field.name) if field.name in names else pa.nulls(batch.num_rows, field.type) for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
