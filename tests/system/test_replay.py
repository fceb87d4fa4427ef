"""`streamfn replay`: exactly what was asked for, and no checkpoint of anybody's touched."""

import io
import json
import signal
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import pytest
from run_rig import FUNCTIONS, keys_of, until
from witness import deliveries, invocations

from streamfn.cli import app
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.producer.producer import Producer
from streamfn.types import NewRecord

FIRST, SECOND = (f"shardId-{number:012d}" for number in range(2))
NOON = 1_607_515_200_000  # 2020-12-09T12:00:00Z


def put_at(place, *seconds, shard=0):
    """Append records that arrived so many seconds after noon."""
    stream = place.opened()
    with Producer(stream) as producer:
        producer.submit(
            [NewRecord(f'{{"at": {at}}}'.encode(), keys_of(stream)[shard], NOON + round(at * 1000)) for at in seconds]
        ).result()


class Done(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def summary(self):
        return json.loads(self.out)


@pytest.fixture
def place(place, monkeypatch):
    """Commands that nobody interrupts run in this process: that saves most of their time."""
    monkeypatch.chdir(FUNCTIONS)
    for name in ("NOTES", "SEEN"):
        monkeypatch.setenv(name, place.environment[name])
    return place


def replay(place, *arguments, handler="seen.handler", json_=True):
    """`streamfn replay HANDLER --stream s`, to its end."""
    command = ["replay", handler, "--stream", "s", "--workers", "1", "--data-dir", str(place.data)]
    command += map(str, arguments)
    out, err = io.TextIOWrapper(io.BytesIO(), write_through=True), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = app.run([*command, "--json"] if json_ else command)
    return Done(code, out.buffer.getvalue().decode(), err.getvalue())


def kept(place):
    """Everything in the data directory, as it is."""
    return {path: path.read_bytes() for path in place.data.rglob("*") if path.is_file()}


def test_what_lies_between_two_times_is_replayed_and_nothing_is_left_behind(place):
    place.stream(shards=2)
    put_at(place, *range(100))
    put_at(place, *range(0, 100, 2), shard=1)
    log, before = place.log(), kept(place)
    done = replay(place, "--from", "2020-12-09T12:00:10Z", "--to", "2020-12-09T12:00:20Z", "--batch-size", "4")
    assert done.code == 0, done.err
    assert deliveries(place.seen) == {FIRST: log[FIRST][10:20], SECOND: log[SECOND][5:10]}
    assert {key: done.summary[key] for key in ("records", "rounds", "speed", "remaining", "resumed")} == {
        "records": 15, "rounds": 1, "speed": None, "remaining": 0, "resumed": False,
    }  # fmt: skip
    assert kept(place) == before


def test_a_mappings_checkpoint_is_neither_read_nor_moved_also_under_its_name(place):
    place.stream(contents=range(20))
    mapping = ["run", "seen.handler", "--stream", "s", "--until-caught-up", "--data-dir", str(place.data)]
    assert app.run([*mapping, "--limit", "7"]) == 0
    before = place.checkpoints("seen.handler@s")
    for _ in range(2):
        done = replay(place, "--name", "seen.handler@s")
        assert (done.code, done.summary["records"], done.summary["resumed"]) == (0, 20, False)
    assert place.checkpoints("seen.handler@s") == before == {FIRST: 7}
    assert app.run(mapping) == 0
    assert place.checkpoints("seen.handler@s") == {FIRST: 20}
    assert deliveries(place.seen)[FIRST].count(place.log()[FIRST][7]) == 3


def test_it_replays_while_the_mapping_runs(place):
    place.stream(contents=range(20))
    with place.following("seen.handler") as running:
        until(lambda: len(deliveries(place.seen).get(FIRST, [])) == 20, "the mapping's own records")
        done = replay(place, "--name", "seen.handler@s")
        assert (done.code, done.summary["records"]) == (0, 20)
        running.signal()
        assert running.wait() == 0


def test_shards_keys_and_filters_are_wanted_together(place):
    place.stream(shards=2)
    stream = place.opened()
    first, second = keys_of(stream)
    with Producer(stream) as producer:
        texts = [b'{"n": %d}' % number for number in range(10)]
        producer.submit([NewRecord(text, key) for text in texts for key in (first, second)]).result()
    log = place.log()
    done = replay(place, "--partition-key", first, "--filter", '{"data": {"n": [1, 2, 3]}}')
    assert (done.code, done.summary["records"]) == (0, 3), done.err
    assert deliveries(place.seen) == {FIRST: log[FIRST][1:4]}
    done = replay(place, "--shard", SECOND, "--partition-key", first)
    assert (done.code, done.summary["records"], done.summary["filtered"]) == (0, 0, 10)


def test_a_sequence_number_is_where_it_begins(place):
    place.stream(shards=2, contents=range(20))
    log = place.log()
    done = replay(place, "--from", log[SECOND][4], "--limit", "3")
    assert (done.code, done.summary["records"]) == (0, 3)
    assert deliveries(place.seen) == {SECOND: log[SECOND][4:7]}


def test_loop_begins_again_until_the_limit(place):
    place.stream(contents=range(10))
    log = place.log()
    done = replay(place, "--loop", "--limit", "25")
    assert (done.code, done.summary["records"], done.summary["rounds"]) == (0, 25, 3)
    assert deliveries(place.seen)[FIRST] == log[FIRST] * 2 + log[FIRST][:5]


def test_loop_ends_at_a_signal_as_it_is_meant_to(place):
    place.stream(contents=range(10))
    process = place.start("replay", "seen.handler", "--stream", "s", "--loop", "--json")
    until(lambda: len(invocations(place.seen)) > 3, "some rounds")
    process.signal()
    assert process.wait() == 0, process.err
    assert process.summary["records"] == sum(len(numbers) for _, _, numbers in invocations(place.seen)) > 30


def test_a_loop_over_nothing_ends(place):
    place.stream(contents=range(10))
    done = replay(place, "--loop", "--partition-key", "nobody")
    assert (done.code, done.summary["records"], done.summary["filtered"], done.summary["rounds"]) == (0, 0, 10, 1)


def test_a_checkpoint_is_kept_where_that_is_wanted(place):
    place.stream()
    put_at(place, *range(30))
    first, second, third = (("--to", f"2020-12-09T12:00:{end}Z") for end in (10, 20, 20))
    options = ("--checkpoint", "--name", "mine", "--from", "2020-12-09T12:00:05Z")
    assert replay(place, *options, *first).summary["records"] == 5
    done = replay(place, *options, *second)
    assert (done.summary["records"], done.summary["resumed"]) == (10, True)
    assert "goes on from the checkpoint of mine" in done.err
    assert replay(place, *options, *third).summary["records"] == 0
    assert place.checkpoints("mine") == {FIRST: 20}


def test_a_dry_run_calls_nothing_and_says_what_the_replay_then_does(place):
    place.stream(shards=2)
    put_at(place, *range(40))
    put_at(place, *range(1, 30), shard=1)
    before = kept(place)
    options = ("--batch-size", "7", "--filter", '{"data": {"at": [{"numeric": [">=", 8]}]}}')
    dry = replay(place, *options, "--dry-run")
    assert dry.code == 0, dry.err
    assert not place.seen.exists()
    assert kept(place) == before
    done = replay(place, *options)
    assert dry.summary["records"] == done.summary["records"] == 32 + 22
    assert dry.summary["invocations"] == done.summary["batches"] == 5 + 4
    assert dry.summary["span_s"] == 31
    assert (dry.summary["first_arrival"], dry.summary["shards"]) == ("2020-12-09T12:00:08.000Z", 2)
    assert dry.summary["estimated_price_usd"] > 0
    limited = replay(place, "--dry-run", "--limit", "10").summary
    assert (limited["records"], limited["span_s"]) == (10, 5)
    paced = replay(place, "--speed", "2x", "--assumed-duration", "100ms", "--dry-run").summary
    assert (paced["estimated_seconds"], paced["invocations"]) == (pytest.approx(39 / 2 + 0.1), 69)
    quiet = replay(place, "--speed", "2x", "--max-gap", "100ms", "--dry-run").summary
    assert quiet["estimated_seconds"] == pytest.approx(39 * 0.1 + 0.001)


def test_a_dry_run_reads_for_people_too(place):
    place.stream()
    put_at(place, 0, 60)
    done = replay(place, "--dry-run", "--speed", "10x", json_=False)
    assert done.code == 0, done.err
    assert "s: 2 records of 1 shard" in done.out
    assert "from 2020-12-09T12:00:00.000Z to 2020-12-09T12:01:00.000Z, in 1 min 0 s" in done.out
    assert "at 10x, if an invocation takes 1 ms: about 6.0 s, 2 invocations" in done.out
    assert "nothing was called" in done.out


def test_interrupted_it_says_how_to_go_on(place):
    place.stream()
    put_at(place, 0, 1, 2, 3600, 3601)
    process = place.start("replay", "seen.handler", "--stream", "s", "--speed", "100x")
    until(lambda: len(deliveries(place.seen).get(FIRST, [])) == 3, "what comes before the silence")
    process.signal(signal.SIGTERM)
    assert process.wait() == 143, process.err
    number = place.log()[FIRST][3]
    assert f"2 records left: --from {number} goes on there" in process.err
    assert replay(place, "--from", number).summary["records"] == 2


def test_a_stored_function_is_replayed_as_it_is_stored(place):
    place.stream(contents=range(5))
    created = ["function", "create", "stored", "--handler", "seen.handler", "--data-dir", str(place.data)]
    assert app.run(created) == 0
    done = replay(place, handler="stored")
    assert (done.code, done.summary["records"], done.summary["mapping"]) == (0, 5, "stored@s")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--from", "soon"), "--from takes a time or a sequence number: 'soon' is not a time"),
        (("--speed", "fast"), "--speed takes max, or a number such as 1x, 10x or 0.5x, not 'fast'"),
        (("--max-gap", "1s"), "--max-gap goes with a --speed such as 1x"),
        (("--loop", "--checkpoint"), "--loop begins again, and a checkpoint never goes back"),
        (("--assumed-duration", "1s"), "--assumed-duration goes with --dry-run"),
        (("--dry-run", "--pause-on-error"), "--dry-run calls nothing, so nothing fails"),
        (("--shard", "x"), "stream 's' has no shard 'x'"),
        (("--filter", "{}"), "Invalid filter pattern definition"),
        (("--limit", "0"), "Value '0' at 'limit' failed to satisfy constraint"),
        (("--batch-size", "0"), "Value '0' at 'batchSize' failed to satisfy constraint"),
    ],
)
def test_bad_values_are_named_before_anything_is_called(place, options, says):
    place.stream(contents=range(5))
    done = replay(place, *options)
    assert says in done.err
    assert (done.code, done.out, place.seen.exists()) == (2, "", False)


def test_a_table_has_no_partition_keys(place):
    DataDir.open(place.data, create=True).create_stream("s", kind="dynamodb")
    done = replay(place, "--partition-key", "a")
    assert done.code == 2
    assert "'s' has the changes of a table, which have no partition key" in done.err
