"""kill -9 of the runtime at random moments: nothing lost, order kept, nothing left behind, every repeat explained."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from witness import deliveries, first_deliveries, invocations, repeats, strays

FUNCTIONS = Path(__file__).parent / "functions"
RECORDS, BATCH, WORKERS = 4000, 10, 2


def streamfn(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "streamfn", *arguments],
        cwd=FUNCTIONS, check=True, capture_output=True, text=True, **options,
    )  # fmt: skip


def wait_until_gone(marker, seconds=1.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not strays(marker):
            return
        time.sleep(0.01)
    assert not strays(marker), "processes left a second after the kill"


@pytest.fixture
def stream(tmp_path):
    lines = "".join(f'{{"n": {n}, "k": "key-{n % 50}"}}\n' for n in range(RECORDS))
    source = tmp_path / "source.jsonl"
    source.write_text(lines)
    data = tmp_path / "data"
    streamfn("import", str(source), "--stream", "s", "--shards", "4", "--partition-key", "k", "--data-dir", str(data))
    return data


def command(data):
    return [sys.executable, "-m", "streamfn", "run", "seen.slow", "--stream", "s", "--data-dir", str(data),
            "--batch-size", str(BATCH), "--workers", str(WORKERS), "--until-caught-up", "--json"]  # fmt: skip


def judge(data, seen):
    """Nothing lost, and per shard first deliveries in the order of the log."""
    tail = streamfn("tail", "s", "--from", "TRIM_HORIZON", "--json", "--data-dir", str(data)).stdout
    log = {}
    import json

    for line in tail.splitlines():
        record = json.loads(line)
        log.setdefault(record["ShardId"], []).append(record["SequenceNumber"])
    found = deliveries(seen)
    assert {shard: sorted(numbers) for shard, numbers in log.items()} == {
        shard: sorted(set(numbers)) for shard, numbers in found.items()
    }
    for shard, numbers in log.items():
        assert first_deliveries(found[shard]) == numbers


@pytest.mark.conformance(
    "promises/killed-runtime",
    source="ours",
    rule="A runtime that is killed loses nothing: what was not checkpointed, at most 50 ms of work, is "
    "delivered again.",
)
@pytest.mark.parametrize("whole_group", [False, True], ids=["the runtime alone", "its process group"])
def test_a_killed_runtime_loses_nothing_and_leaves_nothing(stream, tmp_path, whole_group, soak):
    rounds, chance = (20 if soak else 5), random.Random(20_261_123)
    marker = f"STREAMFN_TEST_MARK={tmp_path.name}-{os.getpid()}"
    seen = tmp_path / "seen"
    environment = {**os.environ, "SEEN": str(seen), **dict([marker.split("=", 1)])}
    killed = 0
    for _ in range(rounds):
        child = subprocess.Popen(
            command(stream), cwd=FUNCTIONS, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            child.wait(chance.uniform(0.3, 1.1))
            break
        except subprocess.TimeoutExpired:
            (os.killpg if whole_group else os.kill)(child.pid, signal.SIGKILL)
            child.wait()
            killed += 1
            wait_until_gone(marker)
    done = subprocess.run(command(stream), cwd=FUNCTIONS, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    judge(stream, seen)
    # A kill repeats what was completed and not yet committed (50 ms of batches of 20 ms on each worker) and what ran.
    assert repeats(seen) <= killed * WORKERS * BATCH * (1 + 4)
    wait_until_gone(marker)


def test_without_kills_every_record_is_delivered_exactly_once(stream, tmp_path):
    seen = tmp_path / "seen"
    done = subprocess.run(
        command(stream), cwd=FUNCTIONS, env={**os.environ, "SEEN": str(seen)}, capture_output=True, check=True
    )
    judge(stream, seen)
    assert repeats(seen) == 0
    assert sum(len(numbers) for _, _, numbers in invocations(seen)) == RECORDS
    assert b'"records":4000' in done.stdout.replace(b" ", b"")
