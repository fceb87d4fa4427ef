"""The work behind `streamfn tail`."""

from __future__ import annotations

import base64
import itertools
import select
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import orjson

from streamfn.cli.options import Settings
from streamfn.cli.output import printable, shown_bytes
from streamfn.doors.openfiles import allow_open_files
from streamfn.errors import FailedError, RefusedError
from streamfn.formats.changes import get_records_json
from streamfn.formats.times import format_time, parse_time_ms
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.segment.rows import Row
from streamfn.log.shard.cursor import Followed, ShardCursor, merged
from streamfn.log.shard.reader import ShardReader, horizon, last_from
from streamfn.log.shard.seek import offset_at_time
from streamfn.types import Change

LAST_DEFAULT = 10
# How often a follower of a silent stream looks whether it is still there.
_SILENCE_S = 1.0


def run_tail(settings: Settings, name: str, *, count: int | None, position: str | None, follow: bool) -> None:
    """Print records; with `follow` until interrupted.

    Raises:
        RefusedError: there is no such stream, or the position is none.
        LogError: a shard is damaged or cannot be read.
    """
    parsed = _parse_position(position)
    stream = DataDir.open(settings.data_dir, create=False).stream(name)
    allow_open_files(3 * len(stream.shards))
    printer = _Printer(stream, json_output=settings.json_output)
    ends = [_committed_end(shard) for shard in stream.shards]
    if parsed is None:
        last = LAST_DEFAULT if count is None else count
        printer.print(_last(stream, ends, last))
        starts, left = ends, None
    else:
        starts = [_start(shard, parsed, end) for shard, end in zip(stream.shards, ends, strict=True)]
        left = count
    if follow:
        with Followed(stream, starts) as followed:
            _follow(followed, printer, left)
        return
    with ExitStack() as stack:
        cursors = [
            stack.enter_context(ShardCursor(shard, start, stop))
            for shard, start, stop in zip(stream.shards, starts, ends, strict=True)
        ]
        printer.print(itertools.islice(merged(cursors), left))


def _follow(followed: Followed, printer: _Printer, left: int | None) -> None:
    fresh = followed.cursors
    while left is None or left > 0:
        printed = printer.print(itertools.islice(merged(fresh), left))
        left = None if left is None else left - printed
        if left == 0:
            return
        # Standard output is watched too, so that `tail --follow | head -1` ends when head does.
        poll = select.poll()
        poll.register(followed.fileno(), select.POLLIN)
        poll.register(sys.stdout.fileno(), 0)
        ready = poll.poll(_SILENCE_S * 1000)
        if any(fd == sys.stdout.fileno() for fd, _ in ready):
            raise BrokenPipeError
        if not ready and not followed.stream.directory.exists():
            raise FailedError(f"stream {followed.stream.name!r} was deleted")
        fresh = followed.fresh()


def _parse_position(position: str | None) -> str | int | None:
    """Return None, TRIM_HORIZON, LATEST, or milliseconds since 1970."""
    if position is None or position in ("TRIM_HORIZON", "LATEST"):
        return position
    try:
        return parse_time_ms(position)
    except ValueError as error:
        raise RefusedError(f"--from takes TRIM_HORIZON, LATEST or a time: {error}") from None


def _committed_end(shard: Shard) -> int:
    with ShardReader.open(shard, horizon(shard)) as reader:
        return reader.committed().end_offset


def _start(shard: Shard, position: str | int, end: int) -> int:
    if isinstance(position, int):
        return min(offset_at_time(shard, position), end)
    return end if position == "LATEST" else horizon(shard)


def _last(stream: Stream, ends: Sequence[int], count: int) -> Sequence[tuple[Shard, Row]]:
    """Return the `count` records that a merge of everything would end with."""
    with ExitStack() as stack:
        cursors = [
            stack.enter_context(ShardCursor(shard, last_from(shard, end, count), end))
            for shard, end in zip(stream.shards, ends, strict=True)
        ]
        return deque(merged(cursors), maxlen=count)


class _Printer:
    """Writes records to standard output."""

    def __init__(self, stream: Stream, *, json_output: bool) -> None:
        self._region = stream.region
        self._json = json_output

    def print(self, some: Iterable[tuple[Shard, Row]]) -> int:
        """Print all of `some`, flush, and return how many they were."""
        out = sys.stdout.buffer
        printed = 0
        for shard, record in some:
            line = json_line(self._region, shard.id, record) if self._json else text_line(shard.id, record)
            out.write(line + b"\n")
            printed += 1
        out.flush()
        return printed


def json_line(region: str, shard_id: str, record: Row) -> bytes:
    """Return a record as one of get-records, with its shard; `region` is its stream's."""
    if isinstance(record, Change):
        return get_records_json(record, region, shard_id)
    described = {
        "SequenceNumber": record.sequence_number,
        "ApproximateArrivalTimestamp": record.arrival_ms / 1000,
        "Data": base64.b64encode(record.data).decode(),
        "PartitionKey": record.partition_key,
        "ShardId": shard_id,
    }
    return orjson.dumps(described)


def text_line(shard_id: str, record: Row) -> bytes:
    """Return a record as one line for people."""
    if isinstance(record, Change):
        return _change_line(shard_id, record)
    key = printable(record.partition_key)
    return f"{format_time(record.arrival_ms)}  {shard_id}  {key}  {shown_bytes(record.data)}".encode()


def _change_line(shard_id: str, change: Change) -> bytes:
    """Time, shard, what happened to which item, and what it became, or was."""
    image = change.new_image if change.new_image is not None else change.old_image
    shown = "" if image is None else f"  {shown_bytes(image)}"
    what = f"{change.event_name}  {shown_bytes(change.keys)}"
    return f"{format_time(change.creation_ms)}  {shard_id}  {what}{shown}".encode()
