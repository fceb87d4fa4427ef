"""Lanes, filters, halves and reported records together, on messages of every size, while the handler fails by chance.

What each drawn run must hold: every record that matches is delivered, none that does not, the records of a key are
delivered for the first time in their order, no batch is too large, and nothing is discarded.
"""

import json
import random

import pytest
import trio
from engine_rig import Log
from library_rig import FUNCTIONS
from trio.testing import trio_test

import streamfn

PATTERNS = {
    "kinesis": {"data": {"keep": [True]}},
    "dynamodb": {"dynamodb": {"NewImage": {"keep": {"BOOL": [True]}}}},
}


class Draw:
    """One run, drawn from a seed."""

    def __init__(self, seed):
        self.dice = dice = random.Random(seed)
        self.kind = dice.choice(["kinesis", "dynamodb"])
        self.records = dice.choice([100, 300, 600])
        self.keys = dice.choice([1, 5, 40])
        self.filtered = dice.random() < 0.5
        self.batch_size = dice.choice([1, 3, 10, 100])
        self.options = {
            "batch_size": self.batch_size,
            "parallelization_factor": dice.choice([1, 2, 5, 10]),
            "bisect_batch_on_function_error": dice.random() < 0.5,
            "function_response_types": ["ReportBatchItemFailures"],
            "workers": 2,
            "code_dir": FUNCTIONS,
        }
        if self.filtered:
            self.options["filter_criteria"] = {"Filters": [{"Pattern": json.dumps(PATTERNS[self.kind])}]}
        self.wanted = {}

    async def fill(self, session):
        """Put the records, as many at a time as chance will have it."""
        if self.kind == "kinesis":
            await session.create_stream("s", shards=self.dice.choice([1, 2]))
        done = 0
        while done < self.records:
            count = min(self.records - done, self.dice.choice([1, 2, 5, 50, 200]))
            await self.put(session, range(done, done + count))
            done += count

    async def put(self, session, numbers):
        rows = [(f"key-{self.dice.randrange(self.keys)}", n, self.dice.random() < 0.5) for n in numbers]
        for key, n, keep in rows:
            if keep or not self.filtered:
                self.wanted.setdefault(key, []).append(n)
        if self.kind == "kinesis":
            data = [json.dumps({"n": n, "keep": keep, "pad": "x" * self.dice.choice([0, 2000])}) for _, n, keep in rows]
            records = [streamfn.NewRecord(text.encode(), row[0]) for text, row in zip(data, rows, strict=True)]
            await session.put_many("s", records, durability="os")
            return
        for key, n, keep in rows:
            image = {"id": {"S": key}, "n": {"N": str(n)}, "keep": {"BOOL": keep}}
            await session.put_change("s", {"Keys": {"id": {"S": key}}, "NewImage": image}, durability="os")


@pytest.mark.parametrize("seed", range(4))
@trio_test
async def test_what_matches_is_delivered_in_order_for_each_key_whatever_the_handler_does(tmp_path, seed, soak):
    for each in range(100 * seed, 100 * seed + (100 if soak else 1)):
        await check(tmp_path / str(each), each)


async def check(path, seed):
    draw, seen = Draw(seed), path / "seen"
    path.mkdir()
    async with streamfn.open(path / "data", log=Log()) as session:
        session._runtime.random = lambda: 0.0  # retries do not wait
        await draw.fill(session)
        environment = {"SEEN": str(seen), "SEED": str(seed)}
        with trio.fail_after(60):
            result = await session.run_until_caught_up("erratic.handler", "s", environment=environment, **draw.options)
    delivered = {}
    for line in seen.read_text().splitlines():
        batch = json.loads(line)
        assert 0 < len(batch) <= draw.batch_size
        for key, number in batch:
            delivered.setdefault(key, {})[number] = None
    assert {key: list(numbers) for key, numbers in delivered.items()} == draw.wanted, f"seed {seed}"
    assert (result.discarded, result.records) == (0, sum(map(len, draw.wanted.values())))
