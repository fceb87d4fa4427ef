"""Rows that metadata decide and rows that are scanned, together: what the pure filters select, without a process."""

import pytest
from filter_rig import DYNAMODB, KINESIS, expected, selected, some_changes, some_records, stream_of


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
