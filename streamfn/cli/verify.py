"""`streamfn verify`."""

from __future__ import annotations

import sys

import click

from streamfn.cli.options import Settings, common_options

_EPILOG = """\b
Examples:
  streamfn verify
  streamfn verify orders --deep
  streamfn verify --json | jq -r '.findings[] | [.stream, .shard_id, .path, .why] | @tsv'

\b
Every byte of every segment is held against a checksum; the segments must follow on
each other, and everything that was acknowledged must be there. What retention or a
weaker durability has taken is listed, and is no finding. Nothing is changed, and no
lock is taken: a writer or a mapping may be at work.

\b
Exit codes: 0 everything is as it was written, 1 something is not (`streamfn repair`
does what is proposed, after a backup), 2 there is no such stream.
"""


@click.command(epilog=_EPILOG)
@click.argument("stream", required=False)
@click.option("--deep", is_flag=True, help="Look into every record too: UTF-8, JSON, order of sequence numbers.")
@common_options
def verify(settings: Settings, stream: str | None, deep: bool) -> None:
    """Check STREAM, or all of the data directory, from the first byte to the last; repair nothing."""
    from streamfn.cli.verifying import run_verify

    sys.exit(run_verify(settings, stream, deep=deep))
