"""Which records are replayed: of each shard, from one offset up to another.

A bound is a time or a sequence number. A time says of each shard where it begins, or ends, as AT_TIMESTAMP does: at the
first record, in the log's order, that arrived at or after it; so what lies between two times is [from, to). A sequence
number is one record's, of one shard: it is included at both ends, and the other shards are not in the replay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streamfn.errors import LogError, RefusedError
from streamfn.formats.times import format_time, parse_time_ms
from streamfn.limits import SEQUENCE_DIGITS_MAX, SEQUENCE_DIGITS_TOLD
from streamfn.log.catalog.stream import DYNAMODB, Shard, Stream
from streamfn.log.shard.numbers import offset_from, sequence_number_at
from streamfn.log.shard.reader import ShardReader, horizon
from streamfn.log.shard.seek import offset_at_time
from streamfn.log.shard.summary import arrival_ms

_PREFIX = "seq:"


class Bound(NamedTuple):
    """One end of a replay: `ms` (since 1970, UTC) or `sequence_number`; the other is None.

    `option` and `text` are how it was given.
    """

    option: str
    text: str
    ms: int | None = None
    sequence_number: str | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Offsets by shard id, for the shards that are replayed: the first record's, and that behind the last one."""

    stream: Stream
    starts: dict[str, int]
    ends: dict[str, int]

    @property
    def shards(self) -> list[Shard]:
        """The shards that have anything to replay, parents before children."""
        return [one for one in self.stream.shards if self.starts.get(one.id, 0) < self.ends.get(one.id, 0)]


def parse_bound(option: str, given: object) -> Bound:
    """Return the bound that is meant: a time, or a sequence number (with `seq:` before it where it is a short one).

    Raises:
        RefusedError: it is neither; `option` is what it was given as.
    """
    text = str(given)
    number = text.removeprefix(_PREFIX)
    if text.startswith(_PREFIX) or (number.isascii() and number.isdigit() and len(number) >= SEQUENCE_DIGITS_TOLD):
        if not re.fullmatch(rf"[0-9]{{1,{SEQUENCE_DIGITS_MAX}}}", number):
            raise RefusedError(
                f"{option} takes a sequence number of 1 to {SEQUENCE_DIGITS_MAX} digits after {_PREFIX}, not {number!r}"
            )
        return Bound(option, text, sequence_number=number.lstrip("0") or "0")
    try:
        return Bound(option, text, ms=parse_time_ms(given))
    except ValueError as error:
        raise RefusedError(f"{option} takes a time or a sequence number: {error}") from None


def select(stream: Stream, since: Bound | None, until: Bound | None, shard_ids: Sequence[str] = ()) -> Selection:
    """Find what lies between two bounds as the log is now; None: from its beginning, up to its end. Reads the disk.

    `shard_ids`: only these shards; empty: all.

    Raises:
        RefusedError: a shard or a sequence number is not there, or nothing can lie between the bounds.
        LogError: a shard is damaged there, or cannot be read.
    """
    if since and until and since.ms is not None and until.ms is not None and since.ms >= until.ms:
        raise RefusedError(
            f"{since.option} {since.text} is not before {until.option} {until.text}: nothing lies between them"
        )
    shards = _shards(stream, shard_ids)
    if len(shards) > 1:
        shards = _of_numbers(stream, shards, since, until)
    starts, ends = {}, {}
    for shard in shards:
        first, end = _committed(shard)
        starts[shard.id] = min(end, max(first, _start(shard, since, first)))
        ends[shard.id] = max(starts[shard.id], min(end, _end(shard, until, end)))
    return Selection(stream, starts, ends)


def _shards(stream: Stream, ids: Sequence[str]) -> list[Shard]:
    if not ids:
        return list(stream.shards)
    for name in ids:
        if stream.shard(name) is None:
            raise RefusedError(
                f"stream {stream.name!r} has no shard {name!r}; streamfn inspect {stream.name} lists them"
            )
    return [shard for shard in stream.shards if shard.id in ids]


def _of_numbers(stream: Stream, shards: list[Shard], since: Bound | None, until: Bound | None) -> list[Shard]:
    """Return the one shard that the bounds' sequence numbers are of; all shards if they are none."""
    found: list[tuple[Bound, Shard]] = []
    for bound in (since, until):
        number = None if bound is None else bound.sequence_number
        if bound is None or number is None:
            continue
        shard = next((one for one in shards if offset_from(one, number)[1]), None)
        if shard is None:
            raise RefusedError(
                f"{bound.option} {number}: no record of stream {stream.name!r} has that sequence number; "
                "where a single shard is chosen the next one after it counts"
            )
        found.append((bound, shard))
    if len(found) > 1 and found[0][1] is not found[1][1]:
        (begin, first), (end, last) = found
        raise RefusedError(f"{begin.option} is a sequence number of {first.id}, and {end.option} one of {last.id}")
    return [found[0][1]] if found else shards


def _committed(shard: Shard) -> tuple[int, int]:
    """Where the shard's records begin, and end."""
    first = horizon(shard)
    with ShardReader.open(shard, first) as reader:
        return first, reader.committed().end_offset


def _start(shard: Shard, bound: Bound | None, first: int) -> int:
    if bound is None:
        return first
    if bound.sequence_number is not None:
        return offset_from(shard, bound.sequence_number)[0]
    assert bound.ms is not None
    return offset_at_time(shard, bound.ms)


def _end(shard: Shard, bound: Bound | None, end: int) -> int:
    if bound is None:
        return end
    if bound.sequence_number is not None:
        offset, is_there = offset_from(shard, bound.sequence_number)
        return offset + 1 if is_there else offset
    assert bound.ms is not None
    return offset_at_time(shard, bound.ms)


def first_left(selection: Selection, offsets: Mapping[str, int]) -> str:
    """Return the bound that goes on with the first record at or behind these offsets. Reads the disk.

    A sequence number where one shard is replayed; else a time, with which some records come again. Empty where nothing
    is left, or nobody knows.
    """
    left = {}
    for shard in selection.shards:
        offset = max(offsets.get(shard.id, 0), selection.starts[shard.id])
        if offset < selection.ends[shard.id]:
            left[shard] = offset
    try:
        if len(selection.starts) == 1:
            return "".join(_shown(sequence_number_at(shard, offset)) for shard, offset in left.items())
        times = [at for shard, offset in left.items() if (at := arrival_ms(shard, offset)) is not None]
    except LogError:
        return ""
    return format_time(min(times)) if times and len(times) == len(left) else ""


def _shown(number: str | None) -> str:
    """A sequence number as `parse_bound` takes it."""
    if number is None:
        return ""
    return number if len(number) >= SEQUENCE_DIGITS_TOLD else f"{_PREFIX}{number}"


def with_keys(patterns: Sequence[str], keys: Sequence[str], stream: Stream) -> tuple[str, ...]:
    """Return filter patterns, valid ones, that want one of these partition keys, beside what they want already.

    Raises:
        RefusedError: one says already which partition keys it wants; or the stream has none.
    """
    if stream.kind == DYNAMODB:
        raise RefusedError(
            f"{stream.name!r} has the changes of a table, which have no partition key: a filter on dynamodb.Keys, "
            '{"dynamodb": {"Keys": ...}}, selects items'
        )
    wanted = []
    for pattern in patterns or ("{}",):
        document = json.loads(pattern)
        if "partitionKey" in document:
            raise RefusedError(f"the filter {pattern} says which partition keys it wants: say that in one place")
        wanted.append(json.dumps({"partitionKey": list(keys), **document}, ensure_ascii=False))
    return tuple(wanted)
