"""`streamfn import`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from streamfn.cli.options import Settings, common_options, durability_option
from streamfn.cli.output import count_of, print_json
from streamfn.formats.detect import FORMATS

if TYPE_CHECKING:
    from streamfn.log.storage.durability import Durability

_EPILOG = """\b
Examples:
  streamfn import orders.jsonl.gz --stream orders --shards 4 --partition-key customer.id
  streamfn import flights.csv --stream flights --time-field time_hour
  aws kinesis get-records --shard-iterator ... | streamfn import - --stream orders
  streamfn import event.json --stream orders           a Lambda event out of a log
  streamfn import delivered/ --stream orders --format firehose --partition-key id
  streamfn import captured/ --stream clicks --format lambda-event --deaggregate
  streamfn import orders.parquet --stream orders2      what export has written

\b
Formats (the name's suffix says, else the content, unless --format does):
  jsonl        .jsonl .ndjson   a line's bytes are the record's data, as they are
  lines        .txt .log        a line is a record, whatever it holds
  csv          .csv             a row becomes a compact JSON object of strings
  parquet      .parquet         a row becomes a compact JSON object; a table with
  arrow        .arrow .arrows   a shard log's own columns is taken as it is
               .feather .ipc
  firehose                      JSON values with or without line feeds between
  kinesis-get-records           what `aws kinesis get-records` prints
  dynamodb-get-records          what `aws dynamodbstreams get-records` prints
  lambda-event                  Kinesis or DynamoDB events, also in a log's lines
Any of them may be compressed with gzip or zstd. Standard input is jsonl unless it
begins as another format does.

\b
Captured records (the last three, and tables with a column sequence_number) keep
shard, sequence number and arrival time, in a stream that is made for them. Those
that the stream has already are skipped and counted, so an import can be repeated.

\b
Times are ISO 8601 (without a zone: UTC) or numbers: seconds since 1970 below
100,000,000,000, milliseconds from there on. They are kept as they are.

On a bad line (row, record) the import stops with exit code 1. Everything before it
is durable; the message says up to where, and --skip-lines N goes on from there.
"""


@click.command("import", epilog=_EPILOG)
@click.argument("files", metavar="FILE|-...", nargs=-1, required=True)
@click.option("--stream", required=True, metavar="S", help="Import into this stream; made if there is none.")
@click.option("--shards", type=int, metavar="N", help="Shards of a stream that is made.  [default: 1]")
@click.option(
    "--partition-key",
    metavar="FIELD",
    help="The field that is the partition key (a.b: b in a).  [default: the data's MD5]",
)
@click.option("--time-field", metavar="FIELD", help="Take the arrival time from this field.  [default: now]")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="What FILE holds.")
@click.option("--shard-id", metavar="ID", help="The shard of captured records.  [default: theirs, or the first]")
@click.option("--stream-arn", metavar="ARN", help="The ARN of a stream that is made.")
@click.option("--new-sequence-numbers", is_flag=True, help="Give captured records new numbers, by their keys.")
@click.option("--deaggregate", is_flag=True, help="Take KPL-aggregated records apart; gives new numbers.")
@click.option("--skip-bad", is_flag=True, help="Count bad lines and go on.")
@click.option("--skip-lines", type=click.IntRange(min=0), default=0, metavar="N", help="Begin behind line N.")
@durability_option
@common_options
def import_(
    settings: Settings,
    files: tuple[str, ...],
    stream: str,
    shards: int | None,
    partition_key: str | None,
    time_field: str | None,
    format_: str | None,
    shard_id: str | None,
    stream_arn: str | None,
    new_sequence_numbers: bool,
    deaggregate: bool,
    skip_bad: bool,
    skip_lines: int,
    durability: Durability,
) -> None:
    """Import the records of FILE (- is standard input) into a stream, in the file's order.

    Several files are read one after the other; a directory is all files in it, by name (for captures and firehose).
    """
    from streamfn.cli.progress import ImportProgress
    from streamfn.doors.importing import ImportRequest, run_import

    request = ImportRequest(
        files=files,
        stream=stream,
        shards=shards,
        partition_key=partition_key,
        time_field=time_field,
        format=format_,
        shard_id=shard_id,
        stream_arn=stream_arn,
        new_sequence_numbers=new_sequence_numbers,
        deaggregate=deaggregate,
        skip_bad=skip_bad,
        skip_lines=skip_lines,
        durability=durability,
    )
    with ImportProgress() as progress:
        report = run_import(settings.data_dir, request, progress)
    if report.look_alike is not None:
        file, look_alike = report.look_alike
        click.echo(
            f"streamfn: the lines of {file} were imported as they are; as the captured records that they look like "
            f"they are with --format {look_alike}",
            err=True,
        )
    rate = round(report.records / report.seconds)
    if settings.json_output:
        print_json(
            {
                "stream": report.stream,
                "shards": report.shards,
                "records": report.records,
                "bytes": report.bytes,
                "skipped": report.bad,
                "already_there": report.already_there,
                "files": report.files,
                "lines": report.lines,
                "seconds": round(report.seconds, 3),
                "records_per_second": rate,
            }
        )
        return
    megabytes = report.bytes / 1e6
    skipped = f", {report.bad:,} bad ones skipped" if report.bad else ""
    skipped += f", {report.already_there:,} were there already" if report.already_there else ""
    click.echo(
        f"{report.stream}: imported {count_of(report.records, 'record')} ({megabytes:,.1f} MB) "
        f"into {count_of(report.shards, 'shard')} in {report.seconds:.1f} s "
        f"({rate:,} records/s, {megabytes / report.seconds:,.0f} MB/s){skipped}"
    )
