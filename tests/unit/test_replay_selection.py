"""Which records a replay is of: times, sequence numbers, shards."""

import pytest

from streamfn.errors import RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.producer.producer import Producer
from streamfn.log.shard import gaps
from streamfn.log.shard.reader import ShardReader, records
from streamfn.replay.selection import Bound, first_left, parse_bound, select
from streamfn.types import NewRecord

FIRST, SECOND = (f"shardId-{number:012d}" for number in range(2))


@pytest.fixture
def stream(tmp_path):
    """Two shards; record n of each arrived at n seconds, and at n seconds and a half."""
    made = DataDir.open(tmp_path / "data", create=True).create_stream("s", 2)
    keys = {}
    for number in range(100):
        keys.setdefault(made.shard_for(f"{number}").id, f"{number}")
    with Producer(made) as producer:
        for number in range(10):
            producer.submit([NewRecord(b"x", keys[FIRST], number * 1000)]).result()
            producer.submit([NewRecord(b"x", keys[SECOND], number * 1000 + 500)]).result()
    return made


def numbers(stream, shard_id):
    with ShardReader.open(stream.shard(shard_id), 0) as reader:
        return [record.sequence_number for message in reader.poll(1 << 20) for record in records(message)]


def at(ms, option="--from"):
    return Bound(option, f"{ms}", ms=ms)


def number(text, option="--from"):
    return Bound(option, text, sequence_number=text)


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("2013-01-01", at(1_356_998_400_000)),
        ("1357034400", at(1_357_034_400_000)),
        ("20130101", at(1_356_998_400_000)),
        ("49" + "0" * 54, number("49" + "0" * 54)),
        ("0000000000000017", number("17")),
        ("seq:17", number("17")),
    ],
)
def test_a_long_number_is_a_sequence_number_and_anything_else_a_time(text, bound):
    assert parse_bound("--from", text) == bound._replace(text=text)


@pytest.mark.parametrize("text", ["yesterday", "seq:", "seq:1x", "seq:" + "1" * 130, "1" * 130, "-1"])
def test_what_is_neither_is_named(text):
    with pytest.raises(RefusedError, match=r"^--to takes a (time or a )?sequence number"):
        parse_bound("--to", text)


def test_everything_there_is_by_default(stream):
    found = select(stream, None, None)
    assert (found.starts, found.ends) == ({FIRST: 0, SECOND: 0}, {FIRST: 10, SECOND: 10})


def test_a_time_is_included_where_it_begins_and_not_where_it_ends(stream):
    found = select(stream, at(2000), at(7000))
    assert (found.starts, found.ends) == ({FIRST: 2, SECOND: 2}, {FIRST: 7, SECOND: 7})
    assert select(stream, at(2500), None).starts == {FIRST: 3, SECOND: 2}
    assert select(stream, at(9001), at(9500)).shards == []
    assert [shard.id for shard in select(stream, at(9001), None).shards] == [SECOND]


def test_a_sequence_number_is_included_on_both_ends_and_leaves_the_other_shards_out(stream):
    second = numbers(stream, SECOND)
    found = select(stream, number(second[3]), number(second[5]))
    assert (found.starts, found.ends) == ({SECOND: 3}, {SECOND: 6})
    found = select(stream, at(2000), number(second[5]))
    assert (found.starts, found.ends) == ({SECOND: 2}, {SECOND: 6})


def test_of_one_shard_a_number_that_is_not_there_means_the_next_one(stream):
    between = str(int(numbers(stream, FIRST)[9]) + 5)
    with pytest.raises(RefusedError, match=f"^--from {between}: no record of stream 's' has that sequence number"):
        select(stream, number(between), None)
    assert select(stream, number(between), None, [FIRST]).shards == []
    assert select(stream, None, number(between), [FIRST]).ends == {FIRST: 10}


def test_numbers_of_two_shards_are_refused(stream):
    with pytest.raises(RefusedError, match=f"^--from is a sequence number of {FIRST}, and --to one of {SECOND}"):
        select(stream, number(numbers(stream, FIRST)[0]), number(numbers(stream, SECOND)[0], "--to"))


def test_nothing_between_is_refused_and_an_unknown_shard_named(stream):
    with pytest.raises(RefusedError, match=r"^--from 7000 is not before --to 7000"):
        select(stream, at(7000), at(7000, "--to"))
    with pytest.raises(RefusedError, match=r"has no shard 'shardId-7'; streamfn inspect s lists them"):
        select(stream, None, None, ["shardId-7"])


def test_what_is_trimmed_is_not_in_it(stream):
    gaps.record_trim(stream.shard(FIRST), 4)
    assert select(stream, None, None).starts == {FIRST: 4, SECOND: 0}
    assert select(stream, at(2000), None).starts == {FIRST: 4, SECOND: 2}


def test_what_goes_on_with_what_is_left(stream):
    found = select(stream, at(2000), at(7000))
    assert first_left(found, {FIRST: 5, SECOND: 3}) == "1970-01-01T00:00:03.500Z"
    assert first_left(found, {FIRST: 7, SECOND: 6}) == "1970-01-01T00:00:06.500Z"
    assert first_left(found, {FIRST: 7, SECOND: 7}) == ""
    found = select(stream, at(2000), at(7000), [SECOND])
    assert first_left(found, {SECOND: 4}) == numbers(stream, SECOND)[4]
    assert first_left(found, {SECOND: 7}) == ""
