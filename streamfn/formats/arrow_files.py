"""Arrow's own files: streams, files with a footer, and segments of a shard log, whose checksums are checked.

A file with a footer is read by it; one that was cut has none, and is read from its begin up to where it breaks off.
A segment's message is proven before its records are taken (native/include/sf_log.h says how), and messages must
follow one another without a hole.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from streamfn._native import ffi, lib
from streamfn.formats.compression import Pulled
from streamfn.formats.opening import Input

FILE_MAGIC = b"ARROW1\0\0"
_FILE_END = b"ARROW1"
# A segment's schema has it in its metadata; so may a copy that another tool has made, whose messages have no checksum.
_SEGMENT_KEY = b"streamfn.format"
_LOOKED_AT = 4096
_PIECE_BYTES = 1 << 16
# SFN1:<crc:8>:<epoch:8>:<first_offset:16>:<rows:8>:...
_MARK, _CRC_AT, _OFFSET_AT, _ROWS_AT = b"SFN1:", 5, 23, 40


class Damaged(ValueError):
    """The file is not what was written; the text says how."""


def open_arrow(source: Input) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the schema and the batches of an Arrow file.

    The batches are views of the file where it can be mapped.  What they raise (Damaged, pa.ArrowException, OSError)
    comes behind those before.

    Raises:
        pa.ArrowException, OSError: it is no Arrow file.
        FailedError: a copy of a compressed or piped one is needed, and there is no room for it.
    """
    has_footer = source.head.startswith(FILE_MAGIC)
    if _SEGMENT_KEY in source.head[:_LOOKED_AT]:
        return _open_segment(_stream(source, len(FILE_MAGIC) if has_footer else 0), has_footer=has_footer)
    if has_footer:
        return _open_file(source)
    reader = pa.ipc.open_stream(_stream(source, 0))
    return reader.schema, _stream_batches(reader, cut=False)


def _stream(source: Input, start: int) -> pa.NativeFile:
    """Return the file from a place on, mapped where that is possible."""
    if source.plain_path is not None:
        mapped = pa.memory_map(str(source.plain_path))
        mapped.seek(start)
        return mapped
    blocks = source.blocks()
    first = next(blocks, b"")
    return pa.PythonFile(Pulled(itertools.chain([first[start:]], blocks)), mode="r")


def _open_file(source: Input) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    place = source.seekable()
    file = pa.memory_map(str(place)) if isinstance(place, Path) else pa.PythonFile(place, mode="r")
    try:
        reader = pa.ipc.open_file(file)
    except pa.ArrowException:
        file.seek(len(FILE_MAGIC))
        stream = pa.ipc.open_stream(file)
        return stream.schema, _stream_batches(stream, cut=True)
    return reader.schema, (_validated(reader.get_batch(index)) for index in range(reader.num_record_batches))


def _stream_batches(reader: pa.RecordBatchStreamReader, *, cut: bool) -> Iterator[pa.RecordBatch]:
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            break
        yield _validated(batch)
    if cut:
        raise Damaged("its footer is missing or damaged: the file was cut")


def _validated(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch if its offsets lie inside it: Arrow trusts them, and whoever follows damaged ones may die."""
    batch.validate(full=True)
    return batch


def _open_segment(stream: pa.NativeFile, *, has_footer: bool) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    reader = pa.ipc.MessageReader.open_stream(stream)
    try:
        schema = pa.ipc.read_schema(reader.read_next_message())
    except StopIteration:
        raise pa.ArrowInvalid("it ends before its schema") from None
    return schema, _segment_batches(reader, schema, stream if has_footer else None)


def _segment_batches(
    reader: pa.MessageReader, schema: pa.Schema, file: pa.NativeFile | None
) -> Iterator[pa.RecordBatch]:
    """Yield a segment's batches; `file` has a footer behind them."""
    end_offset: int | None = None
    checked: bool | None = None
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            break
        metadata = message.metadata.to_pybytes()
        at = metadata.find(_MARK)
        checked = at >= 0 if checked is None else checked
        if checked:
            end_offset = _proven(metadata, at, message.body, end_offset)
        yield _validated(pa.ipc.read_record_batch(message, schema))
    if file is not None and not _has_end(file):
        raise Damaged("its footer is missing: the file was cut")


def _has_end(file: pa.NativeFile) -> bool:
    """Whether the file, read from where it stands, ends as one with a footer does; it need not be seekable."""
    end = b""
    while some := file.read(_PIECE_BYTES):
        end = (end + some)[-len(_FILE_END) :]
    return end == _FILE_END


def _proven(metadata: bytes, at: int, body: pa.Buffer, expected_offset: int | None) -> int:
    """Return the offset behind a message, if its checksum is right and it begins at `expected_offset` (None: anywhere).

    Raises:
        Damaged: neither is so.
    """
    try:
        crc, first = int(metadata[at + _CRC_AT : at + 13], 16), int(metadata[at + _OFFSET_AT : at + 39], 16)
        rows = int(metadata[at + _ROWS_AT : at + 48], 16)
    except ValueError:
        raise Damaged("a message's checksum cannot be read") from None
    blanked = metadata[: at + _CRC_AT] + b"00000000" + metadata[at + 13 :]
    start = struct.pack("<II", 0xFFFFFFFF, len(metadata)) + blanked
    actual = lib.sf_crc32c(0, start, len(start))
    actual = lib.sf_crc32c(actual, ffi.from_buffer(body), body.size)
    if at < 0 or actual != crc:
        raise Damaged(f"the checksum of the message at offset {first} is wrong")
    if expected_offset is not None and first != expected_offset:
        raise Damaged(f"offsets {expected_offset} to {first - 1} are missing")
    return first + rows
