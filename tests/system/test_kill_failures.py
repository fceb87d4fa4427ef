"""kill -9 while batches fail, are halved and discarded, and discards are carried, in four lanes: the checker judges."""

import base64
import io
import json
import os
import random
import signal
import time
from functools import partial

import pytest
from history_rig import History
from run_rig import FUNCTIONS, Place, until
from test_kill import wait_until_gone

from streamfn.limits import EVENT_BYTES_MAX
from streamfn.log.producer.producer import Producer
from streamfn.state.store import Store
from streamfn.sync import open_sync
from streamfn.testing.checker import Rules
from streamfn.types import NewRecord

BATCH, RETRIES, KEYS = 10, 2, 37
NAME = "witnessed.poison@s"
OPTIONS = [
    "--batch-size", BATCH, "--workers", 2, "--parallelization-factor", 4, "--bisect-batch-on-function-error",
    "--maximum-retry-attempts", RETRIES, "--on-failure", "failed",
]  # fmt: skip
RULES = Rules(100, EVENT_BYTES_MAX, maximum_retry_attempts=RETRIES, bisect=True)


def filled(place, records, bad, shards=2):
    """A stream with so many records, `bad` of them poison, each under a key of its own shard."""
    place.stream(shards=shards)
    with Producer(place.opened()) as producer:
        for first in range(0, records, 50):
            numbers = range(first, min(records, first + 50))
            contents = [(b"poison %d" if number in bad else b"%d") % number for number in numbers]
            keys = [f"key-{number * 7 % KEYS}" for number in numbers]
            producer.submit([NewRecord(data, key) for data, key in zip(contents, keys, strict=True)]).result()


def carried(place):
    """(shard, first sequence number, last one) of every on-failure record, as a user sees them."""
    done = place.run("tail", "failed", "--from", "TRIM_HORIZON", "--json")
    assert done.code == 0, done.err
    found = []
    for line in done.out.splitlines():
        row = json.loads(line)
        info = json.loads(base64.b64decode(row["Data"]))["KinesisBatchInfo"]
        assert row["PartitionKey"] == info["shardId"]
        found.append((info["shardId"], info["startSequenceNumber"], info["endSequenceNumber"]))
    return found


def rows_of(place):
    with Store.open(place.data / "state.db", create=False) as store:
        return store.discards(store.mapping(NAME).uuid)


def judge(place, history, bad):
    """Exactly the poison was discarded, each record of it once and alone, with one on-failure record each."""
    violations = history.violations(RULES)
    assert not violations, "\n".join(map(str, violations[:10]))
    rows = rows_of(place)
    given_up = [(row.discard.shard_id, row.discard.first_offset) for row in rows]
    poison = [at for at, content in history.contents.items() if content.startswith(b"poison")]
    assert len(poison) == len(bad)
    assert sorted(given_up) == sorted(poison)
    assert all(row.discard.end_offset == row.discard.first_offset + 1 and not row.pending for row in rows)
    assert all(row.discard.failure.attempts == RETRIES + 1 for row in rows)
    wanted = [
        (row.discard.shard_id, row.discard.failure.first_sequence_number, row.discard.failure.last_sequence_number)
        for row in rows
    ]
    assert carried(place) == wanted


def begun(place, number):
    """Whether that run has handed something over."""
    return place.seen.exists() and f'"run": {number}}}'.encode() in place.seen.read_bytes()


def rounds_of_kills(place, seed, rounds, records, bad):
    """Kill the run `rounds` times at random moments; then let it end."""
    chance = random.Random(seed)
    bad = set(chance.sample(range(records), bad))
    filled(place, records, bad)
    history = History(place, NAME)
    marker = f"STREAMFN_TEST_MARK={place.root.name}-{os.getpid()}"
    environment = dict([marker.split("=", 1)]) | {"TAKES": "0.01"}
    kills = 0
    for number in range(rounds):
        process = place.start(
            "run", "witnessed.poison", "--stream", "s", "--until-caught-up", *OPTIONS,
            env=environment | {"RUN": str(number)},
        )  # fmt: skip
        if chance.random() < 0.9:  # else it may be killed before it has begun
            until(partial(begun, place, number), "the run begins")
        deadline = time.monotonic() + chance.uniform(0.0, 2.0)
        while time.monotonic() < deadline and process.popen.poll() is None:
            history.look()
            time.sleep(0.02)
        kills += process.popen.poll() is None
        (os.killpg if chance.random() < 0.5 else os.kill)(process.pid, signal.SIGKILL)
        process.popen.wait()
        wait_until_gone(marker)
        history.died()
    done = place.start(
        "run", "witnessed.poison", "--stream", "s", "--until-caught-up", "--json", *OPTIONS,
        env=environment | {"RUN": str(rounds), "TAKES": "0"},
    )  # fmt: skip
    done.wait(30 + len(bad))  # a poison record waits for its retries, its lane with it
    assert done.code in (0, 3), done.err
    assert (done.summary["on_failure_pending"], done.summary["remaining"]) == (0, 0)
    history.died()
    judge(place, history, bad)
    return kills


def test_kills_while_batches_are_halved_discarded_and_carried_break_no_rule(place, tmp_path, soak):
    if not soak:
        assert rounds_of_kills(place, 20_261_125, rounds=3, records=2000, bad=20) > 0
        return
    kills = 0
    for seed in range(20):
        root = tmp_path / f"seed-{seed}"
        root.mkdir()
        kills += rounds_of_kills(Place(root), seed, rounds=25, records=20_000, bad=100)
    assert kills > 300


def test_one_poison_record_of_ten_thousand_is_discarded_alone_with_one_on_failure_record(place):
    """Four lanes, bisect, two retries: at most ceil(log2 n) + 1 levels, and the neighbours succeed in their order."""
    records, bad = 10_000, {random.Random(20_261_126).randrange(10_000)}
    filled(place, records, bad, shards=1)
    history = History(place, NAME)
    done = place.run(
        "run", "witnessed.poison", "--stream", "s", "--until-caught-up", "--json", *OPTIONS, "--batch-size", "100",
        env={"RUN": "0"},
    )  # fmt: skip
    assert done.code == 3, done.err
    assert (done.summary["records"], done.summary["discarded"]) == (records - 1, 1)
    # 100 records need at most 7 halvings to be one; that one is delivered three times.
    assert done.summary["errors"] <= 7 + 1 + RETRIES
    history.died()
    judge(place, history, bad)


@pytest.mark.soak
def test_a_poison_record_is_discarded_alone_a_thousand_times_wherever_it_is(tmp_path, monkeypatch, capsys):
    """The same, a thousand random positions, in one session; retries wait for nothing."""
    seen, mark, chance = tmp_path / "seen", tmp_path / "mark", random.Random(20_261_127)
    monkeypatch.setenv("SEEN", str(seen))
    monkeypatch.setenv("MARK", str(mark))
    place = Place(tmp_path)
    filled(place, 10_000, set(), shards=1)
    per_key = {key: [n for n in range(10_000) if n * 7 % KEYS == key] for key in range(KEYS)}
    positions, most = [], 0
    with open_sync(place.data, log=io.StringIO()) as session:
        session._session._runtime.random = lambda: 0.0
        with session.function("witnessed.marked", workers=2, code_dir=FUNCTIONS) as function:
            for number in range(1000):
                seen.unlink(missing_ok=True)
                positions.append(chance.randrange(10_000))
                mark.write_bytes(b"%d" % positions[-1])
                done = session.run_until_caught_up(
                    function, "s", name=f"m{number}", parallelization_factor=4, bisect_batch_on_function_error=True,
                    maximum_retry_attempts=RETRIES, on_failure="failed",
                )  # fmt: skip
                assert (done.records, done.discarded, done.on_failure_pending) == (9_999, 1, 0)
                assert done.errors <= 7 + 1 + RETRIES, f"poison at {positions[-1]}"
                most = max(most, done.errors - RETRIES)
                found = {key: [] for key in range(KEYS)}
                for line in seen.read_text().splitlines():
                    key, content = line.split()
                    found[int(key.removeprefix("key-"))].append(int(content))
                expected = per_key | {positions[-1] * 7 % KEYS: per_key[positions[-1] * 7 % KEYS].copy()}
                expected[positions[-1] * 7 % KEYS].remove(positions[-1])
                assert found == expected, f"poison at {positions[-1]}"
        numbers = [record.sequence_number for record in session.records("s")]
        told = [json.loads(record.data)["KinesisBatchInfo"] for record in session.records("failed")]
    assert [info["startSequenceNumber"] for info in told] == [numbers[position] for position in positions]
    assert all(info["batchSize"] == 1 for info in told)
    with capsys.disabled():
        print(f"\n1,000 poison records of 10,000, each discarded alone; at most {most} failures until it was alone")
