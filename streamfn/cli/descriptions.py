"""What a data directory holds, for people and as JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamfn.capture import memo
from streamfn.cli.options import Settings
from streamfn.cli.output import count_of, print_json, printable, shown_age, shown_size
from streamfn.core.descent import draw, generations
from streamfn.doors.openfiles import allow_open_files
from streamfn.formats.times import format_time
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.listing import describe_shard
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.shard.gaps import TRIMMED
from streamfn.log.shard.reader import SegmentInfo
from streamfn.log.shard.summary import Summary, arrival_ms, stored_records, summarize
from streamfn.state.store import Checkpoint, Store, StoredMapping

# Described things are plain dicts: they go out as JSON as they stand, and the tables are drawn from them.
Described = dict[str, Any]

# Tables that go into a pipe are not broken into lines of a terminal's width.
_PIPE_COLUMNS = 1000


def print_list(settings: Settings) -> None:
    """Print the streams; without a data directory there are none.

    Raises:
        FailedError: the data directory cannot be read, or is of a newer format.
    """
    streams: list[Described] = []
    if (settings.data_dir / "format").exists() or settings.data_dir.exists():
        streams = [_in_short(stream) for stream in DataDir.open(settings.data_dir, create=False).streams()]
    if settings.json_output:
        print_json({"streams": streams})
        return
    if not streams:
        click.echo(f"no streams in {settings.data_dir}")
        return
    table = _table("stream", ">open shards", ">records", "created")
    for one in streams:
        table.add_row(
            Text(one["name"]), f"{one['shards']:,}", f"{one['records']:,}", _shown_time(one["created"])
        )
    _print(table)


def print_stream(settings: Settings, name: str) -> None:
    """Print everything about a stream.

    Raises:
        RefusedError: there is none of that name.
        LogDamaged: a segment is damaged.
    """
    data_dir = DataDir.open(settings.data_dir, create=False)
    stream = data_dir.stream(name)
    allow_open_files(4 * len(stream.shards))
    described = describe(data_dir, stream, now_ms=time.time_ns() // 1_000_000)
    if settings.json_output:
        print_json(described)
    else:
        _draw(described)


def describe(data_dir: DataDir, stream: Stream, *, now_ms: int) -> Described:
    """Return shards, segments and mappings of a stream; ages count up to `now_ms` (since 1970, UTC)."""
    summaries = {shard.id: summarize(shard) for shard in stream.shards}
    ages = generations([(shard.id, shard.parents) for shard in stream.shards])
    shards = [_shard(shard, summaries[shard.id], ages[shard.id]) for shard in stream.shards]
    return {
        "name": stream.name,
        "id": stream.id,
        "arn": stream.arn,
        "kind": stream.kind,
        "created": format_time(stream.created_ms),
        "recorded": _recorded(stream),
        "open_shards": len(stream.open_shards),
        "records": sum(shard["records"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "shards": shards,
        "mappings": _mappings(data_dir.state_path, stream, summaries, now_ms),
    }


def _recorded(stream: Stream) -> Described | None:
    """What `record` has noted; None where the stream was not recorded."""
    noted = memo.read(stream)
    if noted is None:
        return None
    losses = [
        {
            "shard": one.shard_id,
            "after": one.loss.after,
            "before": one.loss.before,
            "noticed": format_time(one.noticed_ms),
        }
        for one in noted.losses
    ]
    return {"from": noted.source, "losses": losses}


def _in_short(stream: Stream) -> Described:
    return {
        "name": stream.name,
        "arn": stream.arn,
        "kind": stream.kind,
        "shards": len(stream.open_shards),
        "closed_shards": len(stream.shards) - len(stream.open_shards),
        "records": sum(stored_records(shard) for shard in stream.shards),
        "created": format_time(stream.created_ms),
    }


def _shard(shard: Shard, summary: Summary, generation: int) -> Described:
    found = [_segment(segment) for segment in summary.segments]
    # A compressed segment does not tell its first record's time without being inflated; then nobody knows the shard's.
    told = all(one["first_arrival"] for one in found if one["records"])
    times = [time for one in found for time in (one["first_arrival"], one["last_arrival"]) if time]
    return {
        **describe_shard(shard),
        "id": shard.id,
        "start_hash": str(shard.start_hash),
        "end_hash": str(shard.end_hash),
        "generation": generation,
        "parents": list(shard.parents),
        "created": format_time(shard.created_ms),
        "closed_at": shard.end_offset,
        "trimmed": summary.horizon,
        "gaps": [str(gap) for gap in summary.gaps.gaps if gap.why != TRIMMED],
        "records": sum(one["records"] for one in found),
        "bytes": summary.bytes,
        "first_arrival": min(times, default=None) if told else None,
        "last_arrival": max(times, default=None),
        "segments": found,
    }


def _segment(segment: SegmentInfo) -> Described:
    return {
        "file": segment.path,
        "sealed": segment.sealed,
        "first_offset": segment.first_offset,
        "records": segment.records,
        "bytes": segment.bytes,
        "first_arrival": None if segment.first_ms is None else format_time(segment.first_ms),
        "last_arrival": None if segment.last_ms is None else format_time(segment.last_ms),
    }


def _mappings(
    state_path: Path, stream: Stream, summaries: Mapping[str, Summary], now_ms: int
) -> list[Described]:
    if not state_path.exists():
        return []
    with Store.open(state_path, create=False, read_only=True) as store:
        found = [mapping for mapping in store.mappings() if mapping.stream_id == stream.id]
        return [
            _mapping(mapping, store.checkpoints(mapping.uuid), stream.shards, summaries, now_ms)
            for mapping in found
        ]


def _mapping(
    mapping: StoredMapping,
    checkpoints: dict[str, Checkpoint],
    shards: Sequence[Shard],
    summaries: Mapping[str, Summary],
    now_ms: int,
) -> Described:
    lanes = [_lane(shard, checkpoints.get(shard.id), summaries[shard.id], now_ms) for shard in shards]
    ages = [lane["lag_ms"] for lane in lanes if lane["lag_ms"] is not None]
    return {
        "name": mapping.name,
        "uuid": mapping.uuid,
        "handler": mapping.handler,
        "lag_records": sum(lane["lag_records"] for lane in lanes),
        "lag_ms": max(ages, default=None),
        "updated": format_time(max([mapping.updated_ms, *(one.updated_ms for one in checkpoints.values())])),
        "shards": lanes,
    }


def _lane(shard: Shard, checkpoint: Checkpoint | None, summary: Summary, now_ms: int) -> Described:
    """Describe how far one shard is; `lag_ms` is the age of its oldest unfinished record, if any.

    A shard that came after the mapping has no checkpoint before its first batch: it begins with its first record.
    """
    offset = checkpoint.offset if checkpoint else 0
    start = max(offset, summary.horizon)
    lag = summary.held(start)
    arrived_ms = arrival_ms(shard, summary.gaps.end_at(start)) if lag else None
    return {
        "shard_id": shard.id,
        "offset": offset,
        "sequence_number": checkpoint.sequence_number if checkpoint else None,
        "lag_records": lag,
        "lag_ms": None if arrived_ms is None else max(0, now_ms - arrived_ms),
    }


def _draw(described: Described) -> None:
    click.echo(f"stream   {described['name']}")
    click.echo(f"arn      {described['arn']}")
    click.echo(f"created  {described['created']}")
    if described["recorded"]:
        losses = described["recorded"]["losses"]
        missing = f"; {count_of(len(losses), 'range')} had been trimmed away (--json lists them)" if losses else ""
        click.echo(f"from     {described['recorded']['from']}{missing}")
    click.echo(
        f"holds    {count_of(described['records'], 'record')}, {shown_size(described['bytes'])} on disk\n"
    )
    _print(_family(described["shards"]))
    if not described["mappings"]:
        click.echo("\nno mapping reads it")
        return
    click.echo()
    table = _table("mapping", "handler", ">lag", ">oldest waits for", "last checkpoint")
    for mapping in described["mappings"]:
        age = "-" if mapping["lag_ms"] is None else shown_age(mapping["lag_ms"])
        table.add_row(
            Text(printable(mapping["name"])),
            Text(printable(mapping["handler"])),
            f"{mapping['lag_records']:,}",
            age,
            _shown_time(mapping["updated"]),
        )
    _print(table)


def _family(shards: Sequence[Described]) -> Table:
    """Return the table of shards, children below their parents."""
    by_id = {shard["id"]: shard for shard in shards}
    table = _table(
        "shard", "hash keys", "closed at", ">records", ">on disk", ">segments", "first arrival", "last arrival"
    )
    for line in draw([(shard["id"], shard["parents"]) for shard in shards]):
        shard = by_id[line.shard]
        name = Text(line.prefix + printable(shard["id"]))
        if line.named_only:
            table.add_row(name, "see above")
            continue
        table.add_row(
            name,
            _hash_keys(shard),
            "-" if shard["closed_at"] is None else f"{shard['closed_at']:,}",
            f"{shard['records']:,}",
            shown_size(shard["bytes"]),
            f"{len(shard['segments']):,}",
            _shown_time(shard["first_arrival"]),
            _shown_time(shard["last_arrival"]),
        )
    return table


def _hash_keys(shard: Described) -> str:
    """Return a shard's range by its first hexadecimal digits: the shortest that tell its ends from each other."""
    if "HashKeyRange" not in shard:
        return "-"
    start, end = (f"{int(shard[name]):032x}" for name in ("start_hash", "end_hash"))
    digits = next((n for n in range(4, 33) if start[:n] != end[:n]), 32)
    return f"{start[:digits]} - {end[:digits]}"


def _shown_time(time: str | None) -> str:
    """Return a time in UTC to the second, with a space where a narrow terminal may break it."""
    return "-" if time is None else time[: len("2026-01-01T00:00:00")].replace("T", " ")


def _table(*columns: str) -> Table:
    """Return a plain table; a column whose name begins with `>` is aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return table


def _print(table: Table) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_COLUMNS
    console.print(table)
