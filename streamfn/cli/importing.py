"""`streamfn import`."""

from __future__ import annotations

import click

from streamfn.cli.options import Settings, common_options
from streamfn.cli.output import count_of, print_json

_EPILOG = """\b
Examples:
  streamfn import orders.jsonl --stream orders --shards 4 --partition-key customer.id
  streamfn import flights.csv --stream flights --time-field time_hour
  zcat big.jsonl.gz | streamfn import - --stream big --skip-bad

\b
Formats (by the name's suffix, unless --format says; standard input is jsonl):
  jsonl    .jsonl .ndjson  a line's bytes are the record's data, as they are
  lines    .txt .log       a line is a record, whatever it holds
  csv      .csv            a row becomes a compact JSON object of strings
  parquet  .parquet        a row becomes a compact JSON object

\b
Times are ISO 8601 (without a zone: UTC) or numbers: seconds since 1970 below
100,000,000,000, milliseconds from there on. They are kept as they are.

On a bad line the import stops with exit code 1. Everything before it is durable;
the message says up to which line, and --skip-lines N goes on from there.
"""


@click.command("import", epilog=_EPILOG)
@click.argument("file", metavar="FILE|-")
@click.option("--stream", required=True, metavar="S", help="Import into this stream; made if there is none.")
@click.option("--shards", type=int, metavar="N", help="Shards of a stream that is made.  [default: 1]")
@click.option(
    "--partition-key",
    metavar="FIELD",
    help="The field that is the partition key (a.b: b in a).  [default: the data's MD5]",
)
@click.option("--time-field", metavar="FIELD", help="Take the arrival time from this field.  [default: now]")
@click.option(
    "--format", "format_", type=click.Choice(("jsonl", "lines", "csv", "parquet")), help="What FILE holds."
)
@click.option("--skip-bad", is_flag=True, help="Count bad lines and go on.")
@click.option("--skip-lines", type=click.IntRange(min=0), default=0, metavar="N", help="Begin behind line N.")
@common_options
def import_(
    settings: Settings,
    file: str,
    stream: str,
    shards: int | None,
    partition_key: str | None,
    time_field: str | None,
    format_: str | None,
    skip_bad: bool,
    skip_lines: int,
) -> None:
    """Import the records of FILE (- is standard input) into a stream, in the file's order."""
    from streamfn.cli.importer import ImportRequest, run_import

    request = ImportRequest(
        file=file,
        stream=stream,
        shards=shards,
        partition_key=partition_key,
        time_field=time_field,
        format=format_,
        skip_bad=skip_bad,
        skip_lines=skip_lines,
    )
    report = run_import(settings.data_dir, request, show_progress=True)
    rate = round(report.records / report.seconds)
    if settings.json_output:
        print_json(
            {
                "stream": report.stream,
                "shards": report.shards,
                "records": report.records,
                "bytes": report.bytes,
                "skipped": report.bad,
                "lines": report.lines,
                "seconds": round(report.seconds, 3),
                "records_per_second": rate,
            }
        )
        return
    megabytes = report.bytes / 1e6
    skipped = f", {report.bad:,} bad ones skipped" if report.bad else ""
    click.echo(
        f"{report.stream}: imported {count_of(report.records, 'record')} ({megabytes:,.1f} MB) "
        f"into {count_of(report.shards, 'shard')} in {report.seconds:.1f} s "
        f"({rate:,} records/s, {megabytes / report.seconds:,.0f} MB/s){skipped}"
    )
