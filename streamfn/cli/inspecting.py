"""`streamfn list` and `streamfn inspect`."""

from __future__ import annotations

import click

from streamfn.cli.options import Settings, common_options

_LIST_EPILOG = """\b
Examples:
  streamfn list
  streamfn list --json | jq -r '.streams[].name'
"""

_INSPECT_EPILOG = """\b
Examples:
  streamfn inspect orders
  streamfn inspect orders --json | jq '.mappings[] | {name, lag_records}'
  streamfn inspect orders --json | jq '.shards[] | select(.closed_at == null) | .ShardId'

\b
A shard that was split or merged stands above its children: it is closed at the offset
behind its last record, and a mapping delivers a child when its parents are finished.
Nothing is read but names, footers, headers and arrival times; `streamfn verify` reads
every byte. A mapping's lag is the number of records it has not finished, and the age
of the oldest of them.
"""


@click.command("list", epilog=_LIST_EPILOG)
@common_options
def list_(settings: Settings) -> None:
    """List the streams of the data directory."""
    from streamfn.cli.descriptions import print_list

    print_list(settings)


@click.command(epilog=_INSPECT_EPILOG)
@click.argument("stream")
@common_options
def inspect(settings: Settings, stream: str) -> None:
    """Show STREAM's shards, their lineage, and the mappings that read it."""
    from streamfn.cli.descriptions import print_stream

    print_stream(settings, stream)
