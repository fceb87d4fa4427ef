"""Rows that metadata decide and rows that are scanned, together: what the pure filters select, without a process."""

from array import array
from heapq import merge

import pytest
from filter_rig import DYNAMODB, KINESIS, expected, parsed_filters, some_changes, some_records, stream_of

from streamfn._native import ffi
from streamfn.log.shard.reader import ShardReader
from streamfn.mapping.metadata import decide
from streamfn.mapping.scanner import Scan, State


def selected(stream, patterns):
    """The offsets that a selector would find, with the scan done here."""
    filters = parsed_filters(stream, patterns)
    scan, found = Scan(State(stream.kind, filters.scan)), []
    with ShardReader.open(stream.shards[0], 0) as reader:
        while messages := reader.poll(1 << 16):
            for message, certain, open_rows in zip(messages, *decide(filters, messages), strict=True):
                content = memoryview(ffi.buffer(message.segment.base, message.segment.size))
                everything = range(message.rows)
                wanted = everything if open_rows is None else open_rows.tolist()
                passed = (
                    scan.selected(message.segment.base, content, message.cdata.column, wanted) if wanted else array("I")
                )
                content.release()
                numbers = everything if certain is None else merge(certain, passed)
                found += [message.first_offset + number for number in numbers]
    return found


@pytest.mark.parametrize("chunk", [1, 37, 600])
@pytest.mark.parametrize("patterns", KINESIS)
def test_selected_records_are_those_of_the_pure_filters(tmp_path, patterns, chunk):
    stream = stream_of(tmp_path, some_records(200 if chunk == 1 else 600), chunk=chunk, segment_bytes=1 << 21)
    assert selected(stream, patterns) == expected(stream, patterns)


@pytest.mark.parametrize("chunk", [1, 37, 600])
@pytest.mark.parametrize("patterns", DYNAMODB)
def test_selected_changes_are_those_of_the_pure_filters(tmp_path, patterns, chunk):
    changes = some_changes(200 if chunk == 1 else 600)
    stream = stream_of(tmp_path, changes, kind="dynamodb", chunk=chunk, segment_bytes=1 << 21)
    assert selected(stream, patterns) == expected(stream, patterns)
