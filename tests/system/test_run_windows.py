"""Tumbling windows over the whole engine, with real processes."""

import json
import signal
import time

import pytest
from run_rig import error_line, keys_of, until

import streamfn
from streamfn.core.tumbling import CLOSE_DELAY_MS
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.producer.producer import Producer
from streamfn.log.upkeep.reshard import split_shard
from streamfn.state.store import Store
from streamfn.types import NewChange, NewRecord

COLLECT = "windowed.collect"
NAME = "windowed.collect@s"
SHARD = "shardId-000000000000"
WINDOW = ["--tumbling-window-in-seconds", "60"]
RETRIES = "--maximum-retry-attempts"
MINUTE = 60_000
NOON = 1_607_515_200_000  # 2020-12-09T12:00:00Z


def put(place, *records, name="s", shard=0):
    """Append (arrival in seconds after noon, content)."""
    stream = place.opened(name)
    key = keys_of(stream)[shard]
    with Producer(stream) as producer:
        producer.submit([NewRecord(text.encode(), key, NOON + round(at * 1000)) for at, text in records]).result()


def noted(place):
    path = place.notes / "noted"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def story(place):
    """Of every invocation: its window's start (minutes after noon), what it is, its contents, and the state it got."""
    return [
        (
            int(row["window"]["start"][14:16]),
            "final" if row["isFinalInvokeForWindow"] else "early" if row["isWindowTerminatedEarly"] else "batch",
            row["contents"],
            row["state"].get("seen", row["state"]),
        )
        for row in noted(place)
    ]


def windows(place, name=NAME):
    with Store.open(place.data / "state.db", create=False) as store:
        return store.windows(store.mapping(name).uuid)


@pytest.mark.conformance(
    "windows/no-records-in-calls",
    source="ours",
    rule="Final and early invocations have empty Records: a handler that aggregates and then "
    "finishes works, and so does one that only finishes.",
)
def test_an_event_has_lambdas_keys_in_lambdas_order(place):
    place.stream()
    put(place, (1, "a"))
    done = place.caught_up(COLLECT, *WINDOW)
    assert done.code == 0, done.err
    (first, last) = noted(place)
    keys = ["window", "state", "shardId", "eventSourceARN", "isFinalInvokeForWindow", "isWindowTerminatedEarly"]
    assert first["keys"] == ["Records", *keys]
    assert [first[key] for key in keys] == [
        {"start": "2020-12-09T12:00:00Z", "end": "2020-12-09T12:01:00Z"},
        {},
        SHARD,
        "arn:aws:kinesis:us-east-1:000000000000:stream/s",
        False,
        False,
    ]
    assert (last["keys"], last["isFinalInvokeForWindow"], last["contents"]) == (first["keys"], True, [])


def test_several_windows_of_one_read_each_have_their_batches_and_their_final_invocation(place):
    place.stream()
    put(place, (1, "a"), (2, "b"), (59.999, "c"), (60, "d"), (30, "late"), (200, "e"))
    done = place.caught_up(COLLECT, *WINDOW, "--batch-size", "2")
    assert done.code == 0, done.err
    assert story(place) == [
        (0, "batch", ["a", "b"], {}),
        (0, "batch", ["c"], ["a", "b"]),
        (0, "final", [], ["a", "b", "c"]),
        (1, "batch", ["d", "late"], {}),
        (1, "final", [], ["d", "late"]),
        (3, "batch", ["e"], {}),
        (3, "final", [], ["e"]),
    ]
    assert place.checkpoints(NAME) == {SHARD: 6}
    assert (done.summary["records"], done.summary["errors"]) == (6, 0)


@pytest.mark.conformance(
    "windows/dynamodb",
    source="documented",
    rule="DynamoDB streams have windows by the creation time of their changes.",
)
def test_a_dynamodb_stream_has_windows_by_the_time_of_its_changes(place):
    with streamfn.open_sync(place.data) as session:
        for number, at in enumerate((1, 61)):
            keys = b'{"id":{"S":"k%d"}}' % number
            session.put_change("t", NewChange("INSERT", keys, creation_ms=NOON + at * 1000))
    done = place.run("run", COLLECT, "--stream", "t", "--until-caught-up", *WINDOW)
    assert done.code == 0, done.err
    assert story(place) == [
        (0, "batch", ["k0"], {}),
        (0, "final", [], ["k0"]),
        (1, "batch", ["k1"], {}),
        (1, "final", [], ["k1"]),
    ]
    assert noted(place)[0]["eventSourceARN"].startswith("arn:aws:dynamodb:")


def test_a_run_that_follows_closes_a_window_when_it_is_over(place):
    place.stream(contents=["a"])
    with place.following(COLLECT, "--tumbling-window-in-seconds", "1") as process:
        until(lambda: len(noted(place)) == 2, "the final invocation")
        window = noted(place)[1]["window"]
        assert [row["isFinalInvokeForWindow"] for row in noted(place)] == [False, True]
        assert noted(place)[1]["state"] == {"seen": ["a"]}
        process.signal()
        process.wait()
    assert windows(place)[SHARD].state is None
    assert window == noted(place)[0]["window"]


def test_a_window_that_is_open_is_said_and_not_awaited(place):
    place.stream()
    put(place, (time.time() - NOON / 1000 + 3600, "a"))
    done = place.run("run", COLLECT, "--stream", "s", "--until-caught-up", "--tumbling-window-in-seconds", "900")
    assert done.code == 0
    assert [row["isFinalInvokeForWindow"] for row in noted(place)] == [False]
    assert f"open windows, which go on with the next run: {SHARD} until " in done.err
    assert windows(place)[SHARD].state == b'{"seen": ["a"]}'


def test_a_window_goes_on_in_the_next_run_with_the_state_that_was_committed(place):
    place.stream()
    put(place, (1, "a"), (2, "b"))
    done = place.caught_up(COLLECT, *WINDOW, "--batch-size", "1", "--limit", "1")
    assert done.code == 0, done.err
    assert windows(place)[SHARD] == (NOON, NOON + MINUTE, b'{"seen": ["a"]}')
    done = place.caught_up(COLLECT, *WINDOW, "--batch-size", "1")
    assert done.code == 0, done.err
    assert story(place) == [
        (0, "batch", ["a"], {}),
        (0, "batch", ["b"], ["a"]),
        (0, "final", [], ["a", "b"]),
    ]
    assert windows(place)[SHARD] == (NOON, NOON + MINUTE, None)
    put(place, (59, "late"))
    place.caught_up(COLLECT, *WINDOW)
    assert story(place)[-2:] == [(1, "batch", ["late"], {}), (1, "final", [], ["late"])]


def test_a_window_that_a_run_without_windows_finds_open_is_given_up_and_said(place):
    place.stream()
    put(place, (1, "a"), (2, "b"))
    place.caught_up(COLLECT, *WINDOW, "--batch-size", "1", "--limit", "1")
    done = place.caught_up("failing.poison", "--name", NAME)
    assert done.code == 0, done.err
    assert f"the state of windows is given up, TumblingWindowInSeconds is 0 now: {SHARD} until 2020" in done.err
    assert windows(place) == {}


def test_kill_9_in_the_middle_of_a_window_loses_and_doubles_nothing_in_its_state(place):
    place.stream()
    put(place, *((at, f"slow0.01 {at}".replace(" ", "0")) for at in range(40)))
    put(place, *((at, f"c{at}") for at in range(40, 60)), (70, "next"))
    arguments = [*WINDOW, "--batch-size", "1", "--until-caught-up"]
    for patience in (5, 12):
        before = len(noted(place))
        with place.following(COLLECT, *arguments) as process:
            until(lambda least=before + patience: len(noted(place)) >= least, "some invocations")
            process.popen.send_signal(signal.SIGKILL)
            process.popen.wait()
    done = place.caught_up(COLLECT, *arguments[:-1])
    assert done.code == 0, done.err
    everything = [row["contents"][0] for row in noted(place) if row["contents"]]
    (final, _) = [row for row in noted(place) if row["isFinalInvokeForWindow"]]
    expected = list(dict.fromkeys(everything))[:-1]
    assert len(expected) == 60
    assert final["state"]["seen"] == expected


def test_a_response_without_a_state_counts_as_failed(place):
    place.stream()
    put(place, (1, "stateless"), (2, "b"))
    done = place.caught_up(COLLECT, *WINDOW)
    assert done.code == 0, done.err
    assert story(place) == [
        (0, "batch", ["stateless", "b"], {}),
        (0, "batch", ["stateless", "b"], {}),
        (0, "final", [], ["stateless", "b"]),
    ]
    assert done.summary["errors"] == 1


def test_a_failing_final_invocation_is_retried_and_holds_the_shard(place):
    place.stream()
    put(place, (1, "a"), (61, "b"))
    done = place.caught_up(COLLECT, *WINDOW, env={"FAILING_FINALS": "2"})
    assert done.code == 0, done.err
    assert story(place) == [
        (0, "batch", ["a"], {}),
        *[(0, "final", [], ["a"])] * 3,
        (1, "batch", ["b"], {}),
        (1, "final", [], ["b"]),
    ]
    assert done.summary["errors"] == 2


def test_a_final_invocation_whose_retries_are_used_up_is_given_up_and_said(place):
    place.stream()
    put(place, (1, "a"), (61, "poison"), (62, "b"))
    done = place.caught_up(COLLECT, *WINDOW, RETRIES, "1", "--batch-size", "1", env={"FAILING_FINALS": "2"})
    assert done.code == 3
    assert (done.summary["windows_closed"], done.summary["windows_given_up"]) == (1, 1)
    assert story(place) == [
        (0, "batch", ["a"], {}),
        *[(0, "final", [], ["a"])] * 2,
        *[(1, "batch", ["poison"], {})] * 2,
        (1, "batch", ["b"], {}),
        (1, "final", [], ["b"]),
    ]
    assert f"{SHARD} gives up the final invocation of the window 2020-12-09T12:00:00Z, after 2 attempts: " in done.err
    with Store.open(place.data / "state.db", create=False) as store:
        rows = [row.discard for row in store.discards(store.mapping(NAME).uuid)]
    assert [(row.first_offset, row.end_offset, row.reason) for row in rows] == [
        (1, 1, "RetryAttemptsExhausted"),
        (1, 2, "RetryAttemptsExhausted"),
    ]


def test_a_state_over_a_megabyte_terminates_its_window_early(place):
    place.stream()
    put(place, (1, "big"), (2, "b"))
    done = place.caught_up(COLLECT, *WINDOW, "--batch-size", "1")
    assert done.code == 0, done.err
    first, early, second, final = noted(place)
    assert early["isWindowTerminatedEarly"]
    assert early["state"]["bytes"] > 1_048_576
    assert not early["isFinalInvokeForWindow"]
    assert (second["contents"], second["state"]) == (["b"], {})
    assert (final["state"], final["isFinalInvokeForWindow"]) == ({"seen": ["b"]}, True)
    assert first["window"] == early["window"] == final["window"]


def test_reported_records_go_again_and_the_state_of_those_before_them_is_kept(place):
    place.stream()
    put(place, (1, "a"), (2, "poison"), (3, "c"))
    report = ["--function-response-types", "ReportBatchItemFailures"]
    done = place.caught_up("windowed.reports", *WINDOW, *report)
    assert done.code == 0, done.err
    assert story(place) == [
        (0, "batch", ["a", "poison", "c"], {}),
        (0, "batch", ["poison", "c"], ["a"]),
        (0, "batch", ["poison", "c"], ["a"]),
        (0, "final", [], ["a", "poison", "c"]),
    ]


def test_a_worker_that_dies_in_a_window_takes_no_state_with_it(place):
    place.stream()
    put(place, (1, "a"), (61, "b"), (62, "c"))
    done = place.caught_up("windowed.dies", *WINDOW)
    assert done.code == 0, done.err
    assert story(place) == [
        (0, "batch", ["a"], {}),
        (0, "final", [], ["a"]),
        *[(1, "batch", ["b", "c"], {})] * 2,
        *[(1, "final", [], ["b", "c"])] * 2,
    ]
    assert done.summary["batches"] == 2


@pytest.mark.conformance(
    "windows/room-for-the-state",
    source="ours",
    rule="Every event keeps room for a state of 1 MB, so that whatever is left of a batch fits with the state it gets.",
)
def test_every_event_keeps_room_for_the_largest_state(place):
    place.stream()
    put(place, *((1, str(number) + "x" * 1_000_000) for number in range(4)))
    done = place.caught_up("windowed.counts", *WINDOW)
    assert done.code == 0, done.err
    assert [row["records"] for row in noted(place)] == [3, 1, 0]


@pytest.mark.conformance(
    "windows/children-begin-afresh",
    source="documented",
    rule="Child shards begin with a fresh state.",
)
def test_a_split_shard_closes_its_window_before_its_children_begin_afresh(place):
    place.stream()
    later_s = time.time() - NOON / 1000 + 3600  # no clock closes these windows
    put(place, (later_s, "parent"))
    place.caught_up(COLLECT, "--tumbling-window-in-seconds", "900")
    assert windows(place)[SHARD].state is not None
    split_shard(DataDir.open(place.data, create=False), "s", SHARD)
    put(place, (later_s, "left"), shard=0)
    put(place, (later_s, "right"), shard=1)
    done = place.caught_up(COLLECT, "--tumbling-window-in-seconds", "900")
    assert done.code == 0, done.err
    rows = noted(place)
    assert [(row["shardId"], row["isFinalInvokeForWindow"]) for row in rows[:2]] == [(SHARD, False), (SHARD, True)]
    assert rows[1]["state"] == {"seen": ["parent"]}
    assert {row["contents"][0]: row["state"] for row in rows[2:]} == {"left": {}, "right": {}}


def test_children_wait_for_the_last_final_invocation_of_their_parent(place):
    place.stream()
    put(place, (1, "parent"))
    place.caught_up(COLLECT, *WINDOW, "--limit", "1")
    assert [row["isFinalInvokeForWindow"] for row in noted(place)] == [False]
    split_shard(DataDir.open(place.data, create=False), "s", SHARD)
    put(place, (61, "child"))
    with place.following(COLLECT, *WINDOW, env={"FAILING_FINALS": "1000"}) as process:
        until(lambda: len(noted(place)) >= 3, "the final invocation to fail twice")
        process.popen.send_signal(signal.SIGKILL)
        process.popen.wait()
    assert all(row["contents"] != ["child"] for row in noted(place))
    done = place.caught_up(COLLECT, *WINDOW)
    assert done.code == 0, done.err
    assert [row["contents"] for row in noted(place)][-3:] == [[], ["child"], []]


def test_filters_select_what_windows_see(place):
    place.stream()
    put(place, (1, '{"n":1}'), (2, '{"n":2}'), (70, '{"n":2}'), (130, '{"n":1}'))
    pattern = json.dumps({"Filters": [{"Pattern": '{"data":{"n":[1]}}'}]})
    done = place.caught_up(COLLECT, *WINDOW, "--filter-criteria", pattern)
    assert done.code == 0, done.err
    assert [(start, kind, contents) for start, kind, contents, _ in story(place)] == [
        (0, "batch", ['{"n":1}']),
        (0, "final", []),
        (2, "batch", ['{"n":1}']),
        (2, "final", []),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tumbling-window-in-seconds", "901"], "Member must have value less than or equal to 900"),
        ([*WINDOW, "--parallelization-factor", "2"], "arallelization"),
    ],
)
def test_a_bad_window_is_refused_and_nothing_is_made(place, arguments, words):
    place.stream()
    done = place.caught_up(COLLECT, *arguments)
    assert done.code == 2
    assert words in error_line(done)
    assert not (place.data / "state.db").exists()


def test_the_delay_of_closing_is_shorter_than_what_lambda_may_wait():
    assert 0 < CLOSE_DELAY_MS <= 120_000
