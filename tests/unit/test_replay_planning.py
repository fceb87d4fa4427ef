"""When a replay's records are due: silences that are cut short, and which records a limit leaves."""

import random
from array import array
from types import SimpleNamespace

import pytest

from streamfn.cli.replay import parse_speed
from streamfn.core.schedule import silences_of
from streamfn.errors import RefusedError
from streamfn.replay.planning import Pace, first_records
from streamfn.replay.selection import with_keys
from streamfn.replay.survey import Survey
from streamfn.types import Part


def surveyed(shards, longest_ms):
    """A survey of these arrivals by shard, told in pieces."""
    survey, chance = Survey(longest_ms), random.Random(1)
    for name, times in shards.items():
        while times:
            count = chance.randint(1, 9)
            part = Part(0, 0, None, array("Q", range(10, 10 + len(times[:count]) + 1)), array("q", times[:count]))
            survey.visit(SimpleNamespace(id=name), [part])
            times = times[count:]
    return survey


def test_a_survey_counts_and_knows_the_span():
    survey = surveyed({"a": [5, 9, 7], "b": [6, 20]}, None)
    assert (survey.records, survey.event_bytes, survey.first_ms, survey.last_ms) == (5, 5, 5, 20)
    assert surveyed({}, None).first_ms is None


def test_silences_are_those_of_all_shards_together():
    survey = surveyed({"a": [0, 100, 5000], "b": [2000, 2050]}, 1000)
    assert survey.silences() == [(1100, 900), (3050, 1950)]


def test_silences_are_found_in_whatever_order_records_arrived():
    chance = random.Random(3)
    for _ in range(300):
        shards = {}
        for name in "abc"[: chance.randint(1, 3)]:
            times = sorted(chance.randint(0, 10_000) for _ in range(chance.randint(1, 30)))
            for _ in range(chance.randint(0, 5)):
                one, other = chance.randrange(len(times)), chance.randrange(len(times))
                times[one], times[other] = times[other], times[one]
            shards[name] = times
        longest = chance.choice([1, 50, 700])
        together = sorted(at for times in shards.values() for at in times)
        assert surveyed(shards, longest).silences() == silences_of(together, longest)


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
