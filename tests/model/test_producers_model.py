"""Any number of producers, coming and going, over shards that are claimed and resharded: every put once, each in order.

Threads stand in for processes: a producer knows nothing of the others in its process but what it finds at the shard.
What cannot be had this way, a writer that is killed, is in tests/system/test_many_processes.py.
"""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from streamfn.errors import RefusedError, ShardClosed
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Stream
from streamfn.log.producer.producer import Producer
from streamfn.log.shard.reader import ShardReader, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.sharing.broker import request_release
from streamfn.log.storage.durability import FSYNC, OS, interval
from streamfn.log.upkeep.reshard import merge_shards, split_shard
from streamfn.types import NewRecord

KEYS = 5


def putter(data_dir: DataDir, name: int, seed: int, puts: int, sent: list[list[int]]) -> None:
    """Put numbered records under a few keys, one to four at a time, with a new producer now and then."""
    chance = random.Random(seed * 100 + name)
    producer = Producer(data_dir.stream("s"), wait_s=30)
    answers = []
    number = 0
    for _ in range(puts):
        batch = []
        for _ in range(chance.randint(1, 4)):
            key = chance.randrange(KEYS)
            batch.append(NewRecord(b"%d %d %d" % (name, key, number), f"{name}-{key}"))
            sent[key].append(number)
            number += 1
        answers.append(producer.submit(batch, durability=chance.choice((FSYNC, OS, interval(5)))))
        match chance.randrange(8):
            case 0:
                producer.close()
                producer = Producer(data_dir.stream("s"), wait_s=30)
            case 1 | 2 | 3:
                answers[-1].result(30)
    producer.close()
    for answer in answers:
        assert answer.done()
        answer.result()


def claimant(data_dir: DataDir, seed: int, stop: threading.Event) -> None:
    """Take shards for itself, and split and merge them."""
    chance = random.Random(seed)
    while not stop.wait(chance.uniform(0, 0.1)):
        shards = data_dir.stream("s").open_shards
        shard = chance.choice(shards)
        try:
            if chance.random() < 0.5:
                request_release(shard, 30)
                with ShardWriter.open(shard, wait_s=30):
                    pass
            elif len(shards) < 4:
                split_shard(data_dir, "s", shard.id, wait_s=30)
            else:
                merge_shards(data_dir, "s", shards[0].id, shards[1].id, wait_s=30)
        except (ShardClosed, RefusedError):
            continue  # somebody was faster


def found_in(stream: Stream) -> dict[tuple[int, int], list[int]]:
    """The numbers of each putter and key, in the order of the log: parents before children."""
    found: dict[tuple[int, int], list[int]] = {}
    for shard in stream.shards:
        with ShardReader.open(shard, 0) as reader:
            while messages := reader.poll(1 << 26):
                for message in messages:
                    for record in records(message):
                        name, key, number = map(int, record.data.split())
                        found.setdefault((name, key), []).append(number)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_every_put_is_there_once_and_in_order(tmp_path: Path, seed: int) -> None:
    data_dir = DataDir.open(tmp_path / "data", create=True)
    data_dir.create_stream("s", 2)
    putters = 4
    sent: list[list[list[int]]] = [[[] for _ in range(KEYS)] for _ in range(putters)]
    stop = threading.Event()
    failures: list[BaseException] = []

    def guarded(target, *args):  # type: ignore[no-untyped-def]
        try:
            target(*args)
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=guarded, args=(putter, data_dir, name, seed, 40, sent[name]))
        for name in range(putters)
    ]
    disturber = threading.Thread(target=guarded, args=(claimant, data_dir, seed, stop))
    for thread in (*threads, disturber):
        thread.start()
    for thread in threads:
        thread.join(100)
    stop.set()
    disturber.join(100)
    assert failures == [], f"seed {seed}"
    assert not any(thread.is_alive() for thread in (*threads, disturber)), f"seed {seed}"
    found = found_in(data_dir.stream("s"))
    for name in range(putters):
        for key in range(KEYS):
            assert found.get((name, key), []) == sent[name][key], f"seed {seed}: putter {name}, key {key}"
