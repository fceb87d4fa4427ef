"""A stream on one side, a file on the other."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from streamfn.doors.selecting import Filter, Selection
from streamfn.errors import RefusedError
from streamfn.formats.compression import split_suffix
from streamfn.formats.output import STANDARD_OUTPUT, Output
from streamfn.formats.rows import ShardOrigin
from streamfn.formats.writing import EXPORT_FORMATS, Described, writer_for
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.format.layout import KINESIS_SOURCE
from streamfn.log.segment.segment import list_segments, read_header
from streamfn.log.shard.columns import scan

_SUFFIXES = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "get-records",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What an export was asked for: `file` is a path or `-`, `format` None for "as the file's name says"."""

    stream: str
    file: str = STANDARD_OUTPUT
    format: str | None = None
    full: bool = False
    selection: Selection = field(default_factory=Selection)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did: `bytes` are the file's, `lost` what the format does not carry, in words."""

    stream: str
    file: str
    format: str
    records: int
    bytes: int | None
    lost: tuple[str, ...]
    seconds: float


def run_export(data: DataDir, request: ExportRequest, progress: Callable[[int], None] | None = None) -> ExportReport:
    """Write what is committed now, shard after shard, each in its order.

    `progress` is called with the records written since; what it raises ends the export, and no file is there.

    Raises:
        RefusedError: there is no such stream or shard, or the options do not go together.
        FailedError: a record cannot be written in that format, or the disk is full; no file is there.
        LogDamaged: the log is damaged; no file is there.
    """
    started = time.monotonic()
    stream = data.stream(request.stream)
    format_name = _format(request)
    chosen = Filter(stream, request.selection)
    _check(stream, request, format_name)
    records = 0
    with Output(request.file) as output:
        streaming = output.stem.lower().endswith(".arrows") or request.file == STANDARD_OUTPUT
        described = _described(stream, request.selection)
        writer = writer_for(format_name, output.sink, described, full=request.full, streaming=streaming)
        try:
            for batch in scan(stream, chosen.shard_ids, from_ms=chosen.from_ms):
                taken = chosen.selected(batch)
                if taken.num_rows:
                    writer.write(taken, batch.schema.metadata[b"shard_id"].decode())
                    records += taken.num_rows
                if progress is not None:
                    progress(taken.num_rows)
            writer.close()
        except BaseException:
            writer.abandon()
            raise
    regular = request.file != STANDARD_OUTPUT and Path(request.file).is_file()
    size = os.stat(request.file).st_size if regular else None
    return ExportReport(
        stream.name, request.file, format_name, records, size, writer.lost, time.monotonic() - started
    )


def _format(request: ExportRequest) -> str:
    if request.format is not None:
        if request.format not in EXPORT_FORMATS:
            raise RefusedError(f"a stream is exported as {', '.join(EXPORT_FORMATS)}, not {request.format!r}")
        return request.format
    if request.file == STANDARD_OUTPUT:
        return "jsonl"
    stem, _ = split_suffix(request.file)
    for suffix, found in _SUFFIXES.items():
        if stem.lower().endswith(suffix):
            return found
    raise RefusedError(
        f"cannot tell the format of {request.file!r} from its name: give --format {'|'.join(EXPORT_FORMATS)}"
    )


def _check(stream: Stream, request: ExportRequest, format_name: str) -> None:
    if request.full and format_name != "jsonl":
        raise RefusedError(f"--full is of jsonl, not of {format_name}")
    if format_name == "parquet" and split_suffix(request.file)[1] is not None:
        raise RefusedError(f"Parquet compresses its columns itself: name it {split_suffix(request.file)[0]}")
    if format_name in ("parquet", "arrow") and request.file == STANDARD_OUTPUT and sys.stdout.isatty():
        raise RefusedError(f"{format_name} is not for a terminal: -o FILE, or a pipe")
    if format_name == "get-records" and len(request.selection.shard_ids or stream.shards) > 1:
        raise RefusedError(
            f"get-records does not say a record's shard, and stream {stream.name!r} has {len(stream.shards)}: "
            "choose one with --shard-id, or --format jsonl --full, arrow or parquet"
        )


def _described(stream: Stream, selection: Selection) -> Described:
    shards = tuple(
        ShardOrigin(
            shard.id,
            shard.start_hash if shard.ranged else None,
            shard.end_hash if shard.ranged else None,
            shard.parents,
            closed=not shard.open and selection.end is None,
        )
        for shard in stream.shards
    )
    sourced = stream.kind == "kinesis" and any(map(_has_sources, stream.shards))
    return Described(stream.kind, stream.arn, stream.region, shards, sourced)


def _has_sources(shard: Shard) -> bool:
    """Whether a segment has columns for the numbers of aggregated records."""
    for file in list_segments(shard):
        try:
            fd = shard.disk.open(file.path, os.O_RDONLY)
        except FileNotFoundError:
            return True  # it was just sealed: columns of nulls do no harm
        try:
            if read_header(shard, file, fd)[0] is KINESIS_SOURCE:
                return True
        finally:
            shard.disk.close(fd)
    return False
