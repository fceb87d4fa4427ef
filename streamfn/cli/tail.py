"""`streamfn tail`."""

from __future__ import annotations

import click

from streamfn.cli.options import Settings, common_options

_EPILOG = """\b
Examples:
  streamfn tail orders                            the last 10 records
  streamfn tail orders -n 3 --follow              the last 3, then what comes
  streamfn tail orders --from TRIM_HORIZON        everything
  streamfn tail orders --from 2026-05-01T12:00Z   from the first record of that time on
  streamfn tail orders --json | jq -r .Data | base64 -d

\b
Each shard's records come in their order; shards are interleaved by arrival time.
With --json a line has the keys of Kinesis' get-records and ShardId; Data is base64.
"""


@click.command(epilog=_EPILOG)
@click.argument("stream")
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=0),
    metavar="N",
    help="At most N records.  [default: 10, with --from: all]",
)
@click.option(
    "--from",
    "position",
    metavar="TRIM_HORIZON|LATEST|TIME",
    help="Begin there: the oldest, the newest, a time.",
)
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@common_options
def tail(settings: Settings, stream: str, count: int | None, position: str | None, follow: bool) -> None:
    """Show the last records of STREAM, or those from a position on."""
    from streamfn.cli.tailing import run_tail

    run_tail(settings, stream, count=count, position=position, follow=follow)
