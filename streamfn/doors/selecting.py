"""Which records of a stream an export takes: a range of times or sequence numbers, and keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from streamfn.errors import RefusedError
from streamfn.formats.log_columns import CREATED, TIME
from streamfn.formats.times import parse_time_ms
from streamfn.limits import SEQUENCE_DIGITS_MAX, SEQUENCE_DIGITS_TOLD
from streamfn.log.catalog.stream import DYNAMODB, Stream

Mask: TypeAlias = Callable[[pa.RecordBatch], pa.Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What was asked for: `start` included, `end` not; texts as people write them."""

    shard_ids: tuple[str, ...] = ()
    start: str | None = None
    end: str | None = None
    partition_keys: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether all of a stream is meant."""
        return self == Selection()


class Filter:
    """A selection that was checked against a stream.

    `shard_ids` are None for all.  `from_ms` is None or a time (since 1970, UTC) before which nothing is meant.
    """

    def __init__(self, stream: Stream, selection: Selection) -> None:
        """Check it.

        Raises:
            RefusedError: a shard is not there, a bound is neither time nor sequence number, or the stream's records
                have no such keys.
        """
        for shard_id in selection.shard_ids:
            if stream.shard(shard_id) is None:
                known = ", ".join(shard.id for shard in stream.shards)
                raise RefusedError(f"stream {stream.name!r} has no shard {shard_id!r}: it has {known}")
        self.shard_ids = selection.shard_ids or None
        self._time = CREATED if stream.kind == DYNAMODB else TIME
        self.from_ms: int | None = None
        self._masks: list[Mask] = []
        if selection.start is not None:
            self._masks.append(self._bound(selection.start, "--from", from_here=True))
        if selection.end is not None:
            self._masks.append(self._bound(selection.end, "--until", from_here=False))
        if selection.partition_keys:
            if stream.kind == DYNAMODB:
                raise RefusedError("DynamoDB changes have no partition key: --key NAME=VALUE takes those of an item")
            wanted = pa.array(selection.partition_keys, pa.string())
            self._masks.append(lambda batch: pc.is_in(batch.column("partition_key"), value_set=wanted))
        if selection.keys:
            if stream.kind != DYNAMODB:
                raise RefusedError("--key is of DynamoDB changes: --partition-key KEY takes those of a Kinesis record")
            self._masks.append(_item_mask(selection.keys))

    def selected(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the records of a batch that are meant; the batch itself, not copied, where all are."""
        mask: pa.Array | None = None
        for each in self._masks:
            mask = each(batch) if mask is None else pc.and_(mask, each(batch))
        if mask is None or pc.all(mask).as_py():
            return batch
        return batch.filter(mask)

    def _bound(self, text: str, option: str, *, from_here: bool) -> Mask:
        """Return the mask of what lies at or behind a bound, or before it."""
        if text.isascii() and text.isdigit() and SEQUENCE_DIGITS_TOLD <= len(text) <= SEQUENCE_DIGITS_MAX:
            number = text.lstrip("0") or "0"
            behind: Mask = lambda batch: _at_or_behind(batch.column("sequence_number"), number)  # noqa: E731
        else:
            try:
                ms = parse_time_ms(text)
            except ValueError as error:
                raise RefusedError(f"{option} takes a time or a sequence number: {error}") from None
            time = self._time
            if from_here:
                self.from_ms = ms
            behind = lambda batch: pc.greater_equal(batch.column(time).view(pa.int64()), ms)  # noqa: E731
        return behind if from_here else lambda batch: pc.invert(behind(batch))


def _at_or_behind(numbers: pa.Array, bound: str) -> pa.Array:
    digits = pc.binary_length(numbers)
    same = pc.and_(pc.equal(digits, len(bound)), pc.greater_equal(numbers, bound))
    return pc.or_(pc.greater(digits, len(bound)), same)


def _item_mask(keys: Sequence[str]) -> Mask:
    """Return the mask of changes whose keys have one of the values given for each attribute that is named."""
    wanted: dict[str, list[str]] = {}
    for key in keys:
        name, equals, value = key.partition("=")
        if not name or not equals:
            raise RefusedError(f"--key takes NAME=VALUE, not {key!r}")
        wanted.setdefault(name, []).append(value)

    def matches(text: str) -> bool:
        item = orjson.loads(text)
        return all(name in item and _has(item[name], values) for name, values in wanted.items())

    return lambda batch: pa.array([matches(text) for text in batch.column("keys").to_pylist()], pa.bool_())


def _has(attribute: Mapping[str, Any], values: Sequence[str]) -> bool:
    ((kind, content),) = attribute.items()
    if content in values:
        return True
    if kind != "N":
        return False
    return any(_equal_numbers(content, value) for value in values)


def _equal_numbers(one: str, other: str) -> bool:
    try:
        return Decimal(one) == Decimal(other)
    except InvalidOperation:
        return False
