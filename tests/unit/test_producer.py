"""Group commit: every future is answered, with what the log then holds."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from streamfn.errors import BusyError, LogError, RefusedError, ShardClosed
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Stream
from streamfn.log.producer.producer import Producer
from streamfn.log.shard.reader import ShardReader, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.upkeep.reshard import close_shard, update_shard_count
from streamfn.types import NewRecord, Record


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    return DataDir.open(tmp_path / "data", create=True).create_stream("s", 3)


def contents(stream: Stream) -> dict[str, list[Record]]:
    found = {}
    for shard in stream.shards:
        with ShardReader.open(shard, 0) as reader:
            found[shard.id] = [
                r for got in iter(lambda: reader.poll(1 << 20), []) for m in got for r in records(m)
            ]
    return found


def test_a_put_answers_with_shard_and_sequence_number_of_each_record_in_order(stream: Stream) -> None:
    put = [NewRecord(b"%d" % i, f"key {i}") for i in range(50)]
    with Producer(stream) as producer:
        placed = producer.submit(put).result(10)
        assert producer.submit([]).result(10) == []
        assert producer.queued_bytes == 0
    by_place = {(s, r.sequence_number): r for s, found in contents(stream).items() for r in found}
    assert [(by_place[at].data, by_place[at].partition_key) for at in placed] == [
        (r.data, r.partition_key) for r in put
    ]
    assert {shard for shard, _ in placed} == {stream.shard_for(r.partition_key).id for r in put}


def test_concurrent_putters_lose_and_repeat_nothing_and_keep_their_order(stream: Stream) -> None:
    def go(name: int) -> None:
        for i in range(100):
            producer.submit([NewRecord(b"%d %d" % (name, i), f"{name}")]).result(10)

    with Producer(stream, queue_bytes_max=2000) as producer:
        threads = [threading.Thread(target=go, args=(name,)) for name in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [tuple(map(int, r.data.split())) for shard in contents(stream).values() for r in shard]
    assert sorted(found) == [(name, i) for name in range(16) for i in range(100)]
    for name in range(16):
        assert [i for who, i in found if who == name] == list(range(100))


def test_close_answers_everything_that_was_queued(stream: Stream) -> None:
    producer = Producer(stream)
    futures = [producer.submit([NewRecord(b"x", f"{i}")]) for i in range(500)]
    producer.close()
    producer.close()
    assert all(future.done() and len(future.result()) == 1 for future in futures)
    assert sum(map(len, contents(stream).values())) == 500
    with pytest.raises(LogError, match="is closed"):
        producer.submit([NewRecord(b"x", "k")])


def test_a_bad_record_is_refused_at_once_and_harms_no_other(stream: Stream) -> None:
    with Producer(stream) as producer:
        good = producer.submit([NewRecord(b"x", "k")])
        with pytest.raises(RefusedError):
            producer.submit([NewRecord(b"x", "k"), NewRecord(b"x", "")])
        assert len(good.result(10)) == 1
    assert sum(map(len, contents(stream).values())) == 1


def test_a_busy_shard_fails_its_puts_and_no_others_and_is_tried_again(stream: Stream) -> None:
    keys = {stream.shard_index(f"{i}"): f"{i}" for i in range(100)}
    with Producer(stream, wait_s=0) as producer:
        with ShardWriter.open(stream.shards[1]):
            with pytest.raises(BusyError, match=f"process {os.getpid()}"):
                producer.submit([NewRecord(b"x", key) for key in keys.values()]).result(10)
            assert producer.submit([NewRecord(b"x", keys[0])]).result(10)
        assert len(producer.submit([NewRecord(b"y", key) for key in keys.values()]).result(10)) == 3


def test_a_failed_sync_fails_the_put_and_all_later_ones(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with Producer(stream) as producer:
        producer.submit([NewRecord(b"x", "k")]).result(10)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", fail)
            with pytest.raises(LogError, match="sync failed"):
                producer.submit([NewRecord(b"x", "k")]).result(10)
        with pytest.raises(LogError, match="until it is opened again"):
            producer.submit([NewRecord(b"x", "k")]).result(10)


def test_a_put_cannot_be_cancelled_once_it_is_queued(stream: Stream) -> None:
    with Producer(stream) as producer:
        future = producer.submit([NewRecord(b"x", "k")])
        assert not future.cancel()
        assert future.result(10)


def test_puts_for_a_shard_that_was_split_meanwhile_go_to_its_children_in_order(stream: Stream) -> None:
    data_dir = DataDir.open(stream.directory.parent.parent, create=False)
    stale = Producer(stream)
    update_shard_count(data_dir, "s", 5)
    with stale:
        answers = [
            stale.submit([NewRecord(b"%d" % (10 * n + m), f"key {m}") for m in range(10)]) for n in range(20)
        ]
        placed = [place for answer in answers for place in answer.result(5)]
    stream = data_dir.stream("s")
    assert stale.stream.shards == stream.shards
    assert {shard for shard, _ in placed} <= {shard.id for shard in stream.open_shards}
    found = contents(stream)
    by_key: dict[str, list[int]] = {}
    for shard in stream.open_shards:
        for record in found[shard.id]:
            assert stream.shard_for(record.partition_key) == shard
            assert (shard.id, record.sequence_number) == placed[int(record.data)]
            by_key.setdefault(record.partition_key, []).append(int(record.data))
    assert {key: sorted(numbers) for key, numbers in by_key.items()} == by_key
    assert sum(map(len, by_key.values())) == 200


def test_a_put_into_a_stream_that_has_no_open_shard_any_more_fails_and_the_next_too(stream: Stream) -> None:
    data_dir = DataDir.open(stream.directory.parent.parent, create=False)
    with Producer(stream) as producer:
        for shard in stream.shards:
            close_shard(data_dir, stream, shard.id)
        for _ in range(2):
            with pytest.raises(ShardClosed, match="no open shard"):
                producer.submit([NewRecord(b"x", "k")]).result(5)
