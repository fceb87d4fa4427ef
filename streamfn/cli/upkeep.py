"""`streamfn retention`, `trim` and `compact`."""

from __future__ import annotations

import click

from streamfn.cli.options import Settings, common_options
from streamfn.cli.quantities import Age, Size

_RETENTION_EPILOG = """\b
Examples:
  streamfn retention orders
  streamfn retention orders --age 24h --bytes 10GB
  streamfn retention orders --cold-after 7d
  streamfn retention orders --none

\b
Age counts from the append. It is measured by the wall clock and by the time that the
machine was running, and both must agree: no jump of a clock removes records. Bytes are
per shard. Whole segments go, the oldest first, when a segment is sealed and by `trim`;
what a mapping had not delivered yet is counted as trimmed by its next run.
"""

_TRIM_EPILOG = """\b
Examples:
  streamfn trim orders                          what the stream's retention wants gone
  streamfn trim orders --older-than 7d
  streamfn trim orders --before 2024-05-01T00:00:00Z
  streamfn trim orders --keep-bytes 1GiB
  streamfn trim orders --shard shardId-000000000000 --before-offset 1000000

\b
Only whole segments go, so what is left may begin earlier than was asked for. Times are
those of the append. A batch in flight keeps what it needs; a checkpoint keeps nothing.
"""

_COMPACT_EPILOG = """\b
Examples:
  streamfn compact orders
  streamfn compact orders --zstd
  streamfn compact orders --zstd --cold-after 7d --json

\b
Each byte that is merged or compressed is written once more; the table in docs/log.md
says what appending, sealing, merging and compressing cost. Readers go on meanwhile.
"""


@click.command(epilog=_RETENTION_EPILOG)
@click.argument("stream")
@click.option("--age", type=Age(), help="Keep what was appended so long ago or later.")
@click.option("--bytes", "size", type=Size(), help="Keep at least so much of each shard.")
@click.option("--cold-after", type=Age(), help="Compress segments with zstd that were appended to so long ago.")
@click.option("--none", "nothing", is_flag=True, help="Keep everything, compress nothing.")
@common_options
def retention(
    settings: Settings, stream: str, age: int | None, size: int | None, cold_after: int | None, nothing: bool
) -> None:
    """Set how much of STREAM is kept, or show it. What is not given stays as it is."""
    from streamfn.cli.keeping import set_retention

    set_retention(settings, stream, age_s=age, size=size, cold_after_s=cold_after, nothing=nothing)


@click.command(epilog=_TRIM_EPILOG)
@click.argument("stream")
@click.option("--shard", "shard_id", metavar="ID", help="Only this shard.  [default: all]")
@click.option("--older-than", type=Age(), help="What was appended before so long a time.")
@click.option("--before", metavar="TIME", help="What was appended before a time.")
@click.option("--before-offset", type=click.IntRange(min=0), metavar="N", help="What lies before an offset.")
@click.option("--before-sequence-number", metavar="NUMBER", help="What lies before a sequence number.")
@click.option("--keep-bytes", type=Size(), help="All but at least so much of each shard.")
@common_options
def trim(
    settings: Settings,
    stream: str,
    shard_id: str | None,
    older_than: int | None,
    before: str | None,
    before_offset: int | None,
    before_sequence_number: str | None,
    keep_bytes: int | None,
) -> None:
    """Remove the oldest records of STREAM."""
    from streamfn.cli.keeping import TrimRequest, run_trim

    run_trim(
        settings,
        TrimRequest(stream, shard_id, older_than, before, before_offset, before_sequence_number, keep_bytes),
    )


@click.command(epilog=_COMPACT_EPILOG)
@click.argument("stream")
@click.option("--zstd", is_flag=True, help="Compress cold segments.")
@click.option(
    "--cold-after",
    type=Age(),
    help="Cold is what was appended to last so long ago.  [default: as set by `retention`, else 0]",
)
@common_options
def compact(settings: Settings, stream: str, zstd: bool, cold_after: int | None) -> None:
    """Seal STREAM's segments, merge small ones, and compress cold ones."""
    from streamfn.cli.keeping import run_compact

    if cold_after is not None and not zstd:
        raise click.UsageError("--cold-after goes with --zstd")
    run_compact(settings, stream, zstd=zstd, cold_after_s=cold_after)
