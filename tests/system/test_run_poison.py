"""One poison record among 10,000, with bisecting, two retries and four lanes: again and again, at random places."""

import json
from collections import defaultdict
from math import ceil, log2
from random import Random

import trio
from engine_rig import FUNCTIONS, PATIENCE_S, SHARD, Log
from trio.testing import trio_test

import streamfn
from streamfn.core.backoff import Backoff

RECORDS, KEYS, BATCH = 10_000, 100, 100
ROUNDS, MANY = 3, 1_000
OPTIONS = {
    "batch_size": BATCH,
    "parallelization_factor": 4,
    "bisect_batch_on_function_error": True,
    "maximum_retry_attempts": 2,
    "on_failure": "failed",
}


def check(lines, poison):
    """What the workers wrote down: every record, in order for each key, the poison alone in the end."""
    batches = [[int(number) for number in line.split()] for line in lines]
    firsts = defaultdict(list)
    for number in dict.fromkeys(number for batch in batches for number in batch):
        firsts[number % KEYS].append(number)
    assert firsts == {key: list(range(key, RECORDS, KEYS)) for key in range(KEYS)}
    failed = [len(batch) for batch in batches if poison in batch]
    assert failed[-3:] == [1, 1, 1]
    assert len(failed) == len(set(failed)) + 2, "each level once, the last one with its retries"
    assert len(set(failed)) <= ceil(log2(BATCH)) + 1
    succeeded = [number for batch in batches if poison not in batch for number in batch]
    assert sorted(succeeded) == [number for number in range(RECORDS) if number != poison]


@trio_test
async def test_exactly_the_poison_record_is_discarded_wherever_it_is(tmp_path, monkeypatch, soak):
    monkeypatch.setenv("NOTES", str(tmp_path))
    draw, rounds = Random(2026), MANY if soak else ROUNDS
    places = [0, RECORDS - 1, *(draw.randrange(RECORDS) for _ in range(rounds - 2))]
    async with streamfn.open(tmp_path / "d", log=Log()) as session:
        session._runtime.backoff = Backoff(initial_ns=1_000_000, max_ns=2_000_000)
        records = [streamfn.NewRecord(b"%d" % number, f"key-{number % KEYS}") for number in range(RECORDS)]
        await session.put_many("s", records)
        (tmp_path / "poison").write_text("none")
        async with session.function("engine.poisoned", workers=2, code_dir=FUNCTIONS) as function:
            for number, poison in enumerate(places):
                (tmp_path / "poison").write_text(str(poison))
                (tmp_path / "seen").unlink(missing_ok=True)
                async with session.mapping(function, "s", name=f"round {number}", **OPTIONS) as mapping:
                    with trio.fail_after(PATIENCE_S):
                        result = await mapping.run_until_caught_up()
                assert (result.records, result.discarded) == (RECORDS - 1, 1)
                assert result.resumes_at == {SHARD: RECORDS}
                check((tmp_path / "seen").read_text().splitlines(), poison)
        async with session.records("s") as stored:
            numbers = [record.sequence_number async for record in stored]
        async with session.records("failed") as failures:
            told = [json.loads(record.data) async for record in failures]
    spans = [(one["KinesisBatchInfo"]["startSequenceNumber"], one["KinesisBatchInfo"]["batchSize"]) for one in told]
    assert spans == [(numbers[poison], 1) for poison in places]
    assert {one["requestContext"]["approximateInvokeCount"] for one in told} == {3}
