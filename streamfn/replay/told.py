"""On-failure records that lie in a destination, and what they speak of in the log: where the state store knows nothing.

That is so of what a mapping discarded that was deleted since, of records that came with a stream from another data
directory, and of AWS's own, which lie in a bucket or came out of a queue. A record names its shard, the sequence
numbers of its batch's first and last record, and how many there were; in a bucket it has the whole event. So the batch
is, of what lies between the two numbers,

    all              if those are as many as there were
    the event's      where there is an event
    the first one's  lane, as far as the mapping's filters let it through, if those are as many as there were

and anything else cannot be told, and is left alone. Records that the log does not have any more are counted as gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from streamfn.core.filter.expression import compile_filters, fields_of
from streamfn.core.ranges import Ranges
from streamfn.events.failure_record import BATCH_INFO
from streamfn.events.rows import lanes
from streamfn.functions.configuration import function_name_of
from streamfn.functions.naming import is_stored_name
from streamfn.limits import ACCOUNT, FILTERS_MAX
from streamfn.log.catalog.description import read as read_description
from streamfn.log.segment.rows import rows
from streamfn.log.shard import gaps
from streamfn.log.shard.numbers import offset_from
from streamfn.log.shard.reader import ShardReader, poll_or_skip
from streamfn.mapping.delivery import destination_of
from streamfn.mapping.filtering import constants, row_fields
from streamfn.state.discards import Discard
from streamfn.types import Failure

if TYPE_CHECKING:
    from streamfn.log.catalog.datadir import DataDir
    from streamfn.log.catalog.stream import Shard, Stream
    from streamfn.log.segment.rows import Row
    from streamfn.state.store import Store, StoredMapping

Identity = tuple[str, str, str, str]
"""What tells on-failure records apart: shard, request id, first and last sequence number."""


class Told(NamedTuple):
    """What a destination tells of a mapping's discards.

    `discards` are those that the store does not know. `unresolved` names records whose batch cannot be told, `others`
    counts those of other streams and functions, and `no_records` what is no on-failure record at all.
    """

    discards: tuple[Discard, ...] = ()
    unresolved: tuple[str, ...] = ()
    others: int = 0
    no_records: int = 0


def known_of(store: Store, stream_id: str) -> set[Identity]:
    """Which on-failure records of a stream the store knows, of whatever mapping."""
    found = set()
    for mapping in store.mappings():
        if mapping.stream_id == stream_id:
            for one in store.discards(mapping.uuid):
                failure = one.discard.failure
                if failure is not None:
                    numbers = (failure.first_sequence_number, failure.last_sequence_number)
                    found.add((one.discard.shard_id, failure.request_id, *numbers))
    return found


def read_told(data: DataDir, stream: Stream, mapping: StoredMapping, destination: str, known: set[Identity]) -> Told:
    """Read what lies in a destination, named by a resolved text. Reads the disk, or a bucket; changes nothing.

    `known` are the records that need not be looked at again.

    Raises:
        RefusedError: there is no such destination.
        FailedError: it cannot be read, or the log is damaged where it is spoken of.
    """
    stream = read_description(stream.directory, stream.disk)
    batches = _Batches(stream, mapping)
    name = mapping.handler if is_stored_name(mapping.handler) else function_name_of(mapping.handler)
    discards: list[Discard] = []
    unresolved: list[str] = []
    known, others, no_records = set(known), 0, 0
    for where, content in destination_of(data, destination).lying():
        told = _parsed(content, stream.kind)
        if told is None:
            no_records += 1
        elif told.stream_arn != stream.arn or _is_of_another(told.failure.function_arn, name):
            others += 1
        elif told.identity not in known:
            known.add(told.identity)
            offsets = batches.offsets_of(told)
            if offsets is None:
                unresolved.append(where)
            else:
                discards.append(_discard(told, offsets, destination))
    return Told(tuple(discards), tuple(unresolved), others, no_records)


class _Telling(NamedTuple):
    """An on-failure record: `numbers` are its batch's sequence numbers, None where it has no event."""

    condition: str
    shard_id: str
    stream_arn: str
    failure: Failure
    numbers: tuple[str, ...] | None

    @property
    def identity(self) -> Identity:
        return (
            self.shard_id,
            self.failure.request_id,
            self.failure.first_sequence_number,
            self.failure.last_sequence_number,
        )


def _parsed(content: bytes, kind: str) -> _Telling | None:
    """The record in some bytes; None if there is none of a stream of that kind."""
    try:
        record = orjson.loads(content)
        request, info = record["requestContext"], record[BATCH_INFO[kind]]
        failure = Failure(
            int(request["approximateInvokeCount"]),
            str(request["requestId"]),
            str(request["functionArn"]),
            (record.get("responseContext") or {}).get("functionError"),
            int(info["batchSize"]),
            str(info["startSequenceNumber"]),
            str(info["endSequenceNumber"]),
            _ms(info["approximateArrivalOfFirstRecord"]),
            _ms(info["approximateArrivalOfLastRecord"]),
            _ms(record["timestamp"]),
        )
        numbers = None
        if record.get("payload") is not None:
            numbers = tuple(_number(each) for each in record["payload"]["Records"])
        return _Telling(str(request["condition"]), str(info["shardId"]), str(info["streamArn"]), failure, numbers)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000


def _number(record: Mapping[str, Any]) -> str:
    part = record["kinesis"]["sequenceNumber"] if "kinesis" in record else record["dynamodb"]["SequenceNumber"]
    return str(part)


def _is_of_another(arn: str, name: str) -> bool:
    """Whether a function of that ARN is another one of ours; AWS's are called as they like."""
    parts = arn.split(":")
    return len(parts) > 6 and parts[4] == ACCOUNT and parts[6] != name


def _discard(told: _Telling, offsets: Sequence[int], destination: str) -> Discard:
    first, end = (offsets[0], offsets[-1] + 1) if offsets else (0, 0)
    listed = None if end - first == len(offsets) else tuple(offsets)
    failure = told.failure._replace(offsets=listed, destination=destination)
    return Discard(told.shard_id, first, end, told.condition, f"as {destination} has it", failure)


class _Batches:
    """Which records a batch had, by what is told of it."""

    def __init__(self, stream: Stream, mapping: StoredMapping) -> None:
        options: Mapping[str, Any] = mapping.options
        given = (options.get("FilterCriteria") or {}).get("Filters") or []
        alike = constants(stream.kind, stream.arn, stream.region)
        self._filters = compile_filters([one["Pattern"] for one in given], stream.kind, alike, FILTERS_MAX)
        self._fields = fields_of(self._filters.expression)
        self._factor = int(options.get("ParallelizationFactor") or 1)
        self._stream = stream

    def offsets_of(self, told: _Telling) -> Sequence[int] | None:
        """The offsets of the batch's records that are still there; None if they cannot be told."""
        shard = self._stream.shard(told.shard_id)
        if shard is None:
            return None
        failure = told.failure
        first, first_is_there = offset_from(shard, failure.first_sequence_number)
        last, last_is_there = offset_from(shard, failure.last_sequence_number)
        end = last + 1 if last_is_there else last
        missing = Ranges((gap.first_offset, gap.end_offset) for gap in gaps.read(shard).gaps)
        there = Ranges([(first, end)]).without(missing)
        if len(there) == failure.records and first_is_there and last_is_there:
            return [offset for start, stop in there for offset in range(start, stop)]
        if not there:
            return ()
        if told.numbers is not None:
            numbers = set(told.numbers)
            return [row.offset for row, _ in _rows(shard, first, end, 1) if row.sequence_number in numbers]
        if self._factor > 1 and not first_is_there:
            return None  # whose lane it was is not known any more
        chosen = list(self._of_one_lane(shard, first, end))
        # Fewer than there were is what retention has left, if it took the first ones.
        is_whole = len(chosen) == failure.records and first_is_there
        return chosen if is_whole or (not first_is_there and len(chosen) < failure.records) else None

    def _of_one_lane(self, shard: Shard, first: int, end: int) -> Iterator[int]:
        """The records from `first` on that are in its lane, and that the filters let through."""
        wanted = None
        for row, lane in _rows(shard, first, end, self._factor):
            wanted = lane if wanted is None else wanted
            if lane == wanted and self._filters.matches(row_fields(row, self._fields)):
                yield row.offset


def _rows(shard: Shard, first: int, end: int, factor: int) -> Iterator[tuple[Row, int]]:
    """The records between two offsets, each with its lane of `factor`."""
    with ShardReader.open(shard, first) as reader:
        while reader.position < end:
            for message in poll_or_skip(reader, end):
                low, high = max(0, first - message.first_offset), min(message.rows, end - message.first_offset)
                of = lanes(message.segment.address, message.cdata, factor)
                for row in rows(message, low, high - low):
                    yield row, of[row.offset - message.first_offset]
