"""How long an event's JSON is, exactly, without writing it: Lambda's 6 MB rule speaks of that length.

JSON here means what orjson writes: no spaces, UTF-8, only what must be escaped is.  Such an event is

    {"Records":[  record ,  record ,  record ]  }

and each record is counted with the comma or bracket behind it, so that the events of all runs of rows come
from one array of running sums: ``EVENT_FRAME_BYTES + prefix[j] - prefix[i]`` for rows i..j, i < j.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import orjson

from streamfn._native import ffi, lib
from streamfn.events.dynamodb import DynamoDBSource, dynamodb_record
from streamfn.events.kinesis import KinesisSource, kinesis_record
from streamfn.types import Change, Record

EVENT_FRAME_BYTES = len('{"Records":[') + len("}")

_BLANK = Record(offset=0, sequence_number="", partition_key="", arrival_ms=0, data=b"")
_BLANK_CHANGE = Change(0, "", "", "", "", 0, b"{}", None, None, 0, "", None)
_BLANK_TIME_BYTES = len("0.0")
_BLANK_KEYS_BYTES = len("{}")
_BLANK_SIZE_BYTES = len("0")
_SEPARATOR_BYTES = len(",")
_DOCUMENTS = 4


def fixed_bytes(source: KinesisSource | DynamoDBSource) -> int:
    """Return the bytes that every record of `source` takes for what is not in its columns."""
    if isinstance(source, KinesisSource):
        blank = len(orjson.dumps(kinesis_record(source, _BLANK))) - _BLANK_TIME_BYTES
    else:
        blank = len(orjson.dumps(dynamodb_record(source, _BLANK_CHANGE)))
        blank -= _BLANK_TIME_BYTES + _BLANK_KEYS_BYTES + _BLANK_SIZE_BYTES
    return blank + _SEPARATOR_BYTES


def json_prefix(base: int, message: Any, fixed: int, rows: memoryview | None = None) -> memoryview:
    """Return the running sums of the records' JSON bytes, shape (rows + 1,), format 'Q', the first of them 0.

    Args:
        base: the address at which the message's segment is mapped.
        message: cdata `sf_message *`, as the scanner verified it: nothing is checked here.
        fixed: `fixed_bytes` of the message's shard.
        rows: the numbers of the rows that count, format 'I'; None: all of them.

    O(rows); of a Kinesis log O(bytes) of the partition keys, the data is not touched; of a DynamoDB log O(bytes) of
    the rows that count.
    """
    count = message.rows if rows is None else len(rows)
    numbers = ffi.NULL if rows is None else ffi.from_buffer("uint32_t[]", rows)
    sums = bytearray(8 * (count + 1))
    prefix = ffi.from_buffer("uint64_t[]", sums)
    mapped = ffi.cast("uint8_t *", base)
    if message.layout != lib.SF_DYNAMODB:
        lib.sf_kinesis_json_prefix(mapped, message, fixed, numbers, count, prefix)
    elif lib.sf_dynamodb_json_prefix(mapped, message, fixed, numbers, count, prefix):
        _add_odd_documents(mapped, message, range(count) if rows is None else rows, prefix)
    return memoryview(sums).cast("Q")


def _add_odd_documents(base: Any, message: Any, rows: Sequence[int], prefix: Any) -> None:
    """Add what walking their text did not tell: orjson reads and writes those documents.

    No attribute value is odd, so this is for what somebody made by hand.
    """
    place = ffi.new("uint64_t[2]")

    def missing(row: int) -> int:
        found = 0
        for document in range(_DOCUMENTS):
            if not lib.sf_dynamodb_document(base, message, row, document, place):
                continue
            if lib.sf_json_length(base + place[0], place[1]) < 0:
                found += len(orjson.dumps(orjson.loads(bytes(ffi.buffer(base + place[0], place[1])))))
        return found

    for place_of_row, more in enumerate(accumulate(map(missing, rows)), 1):
        prefix[place_of_row] += more
