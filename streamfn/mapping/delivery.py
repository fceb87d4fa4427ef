"""Where on-failure records go, and how one gets there exactly once.

A destination can do three things with some discards of a mapping, oldest first:

    position    say where it ends now: written down with the discards before the first copy of any of them
    find        say which of them lie behind such a position: asked where a copy may have been made, and nobody knows
    put         copy them: durable when it returns, whole or not at all each, in order

A stream's records carry no id of ours, because their data is Lambda's record and nothing else. But that record is the
same for every copy and different for every discard (request id, shard, sequence numbers), so it *is* the id. For
directories the name of the file is: it is made of the mapping's and the discard's ids, so a second copy takes the place
of the first.

Everything here waits for the disk; one call at a time.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from streamfn.errors import DiskFull, FailedError, RefusedError, ShardClosed
from streamfn.events.failure_record import encode, failure_record, object_key
from streamfn.log.catalog.datadir import require_kind
from streamfn.log.catalog.stream import KINESIS
from streamfn.log.shard.reader import horizon
from streamfn.log.storage.disk import SYSTEM_DISK, Disk, floor_bytes, write_synced
from streamfn.mapping.destinations import BUCKET, FILES, OBJECTS
from streamfn.mapping.position import committed_end
from streamfn.mapping.resolving import event_of, records_of
from streamfn.types import NewRecord, Record

if TYPE_CHECKING:
    from streamfn.log.catalog.datadir import DataDir
    from streamfn.log.catalog.stream import Stream
    from streamfn.state.discards import Discard, StoredDiscard

# How long a writer of the destination that serves nobody is waited for, before it is tried again later.
WAIT_S = 0.5


class Source(NamedTuple):
    """Whose discards they are."""

    mapping_uuid: str
    stream: Stream
    role_arn: str

    def record(self, discard: Discard, *, payload: bool = False) -> bytes:
        """Return Lambda's on-failure record as the bytes that are carried, with the event where it is asked for."""
        failure = discard.failure
        assert failure is not None
        event = None
        if payload:
            event = event_of(self.stream, discard.shard_id, records_of(self.stream, discard), self.role_arn)
        record = failure_record(
            failure,
            condition=discard.reason,
            kind=self.stream.kind,
            stream_arn=self.stream.arn,
            shard_id=discard.shard_id,
            payload=event,
        )
        return encode(record)

    def object_id(self, stored: StoredDiscard) -> str:
        """Return the UUID of the discard: the same one every time."""
        return str(uuid.uuid5(uuid.UUID(self.mapping_uuid), str(stored.id)))


class Destination(Protocol):
    """See the module. Any call may raise FailedError, and may then be made again later."""

    def check(self) -> None:
        """Refuse, with RefusedError, what cannot take on-failure records; makes nothing."""

    def open(self) -> None:
        """Make it, where there is none yet."""

    def position(self) -> str:
        """Return where it ends now, as text; empty where a second copy would do no harm."""

    def find(self, source: Source, discards: Sequence[StoredDiscard]) -> set[int]:
        """Return the ids of those whose copy is there, behind the position that each has noted."""

    def put(self, source: Source, discards: Sequence[StoredDiscard]) -> None:
        """Copy them, in order; durable when this returns."""

    def lying(self) -> Iterator[tuple[str, bytes]]:
        """Everything that lies there, of whomever: what it is called, and its bytes. Refuses what is not there."""


class StreamDestination:
    """A stream of the data directory. The partition key of a record is the id of the shard it speaks of."""

    def __init__(self, data: DataDir, name: str) -> None:
        """`name` is the stream's; it is made with one shard where there is none."""
        self._data = data
        self._name = name

    def check(self) -> None:
        """See `Destination`."""
        existing = self._data.find(self._name)
        if existing is not None:
            require_kind(existing, KINESIS)

    def open(self) -> None:
        """See `Destination`."""
        self._stream()

    def position(self) -> str:
        """The stream's id, and the end of each of its shards."""
        stream = self._stream()
        return json.dumps({"stream": stream.id, "shards": {shard.id: committed_end(shard) for shard in stream.shards}})

    def find(self, source: Source, discards: Sequence[StoredDiscard]) -> set[int]:
        """See `Destination`; shards that the stream has got since are looked through from their beginning."""
        stream = self._stream()
        wanted: dict[tuple[str, bytes], int] = {}
        starts: dict[str, int] = {}
        for stored in discards:
            noted = json.loads(stored.noted or "{}")
            if noted.get("stream") != stream.id:
                continue  # noted of one that was deleted, and its copy with it
            wanted[stored.discard.shard_id, source.record(stored.discard)] = stored.id
            for shard in stream.shards:
                start = noted["shards"].get(shard.id, 0)
                starts[shard.id] = min(start, starts.get(shard.id, start))
        if not wanted:
            return set()
        # Here and below: what puts into logs is a third of all the modules a run would load, and most never need it.
        from streamfn.log.shard.cursor import ShardCursor
        from streamfn.log.shard.writer import ShardWriter

        found = set()
        for shard in stream.shards:
            with suppress(ShardClosed):
                # Whoever held this lock is done with what a dead process has sent it: nothing comes late.
                ShardWriter.open(shard, wait_s=WAIT_S).close()
            end = committed_end(shard)
            with ShardCursor(shard, min(starts[shard.id], end), end) as cursor:
                for row in cursor:
                    if isinstance(row, Record) and (row.partition_key, row.data) in wanted:
                        found.add(wanted[row.partition_key, row.data])
        return found

    def put(self, source: Source, discards: Sequence[StoredDiscard]) -> None:
        """See `Destination`."""
        from streamfn.log.producer.producer import Producer

        records = [NewRecord(source.record(each.discard), each.discard.shard_id) for each in discards]
        with Producer(self._stream(), wait_s=WAIT_S) as producer:
            producer.submit(records).result()

    def lying(self) -> Iterator[tuple[str, bytes]]:
        """See `Destination`."""
        from streamfn.log.shard.cursor import ShardCursor

        stream = self._data.stream(self._name)
        require_kind(stream, KINESIS)
        for shard in stream.shards:
            with ShardCursor(shard, horizon(shard), committed_end(shard)) as cursor:
                for row in cursor:
                    assert isinstance(row, Record)
                    yield f"the record at offset {row.offset} of {shard.id} in {self._name}", row.data

    def _stream(self) -> Stream:
        return self._data.open_or_create_stream(self._name)


class FileDestination:
    """A directory with a file for each record; with `objects` they lie as in an S3 bucket, and have the event."""

    def __init__(self, directory: Path, *, objects: bool, disk: Disk = SYSTEM_DISK) -> None:
        """The directory is made where there is none."""
        self._directory = directory
        self._objects = objects
        self._disk = disk
        self._made: set[Path] = set()

    def check(self) -> None:
        """See `Destination`."""
        there = next(path for path in (self._directory, *self._directory.parents) if os.path.lexists(path))
        if not there.is_dir():
            raise RefusedError(f"on-failure destination {self._directory} is not valid: {there} is not a directory")
        if not os.access(there, os.W_OK | os.X_OK):
            why = f"{there} is not writable for uid {os.geteuid()}"
            raise RefusedError(f"on-failure destination {self._directory} is not valid: {why}")

    def open(self) -> None:
        """See `Destination`."""
        try:
            self._make(self._directory)
        except OSError as error:
            why = f"{error.strerror}, as uid {os.geteuid()}"
            raise FailedError(f"cannot make the on-failure destination {self._directory}: {why}") from error

    def position(self) -> str:
        """Nothing to write down: a second copy takes the first one's place."""
        return ""

    def find(self, source: Source, discards: Sequence[StoredDiscard]) -> set[int]:
        """See `Destination`: nothing is ever noted."""
        return set()

    def put(self, source: Source, discards: Sequence[StoredDiscard]) -> None:
        """See `Destination`."""
        named: set[Path] = set()
        for each in discards:
            path = self._directory / file_path(source, each, objects=self._objects)
            try:
                self._make(path.parent)
                self._write(path, source.record(each.discard, payload=self._objects))
            except OSError as error:
                self._made.clear()  # somebody may have removed one
                raise FailedError(f"cannot write {path}: {error.strerror}") from error
            named.add(path.parent)
        for directory in sorted(named):
            try:
                self._disk.sync_directory(directory)
            except OSError as error:
                raise FailedError(f"cannot sync {directory}: {error.strerror}") from error

    def lying(self) -> Iterator[tuple[str, bytes]]:
        """See `Destination`."""
        if not self._directory.is_dir():
            raise RefusedError(f"there is no directory {self._directory} to read on-failure records from")
        try:
            for path in sorted(self._directory.rglob("*")):
                if path.is_file() and not path.name.startswith("."):
                    yield str(path), path.read_bytes()
        except OSError as error:
            raise FailedError(f"cannot read {error.filename or self._directory}: {error.strerror}") from error

    def _write(self, path: Path, content: bytes) -> None:
        """Write a file whole; its name is durable when its directory is synced."""
        directory = self._disk.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            space = self._disk.space(directory)
        finally:
            self._disk.close(directory)
        if space.free < floor_bytes(space) + len(content):
            raise DiskFull(f"too little free space for {path}")
        draft = path.with_name(f".{path.name}.tmp")
        write_synced(self._disk, draft, content)
        self._disk.rename(draft, path)

    def _make(self, directory: Path) -> None:
        """See that a directory and those above it are there, and durable by name."""
        if directory in self._made:
            return
        if directory != self._directory:
            self._make(directory.parent)
        elif not directory.parent.is_dir():
            directory.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            self._disk.make_directory(directory)
        self._disk.sync_directory(directory.parent)
        self._made.add(directory)


class BucketDestination:
    """A real bucket, or a prefix in it, through fsspec. An object is there whole or not at all."""

    def __init__(self, url: str) -> None:
        """`url` is `s3://BUCKET` or `s3://BUCKET/PREFIX`; credentials are found as the SDK finds them."""
        self._url = url.rstrip("/")
        self._files: Any = None

    def check(self) -> None:
        """See `Destination`."""
        try:
            import fsspec

            self._files, _ = fsspec.core.url_to_fs(self._url)
        except ImportError as error:
            raise RefusedError(
                f"on-failure destination {self._url} needs fsspec and s3fs: pip install 'streamfn[s3]' ({error})"
            ) from None

    def open(self) -> None:
        """See `Destination`: a bucket is never made."""
        self.check()

    def position(self) -> str:
        """Nothing to write down: a second copy takes the first one's place."""
        return ""

    def find(self, source: Source, discards: Sequence[StoredDiscard]) -> set[int]:
        """See `Destination`: nothing is ever noted."""
        return set()

    def put(self, source: Source, discards: Sequence[StoredDiscard]) -> None:
        """See `Destination`."""
        for each in discards:
            url = f"{self._url}/{file_path(source, each, objects=True)}"
            try:
                self._files.pipe_file(url, source.record(each.discard, payload=True))
            except Exception as error:  # fsspec's implementations share no class of errors
                raise FailedError(f"cannot write {url}: {type(error).__name__}: {error}") from error


    def lying(self) -> Iterator[tuple[str, bytes]]:
        """See `Destination`."""
        self.check()
        try:
            for name in self._files.find(self._url):
                yield name, self._files.cat_file(name)
        except Exception as error:  # see `put`
            raise FailedError(f"cannot read {self._url}: {type(error).__name__}: {error}") from error


def file_path(source: Source, stored: StoredDiscard, *, objects: bool) -> str:
    """Return where in its directory or bucket a discard's record lies: the same every time."""
    discard, failure = stored.discard, stored.discard.failure
    assert failure is not None
    # Shard ids are their source's to give, and no part of a path is.
    shard_id = re.sub(r"[^A-Za-z0-9_.-]", "_", discard.shard_id)
    shard_id = "_" if not shard_id.strip(".") else shard_id
    object_id = source.object_id(stored)
    key = object_key(source.mapping_uuid, shard_id, failure.time_ms, object_id)
    if objects:
        return key
    time = key.rpartition("/")[2].removesuffix(f"-{object_id}")
    return f"{time}-{shard_id}-{object_id}.json"


def refuse_destination(data: DataDir, text: str) -> None:
    """Refuse, with RefusedError, a destination (as a resolved text) that cannot take on-failure records."""
    destination_of(data, text).check()


def destination_of(data: DataDir, text: str) -> Destination:
    """Return the destination that a resolved text names; nothing is made before `open`."""
    if text.startswith(BUCKET):
        return BucketDestination(text)
    for kind in (FILES, OBJECTS):
        if text.startswith(kind):
            return FileDestination(Path(text.removeprefix(kind)), objects=kind == OBJECTS)
    return StreamDestination(data, text)
