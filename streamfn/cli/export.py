"""`streamfn export`."""

from __future__ import annotations

import dataclasses

import click

from streamfn.cli.options import Settings, common_options
from streamfn.cli.output import count_of, print_json, shown_size

_EPILOG = """\b
Examples:
  streamfn export orders -o orders.parquet                 everything, exactly
  streamfn export orders -o may.arrow.zst --from 2026-05-01 --until 2026-06-01
  streamfn export orders --partition-key alice | jq .total  the data, a line each
  streamfn export orders --format jsonl --full             with numbers, keys, times
  streamfn export orders -o page.json --shard-id shardId-000000000000
  streamfn export table -o changes.jsonl.gz --key id=42    changes of one item

\b
Formats (the name's suffix says, unless --format does; standard output is jsonl):
  parquet      .parquet         the columns of the shard log, and shard_id; with
  arrow        .arrow .arrows   the stream's ARN and shards in the metadata: import
               .feather .ipc    makes the same stream of it
  jsonl        .jsonl .ndjson   a record's data is a line, as it is; --full: a JSON
                                object with its number, shard, time, key, data (base64);
                                import takes it with --format kinesis-get-records
  get-records  .json            documents as `aws kinesis get-records` (or
                                `aws dynamodbstreams get-records`) prints them
A further suffix .gz or .zst compresses (not Parquet, which does so itself).

\b
--from is included, --until is not. Each is a time (as in import), of which every
record's own arrival time counts, or a sequence number (16 digits or more).

The file is there whole or not at all. What a format cannot carry is said on
standard error, in one line.
"""


@click.command(epilog=_EPILOG)
@click.argument("stream")
@click.option("-o", "--output", "file", default="-", metavar="FILE|-", help="Write there.  [default: standard output]")
@click.option(
    "--format", "format_", type=click.Choice(("parquet", "arrow", "jsonl", "get-records")), help="What to write."
)
@click.option("--full", is_flag=True, help="jsonl: a JSON object for each record, not its data alone.")
@click.option("--from", "start", metavar="TIME|NUMBER", help="Begin there.")
@click.option("--until", "end", metavar="TIME|NUMBER", help="End before that.")
@click.option("--shard-id", "shard_ids", multiple=True, metavar="ID", help="Only this shard; repeatable.")
@click.option("--partition-key", "partition_keys", multiple=True, metavar="KEY", help="Only of this key; repeatable.")
@click.option("--key", "keys", multiple=True, metavar="NAME=VALUE", help="Only changes of such items; repeatable.")
@common_options
def export(
    settings: Settings,
    stream: str,
    file: str,
    format_: str | None,
    full: bool,
    start: str | None,
    end: str | None,
    shard_ids: tuple[str, ...],
    partition_keys: tuple[str, ...],
    keys: tuple[str, ...],
) -> None:
    """Write the records of STREAM to a file, all of them or a selection."""
    from streamfn.doors.exporting import ExportRequest, run_export
    from streamfn.doors.selecting import Selection
    from streamfn.errors import RefusedError
    from streamfn.log.catalog.datadir import DataDir

    if file == "-" and settings.json_output:
        raise RefusedError("--json prints a summary where the records would go: give -o FILE")
    selection = Selection(
        shard_ids=shard_ids, start=start, end=end, partition_keys=partition_keys, keys=keys
    )
    request = ExportRequest(stream=stream, file=file, format=format_, full=full, selection=selection)
    report = run_export(DataDir.open(settings.data_dir, create=False), request)
    if report.lost:
        click.echo(f"streamfn: {report.format} does not carry {_listed(report.lost)}", err=True)
    if settings.json_output:
        print_json(dataclasses.asdict(report) | {"seconds": round(report.seconds, 3)})
    elif file != "-":
        size = "" if report.bytes is None else f" ({shown_size(report.bytes)})"
        click.echo(f"{stream}: exported {count_of(report.records, 'record')} to {file}{size} in {report.seconds:.1f} s")


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
