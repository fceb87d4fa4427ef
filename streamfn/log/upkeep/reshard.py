"""Splitting and merging shards, as Kinesis does it: parents are closed, children take over their hash keys.

    lock      the writers of the shards that are closed: nobody appends any more, and what is there is durable
    make      the children's directories, synced
    commit    the new stream.json, by one rename: parents closed at their ends, children open
    tell      the parents' commit files say that they are closed; what they hold is sealed

A crash before the commit leaves directories that no description names, which the next change of the stream
sweeps up; a crash after it leaves nothing to do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack

from streamfn import limits
from streamfn.core import resharding
from streamfn.core.resharding import Range, Step
from streamfn.errors import LogError, RefusedError, ShardClosed
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import (
    DYNAMODB,
    Shard,
    Stream,
    uniform_ranges,
)
from streamfn.log.shard.numbers import last_sequence_number
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.sharing.broker import request_release
from streamfn.log.storage.commit import CommitFile
from streamfn.log.upkeep.succession import End, succeeded

WAIT_S = 5.0
# How often a stream may be resharded by others while we wait for its shards.
_ATTEMPTS = 5
# So many shards are closed at a time.
_AT_ONCE = 16

_Plan = Callable[[Stream], list[Step]]


def split_shard(
    data: DataDir, stream: str, shard: str, new_starting_hash_key: int | None = None, *, wait_s: float = WAIT_S
) -> Stream:
    """Split a shard in two; the second child's keys begin at `new_starting_hash_key` (None: the middle).

    Returns the stream as it is then; its last two shards are the children.  May wait up to `wait_s` seconds
    for whoever writes to the shard.

    Raises:
        RefusedError: as Kinesis refuses it: no such shard, not open, the key not inside its range.
        BusyError: a process goes on writing to it; the text names its pid.
        LogError, FailedError: something could not be written; the stream is as it was, or split.
    """

    def plan(now: Stream) -> list[Step]:
        parent = _eligible(now, shard)
        at = resharding.middle(parent) if new_starting_hash_key is None else new_starting_hash_key
        if not parent.start + 1 < at < parent.end:
            raise RefusedError(
                f"NewStartingHashKey {at} used in SplitShard() on shard {shard} in stream {now.name} under account "
                f"{now.account} is not both greater than one plus the shard's StartingHashKey {parent.start} and "
                f"less than the shard's EndingHashKey {parent.end}."
            )
        _check_limit(now, len(now.open_shards) + 1)
        return [resharding.split(parent, at, len(now.shards))]

    return _reshard(data, data.stream(stream), plan, wait_s)


def merge_shards(
    data: DataDir, stream: str, shard: str, adjacent_shard: str, *, wait_s: float = WAIT_S
) -> Stream:
    """Merge two shards whose hash keys adjoin into one, the stream's last.

    Raises:
        RefusedError: as Kinesis refuses it: no such shard, not open, not adjacent.
        BusyError, LogError, FailedError: as `split_shard`.
    """

    def plan(now: Stream) -> list[Step]:
        first, second = _eligible(now, shard), _eligible(now, adjacent_shard)
        if not resharding.adjacent(first, second):
            raise RefusedError(
                f"Shards {shard} and {adjacent_shard} in stream {now.name} under account {now.account} are not an "
                "adjacent pair of shards eligible for merging"
            )
        return [resharding.merge(first, second, len(now.shards))]

    return _reshard(data, data.stream(stream), plan, wait_s)


def update_shard_count(
    data: DataDir, stream: str, target_shard_count: int, *, wait_s: float = WAIT_S
) -> Stream:
    """Split and merge until `target_shard_count` shards of equal ranges are open (UNIFORM_SCALING), all at once.

    Raises:
        RefusedError: as Kinesis refuses it: more than double, less than half of the open shards, none, too many.
        BusyError, LogError, FailedError: as `split_shard`.
    """

    def plan(now: Stream) -> list[Step]:
        _require_ranges(now)
        count = len(now.open_shards)
        counts = f"Current open shard count: {count}, Target shard count: {target_shard_count}"
        if target_shard_count < 1:
            raise RefusedError(f"TargetShardCount must be greater than or equal to 1, not {target_shard_count}")
        _check_limit(now, target_shard_count)
        if target_shard_count > 2 * count:
            raise RefusedError(
                f"UpdateShardCount cannot scale up over double your current open shard count. {counts}"
            )
        if 2 * target_shard_count < count:
            raise RefusedError(
                f"UpdateShardCount cannot scale down below half your current open shard count. {counts}"
            )
        ranges = [Range(shard.number, shard.start_hash, shard.end_hash) for shard in now.open_shards]
        return resharding.uniform_steps(ranges, uniform_ranges(target_shard_count), len(now.shards))

    return _reshard(data, data.stream(stream), plan, wait_s)


def close_shard(
    data: DataDir,
    stream: Stream,
    shard: str,
    *,
    ending_sequence_number: str | None = None,
    wait_s: float = WAIT_S,
) -> Stream:
    """Close a shard because its source did: nothing is appended to it any more.  Harmless twice.

    `ending_sequence_number` is what the source says; None takes that of the last record.

    Raises:
        RefusedError: there is no such shard.
        BusyError, LogError, FailedError: as `split_shard`.
    """
    known = data.stream_by_id(stream.id)
    found = _found(known, shard)
    if not found.open:
        return known
    try:
        with _closing([found], wait_s) as ends:
            end = ends[found.number]
            ending = ending_sequence_number or end.last

            def closed(now: Stream) -> Stream:
                return now.with_shards(
                    one._replace(end_offset=end.offset, ending_sequence_number=ending) if one.id == shard else one
                    for one in now.shards
                )

            return data.change_stream(stream.id, closed)
    except ShardClosed:
        return data.stream_by_id(stream.id)


def _reshard(data: DataDir, stream: Stream, plan: _Plan, wait_s: float) -> Stream:
    """Carry out what is planned for the stream; planned anew where others were faster."""
    data.require_writable()
    for _ in range(_ATTEMPTS):
        steps = plan(stream)
        if not steps:
            return stream
        closing = _closed(stream, steps)
        try:
            with _closing(closing, wait_s) as ends:

                def change(now: Stream) -> Stream:
                    steps = plan(now)
                    if {shard.number for shard in _closed(now, steps)} != ends.keys():
                        raise ShardClosed(f"stream {now.name!r} was resharded meanwhile")
                    return succeeded(now, steps, ends, time.time_ns() // 1_000_000)

                return data.change_stream(stream.id, change)
        except ShardClosed:
            stream = data.stream_by_id(stream.id)
    raise LogError(f"stream {stream.name!r} is being resharded by others all the time: try again")


def _closed(stream: Stream, steps: list[Step]) -> list[Shard]:
    """Return the shards of the stream that the steps close; others are made and closed by them."""
    numbers = {one.number for step in steps for one in step.closed}
    return [shard for shard in stream.shards if shard.number in numbers]


@contextlib.contextmanager
def _closing(shards: list[Shard], wait_s: float) -> Iterator[dict[int, End]]:
    """Hold the writers of shards, with everything durable, and say where they end, by number.

    What comes after has closed them, if it does not raise: then whoever follows them is told.
    """
    deadline = time.monotonic() + wait_s
    with ExitStack() as held, ThreadPoolExecutor(min(_AT_ONCE, len(shards)) or 1) as threads:
        # Most of it is waiting for the disk, which serves many at once as fast as one.
        found = [threads.submit(_end_of, shard, deadline) for shard in shards]
        wait(found)
        opened = [one.result() for one in found if one.exception() is None]
        for writer, _ in opened:
            held.enter_context(writer)
        for one in found:
            one.result()
        yield {writer.shard.number: end for writer, end in opened}
        wait([threads.submit(_leave, writer) for writer, _ in opened])


def _end_of(shard: Shard, deadline: float) -> tuple[ShardWriter, End]:
    """Take a shard over from whoever writes to it, until a moment on the monotonic clock."""
    request_release(shard, max(0.0, deadline - time.monotonic()))
    writer = ShardWriter.open(shard, wait_s=max(0.0, deadline - time.monotonic()))
    try:
        writer.sync()
        above = writer.sequence_number(writer.end_offset)
        return writer, End(writer.end_offset, last_sequence_number(shard), above)
    except BaseException:
        writer.close()
        raise


def _leave(writer: ShardWriter) -> None:
    """Seal what a shard has that is closed now, so that retention can take it, and tell who follows it; let go.

    The reshard is done, whatever becomes of this: a segment that is not sealed stays readable as it is.
    """
    with contextlib.suppress(LogError):
        writer.roll()
        writer.finish_sealing()
    with contextlib.suppress(OSError):
        _tell(writer.shard)
    with contextlib.suppress(LogError):
        writer.close()


def _tell(shard: Shard) -> None:
    """Say in a shard's commit file that it is closed; its lock is held."""
    commit_file = CommitFile.open(shard.disk, shard.directory, write=True)
    try:
        commit = commit_file.read()
        if commit is not None:
            commit_file.publish(commit._replace(closed=True))
    finally:
        commit_file.close()


def _eligible(stream: Stream, shard: str) -> Range:
    """Return an open shard's range, or say as Kinesis does why it can be neither split nor merged."""
    _require_ranges(stream)
    found = _found(stream, shard)
    if not found.open:
        raise RefusedError(
            f"Shard {shard} in stream {stream.name} under account {stream.account} has already been merged or split, "
            "and thus is not eligible for merging or splitting."
        )
    return Range(found.number, found.start_hash, found.end_hash)


def _found(stream: Stream, shard: str) -> Shard:
    found = stream.shard(shard)
    if found is None:
        some = ", ".join(one.id for one in stream.open_shards[:10]) + (
            ", ..." if len(stream.open_shards) > 10 else ""
        )
        raise RefusedError(
            f"Could not find shard {shard} in stream {stream.name} under account {stream.account}; open are {some}"
        )
    return found


def _require_ranges(stream: Stream) -> None:
    if stream.kind == DYNAMODB or not all(shard.ranged for shard in stream.open_shards):
        raise RefusedError(
            f"the shards of stream {stream.name!r} have no hash keys of their own: they can be neither split nor merged"
        )


def _check_limit(stream: Stream, target: int) -> None:
    if target > limits.SHARDS_MAX:
        raise RefusedError(
            f"Target shard count or number of open shards cannot be greater than {limits.SHARDS_MAX}. Current open "
            f"shard count: {len(stream.open_shards)}, Target shard count: {target}"
        )
