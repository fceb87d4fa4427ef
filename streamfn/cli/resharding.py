"""`streamfn split-shard`, `merge-shards` and `update-shard-count`."""

from __future__ import annotations

import click

from streamfn.cli.options import Settings, common_options

_WHAT_IT_DOES = """
\b
The parents are closed, and their children take the records from then on; a mapping
delivers a child when it has finished its parents. Who writes to a parent is asked to
let go of it, and waited for up to 5 s.
"""

_SPLIT_EPILOG = f"""\b
Examples:
  streamfn split-shard orders --shard-to-split shardId-000000000000
  streamfn split-shard --stream-name orders --shard-to-split shardId-000000000000 \\
      --new-starting-hash-key 170141183460469231731687303715884105728
{_WHAT_IT_DOES}"""

_MERGE_EPILOG = f"""\b
Examples:
  streamfn merge-shards orders --shard-to-merge shardId-000000000001 \\
      --adjacent-shard-to-merge shardId-000000000002
{_WHAT_IT_DOES}"""

_UPDATE_EPILOG = f"""\b
Examples:
  streamfn update-shard-count orders --target-shard-count 4

\b
At most double and at least half of the shards that are open. The ranges come out
equal; where the old ones do not fit, short-lived shards are made on the way.
{_WHAT_IT_DOES}"""

_HASH_KEY = click.IntRange(min=0, max=2**128 - 1)


@click.command("split-shard", epilog=_SPLIT_EPILOG)
@click.argument("stream", required=False)
@click.option("--stream-name", metavar="STREAM", help="The same as the argument.")
@click.option("--shard-to-split", required=True, metavar="ID", help="An open shard.")
@click.option(
    "--new-starting-hash-key",
    type=_HASH_KEY,
    metavar="N",
    help="The first hash key of the second child.  [default: the middle]",
)
@common_options
def split_shard(
    settings: Settings,
    stream: str | None,
    stream_name: str | None,
    shard_to_split: str,
    new_starting_hash_key: int | None,
) -> None:
    """Split a shard of STREAM in two."""
    from streamfn.cli.reshard import run_reshard
    from streamfn.log.upkeep import reshard

    run_reshard(
        settings,
        _one(stream, stream_name),
        lambda data, name: reshard.split_shard(data, name, shard_to_split, new_starting_hash_key),
    )


@click.command("merge-shards", epilog=_MERGE_EPILOG)
@click.argument("stream", required=False)
@click.option("--stream-name", metavar="STREAM", help="The same as the argument.")
@click.option("--shard-to-merge", required=True, metavar="ID", help="An open shard.")
@click.option("--adjacent-shard-to-merge", required=True, metavar="ID", help="The one before or behind it.")
@common_options
def merge_shards(
    settings: Settings,
    stream: str | None,
    stream_name: str | None,
    shard_to_merge: str,
    adjacent_shard_to_merge: str,
) -> None:
    """Merge two shards of STREAM whose hash keys adjoin."""
    from streamfn.cli.reshard import run_reshard
    from streamfn.log.upkeep import reshard

    run_reshard(
        settings,
        _one(stream, stream_name),
        lambda data, name: reshard.merge_shards(data, name, shard_to_merge, adjacent_shard_to_merge),
    )


@click.command("update-shard-count", epilog=_UPDATE_EPILOG)
@click.argument("stream", required=False)
@click.option("--stream-name", metavar="STREAM", help="The same as the argument.")
@click.option("--target-shard-count", type=int, required=True, metavar="N", help="Shards that are open afterwards.")
@click.option(
    "--scaling-type",
    type=click.Choice(("UNIFORM_SCALING",)),
    default="UNIFORM_SCALING",
    help="Shards of equal size: the only type there is.",
)
@common_options
def update_shard_count(
    settings: Settings, stream: str | None, stream_name: str | None, target_shard_count: int, scaling_type: str
) -> None:
    """Split and merge shards of STREAM until there are N of equal ranges."""
    from streamfn.cli.reshard import run_reshard
    from streamfn.log.upkeep import reshard

    run_reshard(
        settings,
        _one(stream, stream_name),
        lambda data, name: reshard.update_shard_count(data, name, target_shard_count),
    )


def _one(stream: str | None, stream_name: str | None) -> str:
    if stream is not None and stream_name is not None:
        raise click.UsageError("the stream is named twice, as the argument and with --stream-name")
    name = stream if stream is not None else stream_name
    if name is None:
        raise click.UsageError("name the stream, as the argument or with --stream-name")
    return name
