"""What a stream is after a reshard: parents closed where they end, children above all that they gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from streamfn.core.resharding import Step
from streamfn.log.catalog.stream import (
    OFFSET_DIGITS,
    Shard,
    Stream,
    default_sequence_base,
    require_numbers,
    sequence_order,
    shard_id,
)

# Of what a sequence number begins with, these last digits are the shard's number.
_NUMBER_DIGITS = 14


class End(NamedTuple):
    """Where a shard ends: an offset, its last record's sequence number, and one above all that it ever gave."""

    offset: int
    last: str | None
    above: str


def succeeded(stream: Stream, steps: Sequence[Step], ends: Mapping[int, End], now_ms: int) -> Stream:
    """Return the stream after the steps; shards that they make and close again have no records."""
    shards = list(stream.shards)
    first_id = 1 + max((_id_number(shard.id) for shard in shards), default=-1)
    floors: dict[int, str] = {}
    for step in steps:
        parents = [shards[one.number] for one in step.closed]
        above = max((_above(parent, ends, floors) for parent in parents), key=sequence_order)
        for parent in parents:
            end = ends.get(parent.number)
            shards[parent.number] = parent._replace(
                end_offset=end.offset if end else 0, ending_sequence_number=end.last if end else None
            )
        for made in step.made:
            assert made.number == len(shards)
            start = _start(stream, made.number, above)
            floors[made.number] = above
            shards.append(
                Shard(
                    made.number,
                    shard_id(first_id + made.number - len(stream.shards)),
                    stream.directory / shard_id(made.number),
                    made.start,
                    made.end,
                    True,
                    tuple(parent.id for parent in parents),
                    now_ms,
                    starting_sequence_number=start,
                    kind=stream.kind,
                    disk=stream.disk,
                )
            )
    return stream.with_shards(shards)


def _above(parent: Shard, ends: Mapping[int, End], floors: dict[int, str]) -> str:
    """Return a sequence number that is not below any that the shard or its ancestors gave."""
    end = ends.get(parent.number)
    if end is None:
        return floors[parent.number]
    return max(end.above, end.last or end.above, key=sequence_order)


def _start(stream: Stream, number: int, above: str) -> str:
    """Return the first sequence number of a child: above all of its parents', and like no other shard's."""
    usual = default_sequence_base(stream.id, number, stream.kind) + "0" * OFFSET_DIGITS
    if sequence_order(usual) > sequence_order(above):
        return usual
    width = 10**_NUMBER_DIGITS
    base = (int(above) // 10**OFFSET_DIGITS // width + 1) * width + number
    require_numbers(str(base), shard_id(number))
    return f"{base}{'0' * OFFSET_DIGITS}"


def _id_number(shard: str) -> int:
    """Return the number in a shard's id, -1 where it has none: new ids count on from the highest."""
    digits = shard.rpartition("-")[2]
    return int(digits) if digits.isdecimal() and digits.isascii() else -1
