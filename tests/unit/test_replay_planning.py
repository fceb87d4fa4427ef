"""When a replay's records are due: silences that are cut short, and which records a limit leaves."""

import random
from array import array
from types import SimpleNamespace

import pytest

from streamfn.cli.replay import parse_speed
from streamfn.core.schedule import Recorded, silences_of
from streamfn.errors import RefusedError
from streamfn.replay.planning import Pace, first_records
from streamfn.replay.selection import with_keys
from streamfn.replay.survey import Arrivals, Survey
from streamfn.types import Part

MS = 1_000_000


def walked(visitor, shards):
    """The visitor, told of these arrivals by shard, in pieces."""
    chance = random.Random(1)
    for name, times in shards.items():
        offset = 0
        while offset < len(times):
            some = times[offset : offset + chance.randint(1, 9)]
            part = Part(0, offset, None, array("Q", range(10, 10 + len(some) + 1)), array("q", some))
            visitor.visit(SimpleNamespace(id=name), [part])
            offset += len(some)
    return visitor


def due(shards, longest_ms=None):
    """When each record is due, in milliseconds, by shard; and which silences are left out."""
    recorded = walked(Arrivals(filtered=False), shards).recorded(1.0, longest_ms)
    return {name: [at // MS for at in recorded.shard(name).due(0, times)] for name, times in shards.items()}


def test_a_survey_counts_and_knows_the_span():
    survey = walked(Survey(), {"a": [5, 9, 7], "b": [6, 20]})
    assert (survey.records, survey.event_bytes, survey.first_ms, survey.last_ms) == (5, 5, 5, 20)
    assert Survey().first_ms is None
    assert Arrivals(filtered=False).recorded(1.0, None) is None


def test_silences_are_those_of_all_shards_together():
    assert due({"a": [0, 100, 5000], "b": [2000, 2050]}, 1000) == {"a": [0, 100, 2150], "b": [1100, 1150]}


def test_records_are_due_by_all_arrivals_together_and_no_silence_is_longer_than_allowed():
    chance = random.Random(3)
    for _ in range(200):
        shards = {}
        for name in "abc"[: chance.randint(1, 3)]:
            shards[name] = sorted(chance.randint(0, 10_000) for _ in range(chance.randint(1, 30)))
        longest = chance.choice([1, 50, 700])
        together = sorted(at for times in shards.values() for at in times)
        expected = Recorded(together[0], 1.0, silences_of(together, longest))
        assert due(shards, longest) == {
            name: [at // MS for at in expected.shard(name).due(0, times)] for name, times in shards.items()
        }


def test_a_record_whose_time_is_far_ahead_holds_nobody_up():
    assert due({"a": [0, 9_000_000, 10, 20, 30], "b": [5, 25]}) == {"a": [0, 10, 10, 20, 30], "b": [5, 25]}


def test_what_a_filter_drops_neither_hurries_nor_holds_up_what_it_lets_pass():
    arrivals = Arrivals(filtered=True)
    wanted = Part(0, 0, memoryview(array("I", [1, 2, 5])), array("Q", [0, 1, 2, 3]), array("q", [100, 110, 150]))
    arrivals.visit(SimpleNamespace(id="a"), [wanted])
    shard = arrivals.recorded(1.0, None).shard("a")
    everything = shard.due(0, [0, 100, 110, 99_000, 1, 150])
    assert [everything[row] // MS for row in (1, 2, 5)] == [0, 10, 50]
    assert list(everything) == sorted(everything)


def test_a_gap_is_one_of_the_replays_own_time():
    assert Pace(10.0, 2.0).longest_ms == 20_000
    assert Pace(0.5, 2.0).longest_ms == 1000
    assert Pace(10.0).longest_ms is None
    assert Pace().longest_ms is None


def test_a_limit_takes_the_first_to_arrive_in_each_shards_own_order():
    assert first_records({"a": [1, 5, 9], "b": [2, 3, 4]}, 4) == {"a": 1, "b": 3}
    assert first_records({"a": [9, 1, 2], "b": [5, 6, 7]}, 3) == {"a": 0, "b": 3}
    assert first_records({"a": [1], "b": []}, 7) == {"a": 1, "b": 0}


@pytest.mark.parametrize(
    ("text", "speed"), [("max", None), ("MAX", None), ("1x", 1.0), ("10", 10.0), ("0.5x", 0.5), (".5X", 0.5)]
)
def test_a_speed(text, speed):
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["", "x", "0x", "-1x", "fast", "1e3x", "nan", "inf", "9" * 400])
def test_what_is_no_speed_is_named(text):
    with pytest.raises(RefusedError, match=r"^--speed takes max, or a number such as 1x, 10x or 0.5x, not "):
        parse_speed(text)


def test_partition_keys_are_wanted_beside_what_a_filter_wants():
    stream = SimpleNamespace(kind="kinesis", name="s")
    assert with_keys([], ["a", "b"], stream) == ('{"partitionKey": ["a", "b"]}',)
    assert with_keys(['{"data": {"n": [1]}}'], ["ü"], stream) == ('{"partitionKey": ["ü"], "data": {"n": [1]}}',)
    with pytest.raises(RefusedError, match=r"^the filter .* says which partition keys it wants"):
        with_keys(['{"partitionKey": ["a"]}'], ["b"], stream)
