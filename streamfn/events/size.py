"""How long an event's JSON is, exactly, without writing it: Lambda's 6 MB rule speaks of that length.

JSON here means what orjson writes: no spaces, UTF-8, only what must be escaped is.  Such an event is

    {"Records":[  record ,  record ,  record ]  }

and each record is counted with the comma or bracket behind it, so that the events of all runs of rows come
from one array of running sums: ``EVENT_FRAME_BYTES + prefix[j] - prefix[i]`` for rows i..j, i < j.
"""

from __future__ import annotations

from typing import Any

import orjson

from streamfn._native import ffi, lib
from streamfn.events.kinesis import KinesisSource, kinesis_record
from streamfn.types import Record

EVENT_FRAME_BYTES = len('{"Records":[') + len("}")

_BLANK = Record(offset=0, sequence_number="", partition_key="", arrival_ms=0, data=b"")
_BLANK_ARRIVAL_BYTES = len("0.0")
_SEPARATOR_BYTES = len(",")


def fixed_bytes(source: KinesisSource) -> int:
    """Return the bytes that every record of `source` takes for what is not in its columns."""
    record = orjson.dumps(kinesis_record(source, _BLANK))
    return len(record) - _BLANK_ARRIVAL_BYTES + _SEPARATOR_BYTES


def json_prefix(base: int, message: Any, fixed: int) -> memoryview:
    """Return the running sums of the records' JSON bytes, shape (rows + 1,), format 'Q', the first of them 0.

    Args:
        base: the address at which the message's segment is mapped.
        message: cdata `sf_message *`, as the scanner verified it: nothing is checked here.
        fixed: `fixed_bytes` of the message's shard.

    O(rows), and O(bytes) of the partition keys; the data is not touched.
    """
    sums = bytearray(8 * (message.rows + 1))
    prefix = ffi.from_buffer("uint64_t[]", sums)
    lib.sf_kinesis_json_prefix(ffi.cast("uint8_t *", base), message, fixed, prefix)
    return memoryview(sums).cast("Q")
