"""The data directory: its format, and the streams in it.

    DIR/format                    {"streamfn": 2}; 1 is read, and becomes 2 when it is opened for writing
    DIR/state.db, DIR/locks/      the state store's; only their paths are known here
    DIR/streams/lock              held while a stream is made, changed or deleted
    DIR/streams/<16 hex>/         one stream: stream.json and a directory for each shard

A stream is built in a directory whose name begins with a dot, synced, and renamed into place; deleting
renames it away first.  So a stream is there whole or not at all, and what a crash left is swept up by the
next one who makes or deletes a stream.  A stream that gets more shards has their directories made first and
then its description replaced, by one rename; directories of shards that no description names are swept up
likewise.  Names of streams and ids of shards are data in stream.json, never part of a path.
"""

from __future__ import annotations

import difflib
import itertools
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from streamfn import limits
from streamfn.errors import FailedError, RefusedError
from streamfn.log.catalog import description
from streamfn.log.catalog.stream import (
    KINDS,
    KINESIS,
    CapturedShard,
    Shard,
    Stream,
    captured_shards,
    default_arn,
    uniform_shards,
)
from streamfn.log.storage import commit
from streamfn.log.storage.disk import SYSTEM_DISK, Disk, read_file, write_file, write_synced
from streamfn.log.storage.lock import FileLock, locked

FORMAT_VERSION = 2
_ID = re.compile(r"[0-9a-f]{16}")
_SHARD_DIRECTORY = re.compile(r"shardId-[0-9]{12,}")


class DataDir:
    """An open data directory, and the disk it lies on.  It holds nothing open; any number of processes may have one."""

    def __init__(self, path: Path, disk: Disk = SYSTEM_DISK) -> None:
        self.path = path
        self.disk = disk
        self.state_path = path / "state.db"
        self.locks_path = path / "locks"
        self._streams_path = path / "streams"
        self._seen_at: dict[str, str] = {}  # by name, the id of the stream that had it when it was looked at

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, create: bool, disk: Disk = SYSTEM_DISK) -> DataDir:
        """Open a data directory; with `create` it is made where there is none, and brought to our format.

        Raises:
            RefusedError: there is none, or the directory is something else.
            FailedError: it is of a newer format, or cannot be read or (with `create`) written.
        """
        data_dir = cls(Path(path).absolute(), disk)
        try:
            if create and not (data_dir.path / "format").exists():
                data_dir._create()
            data_dir._check_format()
        except OSError as error:
            raise FailedError(
                f"cannot use data directory {path} as uid {os.geteuid()}: {error.strerror}"
            ) from error
        if create:
            data_dir.require_writable()
            try:
                data_dir._upgrade()
            except OSError as error:
                raise FailedError(f"cannot write {data_dir.path / 'format'}: {error.strerror}") from error
        return data_dir

    @property
    def writable(self) -> bool:
        """Whether this process may make and change files here."""
        return os.access(self.path, os.W_OK | os.X_OK) and os.access(self._streams_path, os.W_OK | os.X_OK)

    def require_writable(self) -> None:
        """Raise FailedError, naming path and uid, unless `writable`."""
        if not self.writable:
            raise FailedError(f"data directory {self.path} is not writable for uid {os.geteuid()}")

    def streams(self) -> list[Stream]:
        """Return the streams, by name."""
        found = []
        for stream_id in self.stream_ids():
            try:
                found.append(self._described(self._streams_path / stream_id))
            except FileNotFoundError:
                continue  # deleted since we listed it
        return sorted(found, key=lambda stream: stream.name)

    def stream_ids(self) -> list[str]:
        """Return the ids of the streams, in no order; their descriptions are not looked at."""
        try:
            return [name for name in self.disk.list_directory(self._streams_path) if _ID.fullmatch(name)]
        except OSError as error:
            raise FailedError(f"cannot list {self._streams_path}: {error.strerror}") from error

    def _listed(self) -> Iterator[str]:
        """The same, listed when the first one is wanted."""
        yield from self.stream_ids()

    def stream_directory(self, stream_id: str) -> Path:
        """Return where the stream with an id lies, if there is one."""
        return self._streams_path / stream_id

    def _described(self, directory: Path) -> Stream:
        try:
            return description.read(directory, self.disk)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise FailedError(f"cannot read {directory / description.FILE}: {error.strerror}") from error

    def find(self, name: str) -> Stream | None:
        """Return the stream of that name, None if there is none; another one that is damaged does not matter.

        Raises:
            FailedError: no stream is known to have the name, and a damaged description may have said it.
        """
        damage: FailedError | None = None
        seen_at = self._seen_at.get(name)
        for stream_id in itertools.chain([seen_at] if seen_at else [], self._listed()):
            try:
                stream = self._described(self._streams_path / stream_id)
            except FileNotFoundError:
                continue  # deleted since it was seen, or listed
            except FailedError as error:
                damage = error
                continue
            self._seen_at[stream.name] = stream_id
            if stream.name == name:
                return stream
        if damage is not None:
            raise damage
        return None

    def stream(self, name: str) -> Stream:
        """Return the stream of that name.

        Raises:
            RefusedError: there is none; the text lists those with a similar name, or all.
            FailedError: as `find`.
        """
        check_name(name)
        found = self.find(name)
        if found is not None:
            return found
        streams = {stream.name: stream for stream in self.streams()}
        close = difflib.get_close_matches(name, streams, n=3)
        if close:
            hint = f"did you mean {' or '.join(close)}?"
        elif streams:
            hint = "there is " + ", ".join(list(streams)[:10]) + (", ..." if len(streams) > 10 else "")
        else:
            hint = "there is none yet"
        raise RefusedError(f"unknown stream {name!r} in {self.path}: {hint}")

    def stream_by_id(self, stream_id: str) -> Stream:
        """Return the stream of that id as it is now: what somebody has read before may have been resharded.

        Raises:
            RefusedError: there is none any more.
            FailedError: its description cannot be read.
        """
        try:
            return self._described(self._streams_path / stream_id)
        except FileNotFoundError:
            raise RefusedError(f"the stream with id {stream_id} in {self.path} was deleted") from None

    def create_stream(
        self, name: str, shards: int = 1, *, arn: str | None = None, kind: str = KINESIS
    ) -> Stream:
        """Make a stream with `shards` shards of equal hash ranges; `kind` is what its records are.

        Raises:
            RefusedError: the name breaks the rule or is taken, or the number of shards is out of range.
            FailedError: it cannot be written.
        """
        check_shards(shards)
        return self._make(
            name, arn, kind, lambda directory, now_ms: uniform_shards(directory, shards, now_ms, kind, self.disk)
        )

    def create_captured_stream(
        self, name: str, arn: str, kind: str, shards: Iterable[CapturedShard]
    ) -> Stream:
        """Make a stream that keeps the ARN and the shards of the one that it is captured from.

        Parents come before their children, or may be unknown, where the source has none of their records left.

        Raises:
            RefusedError: the name breaks the rule or is taken, or a shard comes twice.
            FailedError: it cannot be written.
        """
        wanted = list(shards)
        if len({shard.id for shard in wanted}) < len(wanted):
            raise RefusedError(f"stream {name!r} was given a shard twice: {', '.join(s.id for s in wanted)}")
        return self._make(
            name, arn, kind, lambda directory, now_ms: captured_shards(directory, 0, wanted, now_ms, kind, self.disk)
        )

    def add_captured_shards(self, stream: Stream, shards: Iterable[CapturedShard]) -> Stream:
        """Add shards that the source got since, and return the stream as it is then.

        Those it has already are left as they are, so that this may be repeated after a crash.

        Raises:
            RefusedError: the stream was deleted.
            FailedError: it cannot be written.
        """
        wanted = {shard.id: shard for shard in shards}

        def added(now: Stream) -> Stream:
            new = [shard for shard in wanted.values() if now.shard(shard.id) is None]
            now_ms = time.time_ns() // 1_000_000
            made = captured_shards(now.directory, len(now.shards), new, now_ms, now.kind, self.disk)
            return now.with_shards((*now.shards, *made))

        return self.change_stream(stream.id, added)

    def change_stream(self, stream_id: str, change: Callable[[Stream], Stream]) -> Stream:
        """Put what `change` makes of a stream in its place: whole, durably, or not at all.

        `change` is called with the stream as it is now, while nobody else can change it; it may add shards and
        close them, never remove one.  What it raises leaves everything as it was.

        Raises:
            RefusedError: the stream was deleted.
            FailedError: it cannot be written.
        """
        self.require_writable()
        try:
            with self._locked():
                before = self.stream_by_id(stream_id)
                after = change(before)
                self._upgrade()
                self._sweep_shards(before)
                new = after.shards[len(before.shards) :]
                make_shard_directories(after, after.directory, new)
                if new:
                    self.disk.sync_directory(after.directory)  # a description must not outlive what it names
                description.replace(after)
                return after
        except OSError as error:
            raise FailedError(f"cannot change stream {stream_id} in {self.path}: {error.strerror}") from error

    def _make(
        self, name: str, arn: str | None, kind: str, shards: Callable[[Path, int], tuple[Shard, ...]]
    ) -> Stream:
        check_name(name)
        if kind not in KINDS:
            raise RefusedError(f"a stream is of kind {' or '.join(KINDS)}, not {kind!r}")
        self.require_writable()
        try:
            with self._locked():
                if self.find(name) is not None:
                    raise RefusedError(f"stream {name!r} exists already in {self.path}")
                self._sweep()
                self._upgrade()
                now_ms = time.time_ns() // 1_000_000
                directory = self._streams_path / secrets.token_hex(8)
                made = Stream(
                    directory,
                    name,
                    arn or default_arn(name, kind, now_ms),
                    now_ms,
                    shards(directory, now_ms),
                    kind=kind,
                    disk=self.disk,
                )
                self._build(made)
                return made
        except OSError as error:
            raise FailedError(f"cannot create stream {name!r} in {self.path}: {error.strerror}") from error

    def open_or_create_stream(
        self, name: str, shards: int | None = None, *, arn: str | None = None, kind: str = KINESIS
    ) -> Stream:
        """Return the stream of that name, made with `shards` shards (None: one) where there is none.

        Raises:
            RefusedError: as `create_stream`, or it exists with another number of shards, or is of another kind.
            FailedError: it cannot be written.
        """
        check_name(name)
        if shards is not None:
            check_shards(shards)
        for attempt in (1, 2):
            existing = self.find(name)
            if existing is not None:
                require_kind(existing, kind)
                if shards is not None and shards != len(existing.open_shards):
                    raise RefusedError(
                        f"stream {name!r} has {len(existing.open_shards)} open shards, not {shards}"
                    )
                return existing
            try:
                return self.create_stream(name, shards or 1, arn=arn, kind=kind)
            except RefusedError:
                if attempt == 2:  # the first time, another process may just have made it
                    raise
        raise AssertionError("unreachable")

    def delete_stream(self, name: str) -> None:
        """Delete a stream with all its records.  The caller has made sure that no mapping runs on it.

        Raises:
            RefusedError: there is no such stream.
            BusyError: a process is appending to one of its shards; the text names its pid.
            FailedError: it cannot be removed.
        """
        self.require_writable()
        try:
            with self._locked(), ExitStack() as held:
                found = self.stream(name)
                for shard in found.shards:
                    if not shard.directory.is_dir():
                        continue  # nobody can be at work in what is gone
                    lock = FileLock(shard.directory / "lock", self.disk)
                    lock.acquire(f"shard {shard.id} of stream {name!r}", 0)
                    held.callback(lock.release)
                self.disk.rename(found.directory, self._streams_path / f".deleted-{found.id}")
                self.disk.sync_directory(self._streams_path)
                self._sweep()
        except OSError as error:
            raise FailedError(f"cannot delete stream {name!r} in {self.path}: {error.strerror}") from error

    def _create(self) -> None:
        if self.path.exists() and any(entry.name != "streams" for entry in self.path.iterdir()):
            raise RefusedError(f"{self.path} is not a streamfn data directory, and it is not empty")
        self._streams_path.mkdir(parents=True, exist_ok=True)
        self._write_format()

    def _write_format(self) -> None:
        temporary = self._streams_path / f".format-{os.getpid()}"
        content = json.dumps({"streamfn": FORMAT_VERSION}) + "\n"
        write_synced(self.disk, temporary, content.encode())
        self.disk.rename(temporary, self.path / "format")
        self.disk.sync_directory(self.path)

    def _upgrade(self) -> None:
        """Say that what is written from now on is for streamfns that know this format."""
        if self._check_format() < FORMAT_VERSION:
            self._write_format()

    def _check_format(self) -> int:
        path = self.path / "format"
        try:
            version = json.loads(read_file(self.disk, path))["streamfn"]
        except (FileNotFoundError, NotADirectoryError):
            raise RefusedError(f"there is no streamfn data directory at {self.path}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise FailedError(
                f"{path} is damaged; it should read {json.dumps({'streamfn': FORMAT_VERSION})}"
            ) from error
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise FailedError(
                f"data directory {self.path} has format {version}, newer than the {FORMAT_VERSION} that this "
                "streamfn reads: upgrade streamfn, or use another directory (--data-dir)"
            )
        return version

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self._streams_path / "lock", f"data directory {self.path}", disk=self.disk)

    def _build(self, made: Stream) -> None:
        disk = self.disk
        temporary = self._streams_path / f".new-{made.id}"
        disk.make_directory(temporary)
        make_shard_directories(made, temporary, made.shards)
        write_synced(disk, temporary / description.FILE, description.encode(made).encode())
        disk.sync_directory(temporary)
        disk.rename(temporary, made.directory)
        disk.sync_directory(self._streams_path)

    def _sweep_shards(self, stream: Stream) -> None:
        """Remove the directories of shards that were being made when a process died; the lock is held."""
        known = {shard.directory.name for shard in stream.shards}
        for name in self.disk.list_directory(stream.directory):
            if _SHARD_DIRECTORY.fullmatch(name) and name not in known:
                shutil.rmtree(stream.directory / name)

    def _sweep(self) -> None:
        """Remove what was being made or deleted when a process died; the lock is held."""
        for entry in self._streams_path.iterdir():
            if entry.name.startswith((".new-", ".deleted-")):
                shutil.rmtree(entry)


def make_shard_directories(stream: Stream, directory: Path, shards: Sequence[Shard]) -> None:
    """Make the directories of shards that have no records yet, in `directory`; durable but for their own names.

    What is in the files may be lost: a lock says nothing, and a commit file is found out from the log.
    """
    disk = stream.disk
    for shard in shards:
        place = directory / shard.directory.name
        disk.make_directory(place)
        write_file(disk, place / "lock", b"")
        empty = commit.Commit(disk.boot_id(), 0, 0, 0, 0, shard.sequence_base, 0)
        write_file(disk, place / "commit", commit.encode(empty))
    for shard in shards:  # the first sync takes with it most of what the others wait for
        disk.sync_directory(directory / shard.directory.name)


def require_kind(stream: Stream, kind: str) -> None:
    """Raise RefusedError unless a stream takes records of that kind."""
    if stream.kind != kind:
        given = "records" if kind == KINESIS else "DynamoDB change records"
        wanted = "DynamoDB change records (put-change)" if kind == KINESIS else "records (put)"
        raise RefusedError(f"stream {stream.name!r} is of kind {stream.kind}: it takes {wanted}, not {given}")


def check_name(name: str) -> None:
    """Raise RefusedError, with the rule, unless `name` may name a stream."""
    if not re.fullmatch(limits.STREAM_NAME_PATTERN, name):
        raise RefusedError(f"stream name {name!r} is not valid: it must match {limits.STREAM_NAME_PATTERN}")


def check_shards(shards: int) -> None:
    """Raise RefusedError unless a stream may have so many shards."""
    if not 1 <= shards <= limits.SHARDS_MAX:
        raise RefusedError(f"a stream has 1 to {limits.SHARDS_MAX} shards, not {shards}")
