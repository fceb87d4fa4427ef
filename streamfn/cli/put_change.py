"""`streamfn put-change`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from streamfn.cli.options import Settings, common_options, durability_option

if TYPE_CHECKING:
    from streamfn.log.storage.durability import Durability

_EPILOG = """\b
Examples:
  streamfn put-change orders '{"Keys": {"id": {"N": "1"}},
      "NewImage": {"id": {"N": "1"}, "total": {"N": "9.50"}}}'
  aws dynamodbstreams get-records --shard-iterator ... | jq -c '.Records[]' |
      streamfn put-change orders --view-type NEW_IMAGE

\b
A change is DynamoDB JSON: a record of DynamoDB Streams, or in short its Keys, NewImage
and OldImage: an item without an OldImage was inserted, one without a NewImage removed.
Without CHANGE, each line of standard input is one. A MODIFY that changes nothing makes
no record, as in DynamoDB.
"""

VIEW_TYPES = ("KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES")


@click.command("put-change", epilog=_EPILOG)
@click.argument("stream")
@click.argument("change", nargs=-1)
@click.option(
    "--view-type",
    type=click.Choice(VIEW_TYPES),
    help="What the stream carries of an item; the rest is dropped.  [default: what the change says, or both images]",
)
@click.option("--shards", type=int, metavar="N", help="Shards of a stream that is made.  [default: 1]")
@durability_option
@common_options
def put_change(
    settings: Settings,
    stream: str,
    change: tuple[str, ...],
    view_type: str | None,
    shards: int | None,
    durability: Durability,
) -> None:
    """Put DynamoDB change records into STREAM, which is made if there is none."""
    from streamfn.cli.putting_changes import run_put_change

    given = [os.fsencode(value) for value in change] or None
    run_put_change(settings, stream, given, view_type=view_type, shards=shards, durability=durability)
