"""Import and export as the library has them: options by name, work in a thread, ended by cancellation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import trio

from streamfn.errors import RefusedError

if TYPE_CHECKING:
    from streamfn.doors.exporting import ExportReport
    from streamfn.doors.importing import ImportReport
    from streamfn.log.catalog.datadir import DataDir


class ImportOptions(TypedDict, total=False):
    """What may be said of an import; the words are those of `streamfn import`.

    Attributes:
        shards: of a stream that is made; 1 where nothing is said.
        partition_key: the field that is a record's partition key; its data's MD5 where nothing is said.
        time_field: the field that is its arrival time; the time of the append where nothing is said.
        format: what the file holds; its name and content say so where nothing is said.
        shard_id: the shard of captured records.
        stream_arn: the ARN of a stream that is made.
        new_sequence_numbers: captured records get new numbers, and go where their keys say.
        deaggregate: aggregated records are taken apart; gives new numbers.
        skip_bad: bad records are counted and left out.
        skip_lines: begin behind so many lines (rows, records).
    """

    shards: int
    partition_key: str
    time_field: str
    format: str
    shard_id: str
    stream_arn: str
    new_sequence_numbers: bool
    deaggregate: bool
    skip_bad: bool
    skip_lines: int


class ExportOptions(TypedDict, total=False):
    """What may be said of an export; the words are those of `streamfn export`.

    Attributes:
        format: parquet, arrow, jsonl or get-records; the file's name says so where nothing is said.
        full: jsonl: a JSON object for each record, not its data alone.
        start: included; a time or a sequence number, as text.
        until: not included; likewise.
        shard_ids: only these shards.
        partition_keys: only records of these keys.
        keys: only DynamoDB changes of items with these attributes, `NAME=VALUE`.
    """

    format: str
    full: bool
    start: str
    until: str
    shard_ids: Sequence[str]
    partition_keys: Sequence[str]
    keys: Sequence[str]


async def import_file(
    data: DataDir, path: str | os.PathLike[str], stream: str, options: Mapping[str, Any]
) -> ImportReport:
    """Import a file or directory; see `Session.import_file`."""
    from streamfn.doors.importing import ImportRequest, run_import

    _check(options, ImportOptions.__annotations__)
    request = ImportRequest(files=(_path(path),), stream=stream, **options)
    return await trio.to_thread.run_sync(
        lambda: run_import(data.path, request, lambda *_: trio.from_thread.check_cancelled())
    )


async def export(
    data: DataDir, stream: str, path: str | os.PathLike[str], options: Mapping[str, Any]
) -> ExportReport:
    """Export a stream into a file; see `Session.export`."""
    from streamfn.doors.exporting import ExportRequest, run_export
    from streamfn.doors.selecting import Selection

    _check(options, ExportOptions.__annotations__)
    lists = {name: tuple(options.get(name, ())) for name in ("shard_ids", "partition_keys", "keys")}
    selection = Selection(start=options.get("start"), end=options.get("until"), **lists)
    request = ExportRequest(
        stream=stream,
        file=_path(path),
        format=options.get("format"),
        full=options.get("full", False),
        selection=selection,
    )
    return await trio.to_thread.run_sync(
        lambda: run_export(data, request, lambda _: trio.from_thread.check_cancelled())
    )


def _path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not isinstance(text, str) or text == "-":
        raise RefusedError(f"a file is named by its path, not {path!r}")
    return str(Path(text))


def _check(options: Mapping[str, Any], known: Mapping[str, object]) -> None:
    """Raise RefusedError unless every option is known and of its type."""
    for name, value in options.items():
        if name not in known:
            raise RefusedError(f"there is no option {name!r}: there are {', '.join(known)}")
        wanted = str(known[name])
        if "Sequence" in wanted:
            good = not isinstance(value, str) and all(isinstance(each, str) for each in value)
        else:
            kinds: dict[str, type] = {"str": str, "int": int, "bool": bool}
            kind = next(kind for word, kind in kinds.items() if word in wanted)
            good = type(value) is kind
        if not good:
            raise RefusedError(f"option {name} is not what it should be: {value!r}")
