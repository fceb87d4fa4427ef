"""A replay in virtual time: every record comes exactly when it is due, and counts from then."""

import random

import pytest

from streamfn.errors import RefusedError
from streamfn.testing import record, run_mapping

NOON = 1_607_515_200_000  # 2020-12-09T12:00:00Z, years before the virtual clock begins


def at(*seconds):
    return [record(f"{each}", arrival_ms=NOON + round(1000 * each)) for each in seconds]


@pytest.mark.parametrize("speed", [1, 10, 100, 0.5])
def test_records_are_handed_over_exactly_when_they_are_due(speed):
    chance = random.Random(11)
    shards = {f"shardId-{shard:012d}": sorted(chance.randint(0, 90_000) for _ in range(60)) for shard in range(3)}
    given = {shard: at(*(ms / 1000 for ms in times)) for shard, times in shards.items()}
    result = run_mapping(lambda event, context: None, given, batch_size=1, speed=speed)
    first = min(min(times) for times in shards.values())
    for shard, times in shards.items():
        started = [batch.started for batch in result.batches if batch.shard_id == shard]
        assert started == [pytest.approx((ms - first) / 1000 / speed, abs=1e-9) for ms in times]


def test_a_time_that_is_far_off_holds_nobody_up():
    result = run_mapping(lambda event, context: None, at(0, 1, 9_000, 2, 3), batch_size=1, speed=1)
    assert [batch.started for batch in result.batches] == [0, 1, 2, 2, 3]


def test_without_a_speed_what_arrived_long_ago_is_there_at_once():
    result = run_mapping(lambda event, context: None, at(0, 50, 100), batch_size=1)
    assert [batch.started for batch in result.batches] == [0, 0, 0]


def test_a_record_that_was_captured_long_ago_is_not_too_old():
    given = at(0, 50, 100)
    options = {"batch_size": 1, "maximum_record_age_in_seconds": 60}
    assert len(run_mapping(lambda event, context: None, given, **options).discarded) == 3
    assert not run_mapping(lambda event, context: None, given, speed=1, **options).discarded


def test_windows_are_those_of_the_time_in_which_records_come():
    seen = []

    def handler(event, context):
        seen.append((len(event["Records"]), event["isFinalInvokeForWindow"]))
        return {"state": {}}

    given = at(*range(0, 100, 5))
    run_mapping(handler, given, tumbling_window_in_seconds=10, speed=10)
    assert (sum(count for count, _ in seen), sum(final for _, final in seen)) == (20, 1)
    seen.clear()
    run_mapping(handler, given, tumbling_window_in_seconds=10, speed=1)
    assert (sum(count for count, _ in seen), sum(final for _, final in seen)) == (20, 10)


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_a_speed_that_is_none_is_refused(speed):
    with pytest.raises(RefusedError, match=r"^option speed takes a number above 0, such as 10, not "):
        run_mapping(lambda event, context: None, at(0), speed=speed)
