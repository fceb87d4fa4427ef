"""The work behind `streamfn failures`."""

from __future__ import annotations

import difflib
import sys
from typing import Any

import click
import orjson

from streamfn.cli.options import Settings
from streamfn.cli.output import count_of, printable
from streamfn.cli.tailing import json_line, text_line
from streamfn.errors import RefusedError
from streamfn.events.failure_record import failure_record
from streamfn.formats.times import format_time
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Stream
from streamfn.log.segment.rows import Row
from streamfn.mapping.resolving import records_of
from streamfn.state.discards import StoredDiscard
from streamfn.state.store import Store, StoredMapping

# How many of a discard's records are shown to people.
SHOWN = 10


def print_failures(settings: Settings, which: str, *, pending_only: bool) -> None:
    """Print a mapping's discards; a line each with `--json`.

    Raises:
        RefusedError: there is no such mapping.
    """
    data = DataDir.open(settings.data_dir, create=False)
    mapping, found = _found(data, which)
    if pending_only:
        found = [one for one in found if one.pending]
    stream = _stream(data, mapping)
    for one in found:
        records = [] if stream is None else records_of(stream, one.discard)
        if settings.json_output:
            sys.stdout.buffer.write(orjson.dumps(_described(one, stream, records)) + b"\n")
        else:
            _print(one, records)
    sys.stdout.flush()
    if not found and not settings.json_output:
        what = "has no pending on-failure records" if pending_only else "has discarded nothing"
        click.echo(f"{mapping.name} {what}", err=True)


def _found(data: DataDir, which: str) -> tuple[StoredMapping, list[StoredDiscard]]:
    names: list[str] = []
    if data.state_path.exists():
        with Store.open(data.state_path, create=False, read_only=True) as store:
            mapping = store.find(which)
            if mapping is not None:
                return mapping, store.discards(mapping.uuid)
            names = [one.name for one in store.mappings()]
    close = difflib.get_close_matches(which, names, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there is {', '.join(names[:10]) or 'none yet'}"
    raise RefusedError(f"unknown mapping {which!r} in {data.path}: {hint}")


def _stream(data: DataDir, mapping: StoredMapping) -> Stream | None:
    """The mapping's stream; None if it was deleted."""
    try:
        return data.stream_by_id(mapping.stream_id)
    except RefusedError:
        return None


def _described(one: StoredDiscard, stream: Stream | None, records: list[Row]) -> dict[str, Any]:
    discard, failure = one.discard, one.discard.failure
    region = "" if stream is None else stream.region
    record = None
    if failure is not None and stream is not None:
        record = failure_record(
            failure, condition=discard.reason, kind=stream.kind, stream_arn=stream.arn, shard_id=discard.shard_id
        )
    return {
        "Condition": discard.reason,
        "Detail": discard.detail,
        "ShardId": discard.shard_id,
        "FirstOffset": discard.first_offset,
        "EndOffset": discard.end_offset,
        "DiscardedAt": format_time(one.created_ms if failure is None else failure.time_ms),
        "Destination": failure.destination or None if failure is not None else None,
        "DeliveredAt": None if one.delivered_ms is None else format_time(one.delivered_ms),
        "RedrivenAt": None if one.redriven_ms is None else format_time(one.redriven_ms),
        "OnFailureRecord": record,
        "Records": [orjson.loads(json_line(region, discard.shard_id, row)) for row in records],
        "RecordsGone": _count(one) - len(records),
    }


def _print(one: StoredDiscard, records: list[Row]) -> None:
    discard, failure = one.discard, one.discard.failure
    when = format_time(one.created_ms if failure is None else failure.time_ms)
    count = _count(one)
    what = count_of(count, "record") if count else "a window's final call"
    text = f"{when}  {discard.shard_id}  {discard.reason}: {what}"
    text += f" from offset {discard.first_offset}" if count > 1 else f" at offset {discard.first_offset}"
    if failure is not None and failure.attempts:
        text += f", {count_of(failure.attempts, 'attempt')}"
    if failure is not None and failure.destination:
        text += f", {'pending' if one.pending else 'delivered'} to {printable(failure.destination)}"
    if one.redriven_ms is not None:
        text += f", redriven {format_time(one.redriven_ms)}"
    click.echo(f"{text}\n  {printable(discard.detail)}" if discard.detail else text)
    for row in records[:SHOWN]:
        click.echo(b"  " + text_line(discard.shard_id, row))
    if len(records) > SHOWN:
        click.echo(f"  and {count_of(len(records) - SHOWN, 'record')} more")
    gone = count - len(records)
    if failure is not None and gone:
        click.echo(f"  {count_of(gone, 'record')} no longer in the log")


def _count(one: StoredDiscard) -> int:
    discard = one.discard
    return discard.end_offset - discard.first_offset if discard.failure is None else discard.failure.records
