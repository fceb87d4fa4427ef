"""`streamfn verify` and `streamfn repair`."""

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


_REPAIR_EPILOG = """\b
Examples:
  streamfn verify orders        (first, to see what is proposed)
  streamfn repair orders
  streamfn repair --yes --json

\b
What can be read stays, with its offsets and sequence numbers. What cannot is named
in the shard's ledger, and mappings go on behind it and count it as lost. Every file
that is changed is copied to DATA_DIR/backups before.

\b
Exit codes: 0 repaired, or there was nothing to repair; 1 something is left that
cannot be repaired, or a process appends to the stream; 2 there is no such stream.
"""


@click.command(epilog=_REPAIR_EPILOG)
@click.argument("stream", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@common_options
def repair(settings: Settings, stream: str | None, yes: bool) -> None:
    """Do what `streamfn verify` proposes for STREAM, or for all of the data directory, after a backup."""
    from streamfn.cli.repairing import run_repair

    sys.exit(run_repair(settings, stream, ask=not yes))
