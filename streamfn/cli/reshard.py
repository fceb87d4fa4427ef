"""The work behind `split-shard`, `merge-shards` and `update-shard-count`."""

from __future__ import annotations

from collections.abc import Callable

import click

from streamfn.cli.options import Settings
from streamfn.cli.output import count_of, print_json
from streamfn.doors.openfiles import allow_open_files
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.listing import list_shards
from streamfn.log.catalog.stream import Stream

# Of more shards than this only the number is told.
_NAMED_MAX = 8


def run_reshard(settings: Settings, name: str, call: Callable[[DataDir, str], Stream]) -> None:
    """Reshard a stream and say which shards were closed and which were made.

    Raises:
        RefusedError: there is no such stream, or Kinesis would refuse it as well.
        BusyError: a process goes on writing to a shard; the text names its pid.
        FailedError: it could not be written.
    """
    data = DataDir.open(settings.data_dir, create=False)
    before = data.stream(name)
    data.require_writable()
    allow_open_files(8 * len(before.open_shards))
    after = call(data, name)
    if settings.json_output:
        made = {shard.id for shard in after.shards[len(before.shards) :]}
        closed = [shard.id for shard in before.open_shards if not _still_open(after, shard.id)]
        print_json(
            {
                "StreamName": after.name,
                "StreamARN": after.arn,
                "CurrentShardCount": len(before.open_shards),
                "TargetShardCount": len(after.open_shards),
                "ClosedShards": closed,
                "Shards": [one for one in list_shards(after) if one["ShardId"] in made],
            }
        )
        return
    if len(after.shards) == len(before.shards):
        click.echo(f"{name} has {count_of(len(after.open_shards), 'open shard')} already")
        return
    closed = [shard.id for shard in before.open_shards if not _still_open(after, shard.id)]
    opened = [shard.id for shard in after.open_shards if before.shard(shard.id) is None]
    click.echo(f"{_shards(closed)} closed; {_shards(opened)} open; {name} has {len(after.open_shards):,} now")


def _still_open(stream: Stream, shard_id: str) -> bool:
    found = stream.shard(shard_id)
    return found is not None and found.open


def _shards(ids: list[str]) -> str:
    return count_of(len(ids), "shard") if len(ids) > _NAMED_MAX else ", ".join(ids)
