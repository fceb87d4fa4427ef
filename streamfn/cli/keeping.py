"""The work behind `streamfn retention`, `trim` and `compact`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import click

from streamfn.cli.options import Settings
from streamfn.cli.output import count_of, print_json, shown_age, shown_size
from streamfn.errors import RefusedError
from streamfn.formats.times import parse_time_ms
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import KEEP_ALL, Retention, Shard, Stream
from streamfn.log.format.batch import check_sequence_number
from streamfn.log.shard.retention import Trimmed
from streamfn.log.upkeep import upkeep


class TrimRequest(NamedTuple):
    """What `trim` was asked for; all None but `stream`: what its retention says."""

    stream: str
    shard_id: str | None
    older_than_s: int | None
    before: str | None
    before_offset: int | None
    before_sequence_number: str | None
    keep_bytes: int | None


def set_retention(
    settings: Settings, name: str, *, age_s: int | None, size: int | None, cold_after_s: int | None, nothing: bool
) -> None:
    """Change what is given of a stream's retention, and show it.

    Raises:
        RefusedError: there is no such stream, or what is given contradicts itself.
        FailedError: it cannot be written.
    """
    given = (age_s, size, cold_after_s)
    if nothing and any(value is not None for value in given):
        raise RefusedError("--none goes with no other option: it keeps everything")
    data = DataDir.open(settings.data_dir, create=False)
    stream = data.stream(name)
    if nothing or any(value is not None for value in given):

        def changed(found: Stream) -> Stream:
            if nothing:
                return found.with_retention(KEEP_ALL, None)
            before = found.retention
            kept = Retention(_either(age_s, before.age_s), _either(size, before.bytes))
            return found.with_retention(kept, _either(cold_after_s, found.cold_after_s))

        stream = data.change_stream(stream.id, changed)
        if age_s is not None:
            for shard in stream.shards:
                upkeep.note_age(shard)
    if settings.json_output:
        kept = {"age_s": stream.retention.age_s, "bytes": stream.retention.bytes}
        print_json({"stream": name, "retention": kept, "cold_after_s": stream.cold_after_s})
    else:
        click.echo(f"{name}: {_shown(stream)}")


def _either(given: int | None, before: int | None) -> int | None:
    return before if given is None else given


def _shown(stream: Stream) -> str:
    kept = stream.retention
    said = []
    if kept.age_s is not None:
        said.append(f"keeps what was appended in the last {shown_age(1000 * kept.age_s)}")
    if kept.bytes is not None:
        said.append(f"keeps at least {shown_size(kept.bytes)} of each shard")
    if kept == KEEP_ALL:
        said.append("keeps everything")
    if stream.cold_after_s is not None:
        said.append(f"compresses what was appended {shown_age(1000 * stream.cold_after_s)} ago or earlier")
    return ", ".join(said)


def run_trim(settings: Settings, request: TrimRequest) -> None:
    """Trim, and say what went.

    Raises:
        RefusedError: there is no such stream or shard, it has no retention, or the options do not go together.
        BusyError: a process goes on writing to a shard; the text names its pid.
        LogError: a shard is damaged, or a disk failed.
    """
    data = DataDir.open(settings.data_dir, create=False)
    stream = data.stream(request.stream)
    data.require_writable()
    shards = _shards(stream, request.shard_id)
    trim = _trimmer(stream, shards, request)
    done = [(shard, trim(shard)) for shard in shards]
    if settings.json_output:
        described = [{"id": shard.id, **trimmed._asdict()} for shard, trimmed in done]
        totals = {what: sum(getattr(one, what) for _, one in done) for what in ("segments", "records", "bytes")}
        print_json({"stream": stream.name, **totals, "shards": described})
        return
    total = Trimmed(*(sum(values) for values in zip(*(one for _, one in done), strict=True)))
    click.echo(
        f"{stream.name}: trimmed {count_of(total.records, 'record')} in {count_of(total.segments, 'segment')} "
        f"({shown_size(total.bytes)})"
    )
    for shard, trimmed in done:
        if trimmed.segments:
            click.echo(f"  {shard.id} begins at offset {trimmed.horizon}")


def _shards(stream: Stream, shard_id: str | None) -> Sequence[Shard]:
    if shard_id is None:
        return stream.shards
    found = stream.shard(shard_id)
    if found is None:
        raise RefusedError(f"stream {stream.name!r} has no shard {shard_id!r}")
    return [found]


def _trimmer(stream: Stream, shards: Sequence[Shard], request: TrimRequest) -> Callable[[Shard], Trimmed]:
    """Return what trims a shard as was asked for."""
    asked = [value for value in request[2:] if value is not None]
    if len(asked) > 1:
        raise RefusedError(
            "give one of --older-than, --before, --before-offset, --before-sequence-number, --keep-bytes"
        )
    if len(shards) > 1 and not (request.before_offset is None and request.before_sequence_number is None):
        raise RefusedError(f"offsets and sequence numbers are a shard's: choose one of {stream.name!r} with --shard")
    now_ms = time.time_ns() // 1_000_000
    if request.older_than_s is not None:
        before_ms = now_ms - 1000 * request.older_than_s
        return lambda shard: upkeep.trim(shard, upkeep.appended_before(before_ms))
    if request.before is not None:
        at_ms = _time(request.before)
        return lambda shard: upkeep.trim(shard, upkeep.appended_before(at_ms))
    if request.before_offset is not None:
        below = upkeep.below_offset(request.before_offset)
        return lambda shard: upkeep.trim(shard, below)
    if request.before_sequence_number is not None:
        number = request.before_sequence_number
        check_sequence_number(number)
        return lambda shard: upkeep.trim(shard, upkeep.below_sequence_number(shard, number))
    if request.keep_bytes is not None:
        size = request.keep_bytes
        return lambda shard: upkeep.trim_to_bytes(shard, size)
    if stream.retention == KEEP_ALL:
        raise RefusedError(
            f"stream {stream.name!r} keeps everything: set a retention (streamfn retention {stream.name} --age 24h), "
            "or say what is to go (--older-than, --before, --keep-bytes)"
        )
    return lambda shard: upkeep.trim_by_retention(shard, stream.retention)


def _time(text: str) -> int:
    try:
        return parse_time_ms(text)
    except ValueError as error:
        raise RefusedError(f"--before takes a time: {error}") from None


def run_compact(settings: Settings, name: str, *, zstd: bool, cold_after_s: int | None) -> None:
    """Compact, and say what it did and what it cost.

    Raises:
        RefusedError: there is no such stream.
        BusyError: a process goes on writing to a shard; the text names its pid.
        LogError: a shard is damaged, or a disk is full or failed.
    """
    data = DataDir.open(settings.data_dir, create=False)
    stream = data.stream(name)
    data.require_writable()
    cold = None
    if zstd:
        cold = _either(cold_after_s, stream.cold_after_s) or 0
    done = [(shard, upkeep.compact_shard(shard, cold_after_s=cold)) for shard in stream.shards]
    total = {field: sum(getattr(one, field) for _, one in done) for field in done[0][1]._fields}
    if settings.json_output:
        print_json({"stream": name, **total, "shards": [{"id": shard.id, **one._asdict()} for shard, one in done]})
        return
    click.echo(
        f"{name}: {count_of(total['segments_before'], 'segment')} became {total['segments_after']:,} "
        f"({total['merged']:,} merged, {total['compressed']:,} compressed): {shown_size(total['bytes_before'])} "
        f"before, {shown_size(total['bytes_after'])} after, {shown_size(total['bytes_written'])} written"
    )
