"""`streamfn put`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from streamfn.cli.options import Settings, common_options, durability_option

if TYPE_CHECKING:
    from streamfn.log.storage.durability import Durability

_EPILOG = """\b
Examples:
  streamfn put orders '{"id": 1}' '{"id": 2}' --partition-key c42
  seq 1000 | streamfn put numbers --shards 4

\b
Without DATA, each line of standard input is a record. A record is durable when its
shard and sequence number have been printed: on the disk (fsync), on the disk MS
milliseconds later (interval(MS)), or when the operating system pleases (os); killing
a process takes nothing in any mode.

\b
While another process writes to the stream, put goes through it.
"""


@click.command(epilog=_EPILOG)
@click.argument("stream")
@click.argument("data", nargs=-1)
@click.option("--partition-key", metavar="KEY", help="The key of every record.  [default: MD5 of its data]")
@click.option("--shards", type=int, metavar="N", help="Shards of a stream that is made.  [default: 1]")
@durability_option
@common_options
def put(
    settings: Settings,
    stream: str,
    data: tuple[str, ...],
    partition_key: str | None,
    shards: int | None,
    durability: Durability,
) -> None:
    """Put DATA, or the lines of standard input, into STREAM, which is made if there is none."""
    from streamfn.cli.putting import run_put

    given = [os.fsencode(value) for value in data] or None
    run_put(settings, stream, given, partition_key=partition_key, shards=shards, durability=durability)
