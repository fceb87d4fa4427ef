"""The parts of a message: every wanted row is in one of them, with its size and its time."""

from array import array
from random import Random

import pytest

from streamfn.clock import SystemClock
from streamfn.events.kinesis import KinesisSource
from streamfn.events.rows import lanes
from streamfn.events.size import fixed_bytes, json_prefix
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.reader import ShardReader
from streamfn.log.shard.writer import ShardWriter
from streamfn.mapping.sorting import parts_of
from streamfn.types import NewRecord

ROWS, BEFORE = 50, 7


@pytest.fixture
def message(tmp_path):
    """A message of 50 records that begins at offset 7."""
    shard = DataDir.open(tmp_path / "d", create=True).create_stream("s", 1).shards[0]
    with ShardWriter.open(shard, clock=SystemClock()) as writer:
        writer.append([NewRecord(b"x", "k")] * BEFORE)
        writer.append(
            [NewRecord(b"y" * number, f"key-{number % 9}", arrival_ms=1000 + number) for number in range(ROWS)]
        )
        writer.commit()
    with ShardReader.open(shard, 0) as reader:
        yield reader.poll(1 << 20)[1]


FIXED = fixed_bytes(KinesisSource("arn", "us-east-1", "shardId-000000000000", "role"))


def sizes(message):
    return json_prefix(message.segment.address, message.cdata, FIXED)


def rows_of(part, message):
    """The row numbers of a part."""
    count = len(part.prefix_bytes) - 1
    if part.rows is None:
        first = part.first_offset - message.first_offset
        return list(range(first, first + count))
    assert part.first_offset == message.first_offset
    assert len(part.rows) == count
    return list(part.rows)


@pytest.mark.parametrize("factor", [1, 3, 10])
def test_each_wanted_row_is_in_the_part_of_its_lane_with_its_size_and_time(message, factor):
    draw, prefix = Random(factor), sizes(message)

    def measure(message, rows):
        return json_prefix(message.segment.address, message.cdata, FIXED, rows)

    of_rows = lanes(message.segment.address, message.cdata, factor)
    for _ in range(300):
        start = draw.choice([0, BEFORE, draw.randrange(BEFORE + ROWS + 3)])
        stop = draw.choice([None, draw.randrange(start, BEFORE + ROWS + 5)])
        chosen = draw.choice([None, sorted(draw.sample(range(ROWS), draw.randint(0, ROWS)))])
        selected = None if chosen is None else memoryview(array("I", chosen))
        known = draw.choice([prefix, measure])
        parts = parts_of(message, known, selected, factor=factor, dated=True, start=start, stop=stop)
        end = BEFORE + ROWS if stop is None else stop
        wanted = [row for row in (range(ROWS) if chosen is None else chosen) if start <= BEFORE + row < end]
        assert sorted(row for part in parts for row in rows_of(part, message)) == wanted
        assert len({part.lane for part in parts}) == len(parts)
        for part in parts:
            rows = rows_of(part, message)
            assert {of_rows[row] for row in rows} <= {part.lane}
            assert list(part.arrivals) == [1000 + row for row in rows]
            weights = [part.prefix_bytes[place + 1] - part.prefix_bytes[place] for place in range(len(rows))]
            assert weights == [prefix[row + 1] - prefix[row] for row in rows]


def test_times_are_not_looked_up_where_nobody_needs_them(message):
    (part,) = parts_of(message, sizes(message), None, factor=1, dated=False, start=0, stop=None)
    assert part.arrivals is None


def test_a_message_of_one_key_is_one_part_without_row_numbers(tmp_path):
    shard = DataDir.open(tmp_path / "d", create=True).create_stream("s", 1).shards[0]
    with ShardWriter.open(shard, clock=SystemClock()) as writer:
        writer.append([NewRecord(b"x", "k")] * 5)
        writer.commit()
    with ShardReader.open(shard, 0) as reader:
        (message,) = reader.poll(1 << 20)
        (part,) = parts_of(message, sizes(message), None, factor=10, dated=False, start=0, stop=None)
    assert part.rows is None
    assert (part.first_offset, len(part.prefix_bytes)) == (0, 6)
