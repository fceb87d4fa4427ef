"""On-failure records on their way: each one once, in order, whatever ends the process and wherever that is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing

from streamfn.errors import BusyError, DiskFull, Fenced, RefusedError
from streamfn.limits import FREE_BYTES_MIN
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import DYNAMODB
from streamfn.log.shard.cursor import ShardCursor
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage.disk import Space, SystemDisk
from streamfn.log.upkeep.reshard import split_shard
from streamfn.mapping import delivery, forwarder
from streamfn.mapping.delivery import Source, refuse_destination
from streamfn.mapping.forwarder import Forwarder
from streamfn.state.discards import Discard
from streamfn.state.store import Store
from streamfn.types import Failure, NewRecord

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
NOV_25 = 1_764_065_472_345


class Killed(BaseException):
    """The process ends here: no `except Exception` may keep it going."""


class Place:
    """A data directory with a stream `orders`, a mapping on it, and discards; `steps` counts calls of the forwarder."""

    def __init__(self, path: Path) -> None:
        self.data = DataDir.open(path, create=True)
        self.stream = self.data.create_stream("orders")
        with ShardWriter.open(self.shard) as writer:
            writer.append([NewRecord(b"data %d" % number, f"key {number}", NOV_25 + number) for number in range(40)])
            writer.commit()
        self.store = Store.open(self.data.state_path, create=True)
        self.uuid = self.store.bind(
            "m", stream_id=self.stream.id, stream_name="orders", handler="h", code_dir="/", options={}, starts={}
        ).mapping.uuid
        self.epoch = self.store.acquire(self.uuid)
        self.said: list[str] = []
        self.fences: list[Fenced] = []
        self.steps = 0
        self.kill_at = 0
        self.late = False
        self.given = 0

    @property
    def shard(self) -> Any:
        return self.stream.shards[0]

    def fenced(self, error: Fenced) -> None:
        self.fences.append(error)

    def discard(self, count: int, destination: str = "failed") -> None:
        """Discard the next records, one each."""
        given = range(self.given, self.given + count)
        self.given = given.stop
        rows = [discard(offset, destination) for offset in given]
        self.store.commit(self.uuid, self.epoch, {self.shard.id: (given.stop, None)}, rows)

    async def disk(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        return self.step(function, *arguments)

    def step(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """One step; the one to be killed in is killed before anything is done, or when all of it is."""
        self.steps += 1
        if self.steps == self.kill_at and not self.late:
            raise Killed
        result = function(*arguments)
        if self.steps == self.kill_at:
            raise Killed
        return result

    def forwarder(self) -> Forwarder:
        source = Source(self.uuid, self.stream, "role")
        return Forwarder(self, self.data, self.store, self.disk, source, self.said.append)

    def restart(self) -> None:
        """The next process takes the mapping over."""
        self.store.close()
        self.store = Store.open(self.data.state_path, create=False)
        self.epoch = self.store.acquire(self.uuid)

    def finish(self) -> Forwarder:
        carrier = self.forwarder()
        trio.run(carrier.finish, clock=trio.testing.MockClock(autojump_threshold=0))
        return carrier

    def copies(self, name: str = "failed") -> list[tuple[str, str]]:
        """Partition key and first sequence number of everything in a destination stream, shard after shard."""
        found = []
        for shard in self.data.stream(name).shards:
            with ShardCursor(shard, 0, None) as cursor:
                for row in cursor:
                    record = json.loads(row.data)  # type: ignore[union-attr]
                    found.append((row.partition_key, record["KinesisBatchInfo"]["startSequenceNumber"]))  # type: ignore[union-attr]
        return found

    @property
    def expected(self) -> list[tuple[str, str]]:
        return [(self.shard.id, str(offset)) for offset in range(self.given)]


def discard(offset: int, destination: str) -> Discard:
    failure = Failure(
        attempts=3,
        request_id=f"request-{offset}",
        function_arn="arn:function",
        function_error="Unhandled",
        records=1,
        first_sequence_number=str(offset),
        last_sequence_number=str(offset),
        first_arrival_ms=NOV_25,
        last_arrival_ms=NOV_25,
        time_ms=NOV_25 + offset,
        destination=destination,
    )
    return Discard("shardId-000000000000", offset, offset + 1, "RetryAttemptsExhausted", "", failure)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    place = Place(tmp_path / "data")

    async def run_sync(function: Callable[[*Ts], T], *arguments: *Ts, **_: Any) -> T:
        await trio.lowlevel.checkpoint()
        return place.step(function, *arguments)

    monkeypatch.setattr(forwarder.trio.to_thread, "run_sync", run_sync)
    yield place
    place.store.close()


# ---- once, in order ----


@pytest.mark.conformance(
    "discards/partition-key",
    source="ours",
    rule="In a destination stream a record's partition key is the id of the shard it speaks of; "
    "its data is Lambda's record without payload.",
)
def test_every_discard_is_carried_once_and_in_order(place: Place) -> None:
    place.discard(3)
    place.finish()
    place.discard(4)
    place.finish()
    place.finish()
    assert place.copies() == place.expected
    assert len(place.data.stream("failed").shards) == 1
    assert place.store.pending_count(place.uuid) == 0
    assert place.store.progress(place.uuid).on_failure_delivered == 7


def test_more_than_are_carried_at_a_time_are_carried_in_order(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder, "ROWS_MAX", 3)
    place.discard(10)
    place.finish()
    assert place.copies() == place.expected


@pytest.mark.parametrize(
    ("destination", "late"),
    [("failed", False), ("failed", True), ("file:{path}/out", True), ("s3:{path}/out", False)],
    ids=["stream, before the step", "stream, after the step", "files, after the step", "objects, before the step"],
)
def test_a_process_that_is_killed_at_any_step_leaves_each_record_to_be_there_once(
    place: Place, tmp_path: Path, destination: str, late: bool
) -> None:
    """Killed at the first step, at the second one ..., and a second time in the middle of what follows."""
    named = destination.format(path=tmp_path)
    place.discard(2, named)
    place.finish()
    step = 0
    while True:
        step += 1
        place.discard(3, named)
        killed = 0
        for at in (step, max(1, step - 1)):
            place.steps, place.kill_at, place.late = 0, at, late
            try:
                place.finish()
            except Killed:
                killed += 1
            place.restart()
        place.kill_at = 0
        place.finish()
        assert place.store.pending_count(place.uuid) == 0
        if named == "failed":
            assert place.copies() == place.expected
        else:
            files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
            found = [json.loads(path.read_bytes())["requestContext"]["requestId"] for path in files]
            assert sorted(found) == sorted(f"request-{number}" for number in range(place.given))
        if not killed:
            assert step > 5, "every step was a point to be killed at"
            return


def test_a_copy_is_looked_for_only_behind_what_was_noted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.discard(20)
    place.finish()
    seen: list[int] = []
    opened = ShardCursor.__init__

    def look(cursor: ShardCursor, shard: Any, offset: int, until: int | None) -> None:
        seen.append(offset)
        opened(cursor, shard, offset, until)

    place.discard(1)
    place.late, place.steps, place.kill_at = True, 0, 6
    with pytest.raises(Killed):
        place.finish()
    (row,) = place.store.pending(place.uuid, "failed", 9)
    assert row.noted is not None
    place.restart()
    place.kill_at = 0
    monkeypatch.setattr(ShardCursor, "__init__", look)
    place.finish()
    assert seen == [20]
    monkeypatch.setattr(ShardCursor, "__init__", opened)
    assert place.copies() == place.expected


def killed_after_the_copy(place: Place) -> None:
    """The copies are made, and nobody has written that down."""
    place.late, place.steps, place.kill_at = True, 0, 6
    with pytest.raises(Killed):
        place.finish()
    assert place.copies()[-1] == place.expected[-1]
    place.restart()
    place.kill_at = 0


def test_a_destination_that_was_split_meanwhile_is_looked_through_in_all_its_shards(place: Place) -> None:
    place.discard(3)
    killed_after_the_copy(place)
    stream = place.data.stream("failed")
    split_shard(place.data, stream.name, stream.shards[0].id)
    place.discard(2)
    place.finish()
    assert sorted(place.copies(), key=lambda copy: int(copy[1])) == place.expected


def test_a_destination_that_was_deleted_meanwhile_is_made_again_and_gets_what_is_pending(place: Place) -> None:
    place.discard(3)
    killed_after_the_copy(place)
    place.data.delete_stream("failed")
    place.finish()
    assert place.copies() == place.expected


def test_what_others_put_into_the_destination_does_not_matter(place: Place) -> None:
    place.discard(2)
    killed_after_the_copy(place)
    with ShardWriter.open(place.data.stream("failed").shards[0]) as writer:
        writer.append([NewRecord(b'{"KinesisBatchInfo":{"startSequenceNumber":"x"}}', "k")])
        writer.commit()
    place.discard(1)
    place.finish()
    assert [number for _, number in place.copies()] == ["0", "1", "x", "2"]


# ---- what stands still ----


@pytest.mark.parametrize("error", [DiskFull("no room"), BusyError("process 7 writes to it")])
def test_a_destination_that_stands_still_is_tried_again_and_said_once(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    refusals = iter([error, error])
    put = delivery.StreamDestination.put

    def refuse(*arguments: Any) -> None:
        refusal = next(refusals, None)
        if refusal is not None:
            raise refusal
        put(*arguments)

    monkeypatch.setattr(delivery.StreamDestination, "put", refuse)
    place.discard(2)
    assert place.finish().left == 0
    assert place.copies() == place.expected
    assert place.said == [
        f"on-failure records for failed wait, and are tried again: {error}",
        "on-failure records for failed go on",
    ]


def test_a_run_that_ends_leaves_what_cannot_be_carried_to_the_next_one(place: Place, tmp_path: Path) -> None:
    """And what can be carried elsewhere is not held up by it."""
    place.discard(1, f"file:{tmp_path}/out")
    place.discard(2)
    out = tmp_path / "out"
    out.write_text("not a directory")
    carrier = place.finish()
    assert (carrier.left, list(carrier.stuck)) == (1, [f"file:{out}"])
    assert [number for _, number in place.copies()] == ["1", "2"]
    out.unlink()
    assert place.finish().left == 0
    assert len(list(out.iterdir())) == 1


def test_whoever_was_replaced_carries_nothing_more(place: Place) -> None:
    place.discard(2)
    place.store.acquire(place.uuid)
    with pytest.raises(Fenced):
        place.finish()
    assert place.copies() == []


# ---- directories ----


def test_a_file_is_there_whole_under_a_name_of_its_own(place: Place, tmp_path: Path) -> None:
    place.discard(2, f"file:{tmp_path}/a/b/out")
    place.finish()
    first, second = sorted((tmp_path / "a" / "b" / "out").iterdir())
    assert first.name.startswith("2025-11-25T10.11.12-shardId-000000000000-")
    assert first.name.endswith(".json")
    record = json.loads(first.read_bytes())
    assert list(record) == ["requestContext", "responseContext", "version", "timestamp", "KinesisBatchInfo"]
    assert second.read_bytes() != first.read_bytes()


def test_an_object_lies_under_lambdas_key_with_the_event_as_payload(place: Place, tmp_path: Path) -> None:
    place.discard(1, f"s3:{tmp_path}/bucket")
    place.finish()
    (path,) = (path for path in (tmp_path / "bucket").rglob("*") if path.is_file())
    key = str(path.relative_to(tmp_path / "bucket"))
    shard = place.shard.id
    assert key.startswith(f"aws/lambda/{place.uuid}/{shard}/2025/11/25/2025-11-25T10.11.12-")
    (row,) = place.store.discards(place.uuid)
    record = json.loads(path.read_bytes())
    assert list(record)[-1] == "payload"
    (only,) = record["payload"]["Records"]
    assert only["kinesis"]["partitionKey"] == "key 0"
    assert only["eventSourceARN"] == place.stream.arn
    assert row.delivered_ms is not None


def test_a_file_system_that_is_nearly_full_is_left_what_checkpoints_need(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the record goes there as soon as there is room."""
    free = iter([FREE_BYTES_MIN, FREE_BYTES_MIN + 100, 1 << 40])
    monkeypatch.setattr(SystemDisk, "space", lambda *_: Space(1 << 40, next(free)))
    place.discard(1, f"file:{tmp_path}/out")
    assert place.finish().left == 0
    assert "too little free space for " in place.said[0]
    (path,) = (tmp_path / "out").iterdir()
    assert json.loads(path.read_bytes())["requestContext"]["requestId"] == "request-0"


def test_a_directory_that_was_removed_in_the_middle_of_a_run_is_made_again(place: Place, tmp_path: Path) -> None:
    carrier = place.forwarder()
    for _ in range(2):
        place.discard(1, f"s3:{tmp_path}/out")
        trio.run(carrier.finish, clock=trio.testing.MockClock(autojump_threshold=0))
        assert carrier.left == 0
        shutil.rmtree(tmp_path / "out")
    assert len(place.said) == 2


def test_a_shard_id_from_elsewhere_is_no_way_out_of_the_directory(place: Place, tmp_path: Path) -> None:
    for evil in ("../../../etc", "..", "a/b"):
        assert place.given < 40
        row = discard(place.given, f"file:{tmp_path}/out")._replace(shard_id=evil)
        place.given += 1
        place.store.commit(place.uuid, place.epoch, {evil: (place.given, None)}, [row])
    place.finish()
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_bucket_gets_the_same_objects_through_fsspec(place: Place) -> None:
    fsspec = pytest.importorskip("fsspec")
    place.discard(2)
    destination = delivery.BucketDestination("memory://bucket/prefix/")
    destination.check()
    destination.open()
    rows = place.store.pending(place.uuid, "failed", 9)
    for _ in range(2):
        destination.put(Source(place.uuid, place.stream, "role"), rows)
    files = fsspec.filesystem("memory").find("/bucket")
    assert len(files) == 2
    assert all(name.startswith(f"/bucket/prefix/aws/lambda/{place.uuid}/") for name in files)
    lying = dict(destination.lying())
    assert sorted(lying) == sorted(files)
    assert all(json.loads(content)["payload"]["Records"] for content in lying.values())


# ---- refused before anything is made ----


def test_a_stream_of_changes_takes_no_on_failure_records(place: Place) -> None:
    place.data.create_stream("changes", kind=DYNAMODB)
    with pytest.raises(RefusedError, match="'changes' is of kind dynamodb"):
        refuse_destination(place.data, "changes")


def test_what_is_no_directory_is_refused_and_nothing_is_made(place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below"):
        with pytest.raises(RefusedError, match=f"{tmp_path}/file is not a directory"):
            refuse_destination(place.data, f"file:{tmp_path}/{name}")
    refuse_destination(place.data, f"s3:{tmp_path}/new/below")
    refuse_destination(place.data, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "file"]
    assert place.data.find("new") is None
