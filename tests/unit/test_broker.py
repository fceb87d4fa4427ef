"""Producers that meet at a shard: one writes, the others put through it, and whoever is left goes on."""

from __future__ import annotations

import errno
import os
import random
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from streamfn.errors import BusyError, DiskFull, LogError, RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import DYNAMODB, Stream
from streamfn.log.producer.producer import Producer
from streamfn.log.segment.rows import changes
from streamfn.log.shard.reader import ShardReader, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.sharing import frames, rendezvous
from streamfn.log.sharing.broker import request_release
from streamfn.log.sharing.frames import Hello, Put
from streamfn.log.storage.durability import FSYNC, OS, Durability, interval
from streamfn.log.upkeep.reshard import split_shard
from streamfn.types import NewChange, NewRecord, Record


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    return DataDir.open(tmp_path / "data", create=True).create_stream("s")


@pytest.fixture
def writer(stream: Stream) -> Iterator[Producer]:
    """A producer that has the shard's lock."""
    with Producer(stream) as producer:
        producer.submit([NewRecord(b"first", "k")]).result(10)
        yield producer


def contents(stream: Stream) -> list[Record]:
    found: list[Record] = []
    for shard in stream.shards:
        with ShardReader.open(shard, 0) as reader:
            while messages := reader.poll(1 << 26):
                for message in messages:
                    found += records(message)
    return found


def role(producer: Producer) -> str:
    (lane,) = producer._lanes.values()
    return "writing" if lane._writing is not None else "relaying" if lane._relay is not None else "none"


def write_bytes(stream: Stream, content: bytes) -> socket.socket:
    connection = rendezvous.connect(stream.shards[0])
    assert connection is not None
    connection.settimeout(10)
    with suppress(OSError):
        connection.sendall(content)
    return connection


def read_to_the_end(connection: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionError):
        while chunk := connection.recv(1 << 16):
            received += chunk
    connection.close()
    return received


def hello(client: bytes = b"c" * 16) -> bytes:
    return frames.encode_hello(Hello(client, 0, ()))


def test_a_second_producer_puts_through_the_first(stream: Stream, writer: Producer) -> None:
    with Producer(stream, wait_s=0) as other:
        placed = [other.submit([NewRecord(b"%d" % i, "k")]).result(10)[0] for i in range(20)]
        assert (role(writer), role(other)) == ("writing", "relaying")
    found = contents(stream)
    assert [record.data for record in found] == [b"first", *(b"%d" % i for i in range(20))]
    assert placed == [(stream.shards[0].id, record.sequence_number) for record in found[1:]]


def test_many_threads_of_many_producers_keep_their_order_and_lose_nothing(stream: Stream) -> None:
    def go(producer: Producer, name: int) -> None:
        answers = [producer.submit([NewRecord(b"%d %d" % (name, i), f"{name}")]) for i in range(60)]
        for answer in answers:
            answer.result(30)

    producers = [Producer(stream) for _ in range(4)]
    threads = [threading.Thread(target=go, args=(producers[name % 4], name)) for name in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for producer in producers:
        producer.close()
    found = [tuple(map(int, record.data.split())) for record in contents(stream)]
    assert sorted(found) == [(name, i) for name in range(16) for i in range(60)]
    for name in range(16):
        assert [i for who, i in found if who == name] == list(range(60))


def test_when_the_writer_ends_the_others_take_over_and_nothing_fails(stream: Stream) -> None:
    first = Producer(stream)
    first.submit([NewRecord(b"w", "k")]).result(10)
    others = [Producer(stream) for _ in range(3)]
    stop = threading.Event()
    counts = [0, 0, 0]

    def go(name: int) -> None:
        while not stop.is_set():
            others[name].submit([NewRecord(b"%d %d" % (name, counts[name]), "k")]).result(10)
            counts[name] += 1

    threads = [threading.Thread(target=go, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    first.close()
    reached = list(counts)
    deadline = time.monotonic() + 5
    while any(count < before + 5 for count, before in zip(counts, reached, strict=True)):
        assert time.monotonic() < deadline, "somebody puts no more"
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert sorted(role(producer) for producer in others) == ["relaying", "relaying", "writing"]
    for producer in others:
        producer.close()
    found = [record.data for record in contents(stream)]
    for name in range(3):
        assert [one for one in found if one.startswith(b"%d " % name)] == [
            b"%d %d" % (name, i) for i in range(counts[name])
        ]


def test_the_writer_lets_go_when_asked_and_comes_back_for_its_next_put(stream: Stream, writer: Producer) -> None:
    shard = stream.shards[0]
    queued = [writer.submit([NewRecord(b"%d" % i, "k")]) for i in range(200)]
    assert request_release(shard)
    with ShardWriter.open(shard, wait_s=1) as taken:
        late = writer.submit([NewRecord(b"late", "k")])
        taken.append([NewRecord(b"between", "k")])
        taken.commit()
    late.result(5)
    for answer in queued:
        answer.result(5)
    found = [record.data for record in contents(stream)]
    assert sorted(found) == sorted([b"first", b"between", b"late", *(b"%d" % i for i in range(200))])
    assert not request_release(stream.shards[0]._replace(directory=shard.directory.parent / "none"))


def test_a_writer_that_serves_nobody_is_waited_for_and_named(stream: Stream) -> None:
    with ShardWriter.open(stream.shards[0]), Producer(stream, wait_s=0.05) as producer:
        began = time.monotonic()
        with pytest.raises(BusyError, match=f"process {os.getpid()}"):
            producer.submit([NewRecord(b"x", "k")]).result(10)
        assert 0.05 <= time.monotonic() - began < 2


def test_every_kind_of_record_passes_through(stream: Stream, writer: Producer) -> None:
    full = NewRecord(b"\0\xff", "schlüssel", 123, None, "9" * 129, 7)
    captured = NewRecord(b"c", "k", None, "8" * 100)
    with Producer(stream) as other:
        other.submit([full, NewRecord(b"", "k")]).result(10)
        assert other.submit([captured]).result(10) == [(stream.shards[0].id, "8" * 100)]
        with pytest.raises(RefusedError, match="does not follow"):
            other.submit([captured._replace(sequence_number="7")]).result(10)
        other.submit([NewRecord(b"after", "k")]).result(10)
    found = contents(stream)
    assert (found[1].data, found[1].partition_key, found[1].arrival_ms) == (b"\0\xff", "schlüssel", 123)
    assert (found[1].source_sequence_number, found[1].source_subsequence_number) == ("9" * 129, 7)
    assert [record.data for record in found] == [b"first", b"\0\xff", b"", b"c", b"after"]


def test_change_records_pass_through_and_an_item_stays_on_its_shard(tmp_path: Path) -> None:
    data_dir = DataDir.open(tmp_path / "data", create=True)
    stream = data_dir.create_stream("t", 2, kind=DYNAMODB)
    put = [NewChange("INSERT", b'{"id":{"N":"%d"}}' % (n % 5), b'{"v":{"N":"%d"}}' % n) for n in range(40)]
    with Producer(stream) as first, Producer(stream) as second:
        for n, change in enumerate(put):
            (first, second)[n % 2].submit([change]).result(10)
    of: dict[bytes, list[bytes | None]] = {}
    for shard in stream.shards:
        mine = set()
        with ShardReader.open(shard, 0) as reader:
            while messages := reader.poll(1 << 26):
                for message in messages:
                    for change in changes(message):
                        of.setdefault(change.keys, []).append(change.new_image)
                        mine.add(change.keys)
        assert mine
    assert of == {keys: [c.new_image for c in put if c.keys == keys] for keys in {c.keys for c in put}}


def test_a_put_larger_than_a_frame_goes_in_several_and_in_order(stream: Stream, writer: Producer) -> None:
    put = [NewRecord(bytes([i]) * (3 << 20), "k") for i in range(9)]
    with Producer(stream) as other:
        placed = other.submit(put).result(30)
    found = contents(stream)[1:]
    assert [record.data[:1] for record in found] == [bytes([i]) for i in range(9)]
    assert [number for _, number in placed] == [record.sequence_number for record in found]


def test_the_socket_is_its_owners_alone_and_goes_with_the_writer(stream: Stream) -> None:
    with Producer(stream) as producer:
        producer.submit([NewRecord(b"x", "k")]).result(10)
        (path,) = stream.directory.glob("*.sock")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(entry.name for entry in stream.directory.iterdir()) == [stream.shards[0].id, "stream.json"]


def test_another_users_process_is_turned_away(
    stream: Stream, writer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lane,) = writer._lanes.values()
    monkeypatch.setattr(rendezvous, "peer", lambda connection: (1, os.geteuid() + 1))
    assert rendezvous.connect(stream.shards[0]) is None, "nor do we talk to one"
    connection = socket.socket(socket.AF_UNIX)
    with rendezvous._directory(stream.shards[0]) as (_, place):
        connection.connect(f"{place}/{rendezvous.socket_name(stream.shards[0])}")
    connection.settimeout(10)
    with suppress(OSError):
        connection.sendall(hello())
    assert read_to_the_end(connection) == b""
    assert lane._writing is not None
    assert not lane._writing.guests.present


def test_a_path_too_long_for_a_socket_is_none(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    stream = DataDir.open(deep / "data", create=True).create_stream("s")
    with Producer(stream) as first, Producer(stream, wait_s=0) as second:
        first.submit([NewRecord(b"1", "k")]).result(10)
        second.submit([NewRecord(b"2", "k")]).result(10)
    assert [record.data for record in contents(stream)] == [b"1", b"2"]


def test_the_socket_of_a_dead_writer_is_replaced(stream: Stream) -> None:
    rendezvous.listen(stream.shards[0]).close()  # nobody behind it
    with Producer(stream, wait_s=0) as first, Producer(stream, wait_s=0) as second:
        first.submit([NewRecord(b"1", "k")]).result(10)
        second.submit([NewRecord(b"2", "k")]).result(10)
    assert len(contents(stream)) == 2


def test_where_there_can_be_no_socket_there_are_no_guests(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(shard: object) -> socket.socket:
        raise OSError(errno.EPERM, "no sockets here")

    monkeypatch.setattr(rendezvous, "listen", refuse)
    with Producer(stream) as first, Producer(stream, wait_s=0) as second:
        first.submit([NewRecord(b"1", "k")]).result(10)
        with pytest.raises(BusyError):
            second.submit([NewRecord(b"2", "k")]).result(10)


def test_puts_for_a_shard_that_is_split_go_to_its_children_in_order(stream: Stream, writer: Producer) -> None:
    data_dir = DataDir.open(stream.directory.parent.parent, create=False)
    other = Producer(stream)
    stop, done = threading.Event(), [0, 0]

    def go(name: int, producer: Producer) -> None:
        while not stop.is_set():
            producer.submit([NewRecord(b"%d %d" % (name, done[name]), f"{done[name] % 7}")]).result(10)
            done[name] += 1

    threads = [threading.Thread(target=go, args=(name, one)) for name, one in enumerate((writer, other))]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    stream = split_shard(data_dir, "s", stream.shards[0].id)
    reached = list(done)
    deadline = time.monotonic() + 5
    while any(count < before + 10 for count, before in zip(done, reached, strict=True)):
        assert time.monotonic() < deadline, "somebody puts no more"
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    other.close()
    writer.close()
    found = [tuple(map(int, record.data.split())) for record in contents(stream) if record.data != b"first"]
    assert sorted(found) == [(name, i) for name in range(2) for i in range(done[name])]
    for shard in stream.open_shards:
        with ShardReader.open(shard, 0) as reader:
            mine = [r for m in iter(lambda: reader.poll(1 << 26), []) for got in m for r in records(got)]
        assert mine, "both children got some"
    for name in range(2):
        for key in range(7):
            of_key = [i for who, i in found if who == name and i % 7 == key]
            assert of_key == sorted(of_key)


def test_a_full_disk_refuses_the_puts_of_others_by_name(
    stream: Stream, writer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Producer(stream) as other:
        other.submit([NewRecord(b"1", "k")]).result(10)
        with monkeypatch.context() as patched:
            patched.setattr("streamfn.log.shard.writer.floor_bytes", lambda space: 1 << 60)
            with pytest.raises(DiskFull, match="bytes are free"):
                other.submit([NewRecord(b"2", "k")]).result(10)
        other.submit([NewRecord(b"3", "k")]).result(10)
    assert [record.data for record in contents(stream)] == [b"first", b"1", b"3"]


def test_a_failed_sync_fails_the_puts_of_others_too(
    stream: Stream, writer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Producer(stream) as other:
        other.submit([NewRecord(b"1", "k")]).result(10)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "bad disk")))
            with pytest.raises(LogError, match="sync failed"):
                other.submit([NewRecord(b"2", "k")]).result(10)


@pytest.mark.parametrize("mode", [FSYNC, OS, interval(20)], ids=str)
def test_a_group_is_as_durable_as_its_puts_ask(
    stream: Stream, mode: Durability, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Producer(stream) as first, Producer(stream, durability=mode) as second:
        first.submit([NewRecord(b"1", "k")]).result(10)
        (lane,) = first._lanes.values()
        second.submit([NewRecord(b"2", "k")]).result(10)  # takes what has to be reserved
        assert lane._writing is not None
        shard_writer = lane._writing._writer
        before = shard_writer.synced_offset
        second.submit([NewRecord(b"3", "k")]).result(10)
        if mode == FSYNC:
            assert shard_writer.synced_offset == 3
        elif mode == OS:
            time.sleep(0.05)
            assert shard_writer.synced_offset == before < shard_writer.committed_offset == 3
            first.submit([NewRecord(b"4", "k")]).result(10)
            assert shard_writer.synced_offset == 4, "a sync is one of everything before it"
        else:
            deadline = time.monotonic() + 5
            while shard_writer.synced_offset < 3:
                assert time.monotonic() < deadline
                time.sleep(0.005)


HOSTILE = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"\xff" * 64,
    frames.frame(frames.PUT, b"x"),  # before the hello
    hello() + hello(),
    hello() + frames.frame(99),
    hello() + frames.frame(frames.PUT, b"\0" * 17),
    frames.frame(frames.HELLO, b"SFBR\x09" + b"\0" * 21),  # a protocol to come
    hello() + frames.encode_put(Put(1, FSYNC, [NewRecord(b"x", "")])),  # no key
    hello() + frames.encode_put(Put(1, FSYNC, [NewRecord(b"x", "k" * 257)])),
    hello() + frames.encode_put(Put(1, FSYNC, [NewRecord(b"x", "k", -1)])),
    hello() + frames.encode_put(Put(1, FSYNC, [NewRecord(b"x", "k", None, "abc")])),
    hello() + frames.encode_put(Put(1, FSYNC, [NewChange("INSERT", b"{}", b"{}")])),  # not this kind of stream
    hello() + frames.encode_put(Put(1, FSYNC, [NewChange("x", b"]", b"{")])),
    hello() + b"".join(frames.encode_put(Put(n, FSYNC, [NewRecord(b"evil", "k")])) for n in range(500)),
)


def test_hostile_clients_harm_nobody(stream: Stream, writer: Producer) -> None:
    rng = random.Random(7)
    good = hello() + frames.encode_put(Put(1, FSYNC, [NewRecord(b"smeared", "k")] * 3))
    smears = []
    for _ in range(300):
        smear = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            smear[rng.randrange(len(smear))] = rng.randrange(256)
        smears.append(bytes(smear[: rng.choice((len(smear), rng.randrange(len(smear))))]))
    with Producer(stream) as other:
        idle = [write_bytes(stream, hello()[:9]) for _ in range(20)]  # they say no more
        for number, content in enumerate([*HOSTILE, *smears]):
            connection = write_bytes(stream, content)
            if number % 3 == 0:
                connection.close()
            else:
                idle.append(connection)
            if number % 10 == 0:
                other.submit([NewRecord(b"good %d" % number, "k")]).result(10)
                writer.submit([NewRecord(b"own %d" % number, "k")]).result(10)
        assert (role(writer), role(other)) == ("writing", "relaying")
    for connection in idle:
        connection.close()
    found = [record.data for record in contents(stream)]
    numbers = range(0, len(HOSTILE) + len(smears), 10)
    assert [data for data in found if data.startswith(b"good")] == [b"good %d" % n for n in numbers]
    assert [data for data in found if data.startswith(b"own")] == [b"own %d" % n for n in numbers]
    assert found.count(b"evil") < 500, "two puts may be under way, and no more"


def test_a_client_that_reads_no_answers_is_dropped_and_the_others_go_on(stream: Stream, writer: Producer) -> None:
    connection = write_bytes(stream, hello())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    put = frames.encode_put(Put(1, FSYNC, [NewRecord(b"x", "k")]))
    with suppress(OSError):
        for _ in range(3000):
            connection.sendall(put, socket.MSG_NOSIGNAL)
            connection.settimeout(0.2)
    writer.submit([NewRecord(b"y", "k")]).result(10)
    connection.close()


def test_a_cut_length_costs_no_memory(stream: Stream, writer: Producer) -> None:
    connections = [write_bytes(stream, struct.pack("<IB", frames.FRAME_BYTES_MAX, 3) + b"x") for _ in range(50)]
    writer.submit([NewRecord(b"y", "k")]).result(10)
    (lane,) = writer._lanes.values()
    assert lane._writing is not None
    held = sum(len(one.buffer) for one in lane._writing.guests._connections.values())
    assert held <= 50 * 6
    for connection in connections:
        connection.close()
