"""The stream that an import goes into: found, or made when the first record comes."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pyarrow as pa

from streamfn.doors.admission import Admission, Run
from streamfn.doors.grouping import Item
from streamfn.doors.loading import CapturedLoader, Loader, StreamLoader
from streamfn.doors.sources import ImportRequest
from streamfn.errors import RefusedError
from streamfn.formats.rows import BadRecord, Changes, Origin, Rows
from streamfn.log.catalog.datadir import DataDir, check_name, check_shards, require_kind
from streamfn.log.catalog.stream import DYNAMODB, KINESIS, CapturedShard, Stream, default_arn, shard_id
from streamfn.log.upkeep import reshard

SHARD_DEFAULT = shard_id(0)


def kind_of(item: Item) -> str:
    """Return the kind of stream that takes such records."""
    return DYNAMODB if isinstance(item, Changes) else KINESIS


class Target(ABC):
    """Where records go.  `already_there` counts those that were skipped because the stream has them."""

    def __init__(self, data_dir: Path, request: ImportRequest) -> None:
        """Check everything that can be checked without making anything.

        Raises:
            RefusedError: the name is not valid, or something does not fit the existing stream.
            FailedError: the data directory cannot be used, or another process writes to the stream.
        """
        check_name(request.stream)
        self._data_dir = data_dir
        self._request = request
        self.already_there = 0

    @property
    @abstractmethod
    def opened(self) -> Loader | None:
        """The loader, if the stream exists by now."""

    @abstractmethod
    def take(self, item: Item) -> int:
        """Take records, and return how many of them were skipped as bad.

        Raises:
            BadRecord: one must not be taken; those before it have been.
            RefusedError: the stream does not take such records.
            LogError, DiskFull: see loading.py.
        """

    @abstractmethod
    def finish(self, kind: str, origin: Origin) -> Loader:
        """Return the loader when everything was taken.  Of no records, a stream of that kind and origin is made."""

    def close(self) -> None:
        """Release the stream's shards."""
        if self.opened is not None:
            self.opened.close()

    def _found(self) -> Stream | None:
        if not (self._data_dir / "format").exists():
            return None
        return DataDir.open(self._data_dir, create=True).find(self._request.stream)


class RoutedTarget(Target):
    """Records go where their keys say, with new sequence numbers."""

    def __init__(self, data_dir: Path, request: ImportRequest) -> None:
        super().__init__(data_dir, request)
        if request.shards is not None:
            check_shards(request.shards)
        self._loader: StreamLoader | None = None
        stream = self._found()
        if stream is None:
            return
        if request.shards is not None and len(stream.open_shards) != request.shards:
            raise RefusedError(
                f"stream {stream.name!r} has {len(stream.open_shards)} open shards, not {request.shards}"
            )
        self._loader = StreamLoader(stream, request.durability)

    @property
    def opened(self) -> StreamLoader | None:
        """The loader, if the stream exists by now."""
        return self._loader

    def take(self, item: Item) -> int:
        """Take records; see `Target`."""
        loader = self._made(kind_of(item))
        require_kind(loader.stream, kind_of(item))
        loader.add(item)
        return 0

    def finish(self, kind: str, origin: Origin) -> Loader:
        """Return the loader; see `Target`."""
        return self._loader or self._made(kind)

    def _made(self, kind: str) -> StreamLoader:
        if self._loader is None:
            data, request = DataDir.open(self._data_dir, create=True), self._request
            if kind == KINESIS and request.stream_arn is None:
                stream = data.open_or_create_stream(request.stream, request.shards)
            else:
                stream = data.create_stream(request.stream, request.shards or 1, arn=request.stream_arn, kind=kind)
            self._loader = StreamLoader(stream, request.durability)
        return self._loader


class CapturedTarget(Target):
    """Captured records go into the shards they come from, and keep their sequence numbers."""

    def __init__(self, data_dir: Path, request: ImportRequest) -> None:
        super().__init__(data_dir, request)
        if request.shards is not None:
            raise RefusedError(
                "captured records keep their shards: --shards goes with --new-sequence-numbers or --deaggregate"
            )
        self._doors: dict[str, Admission] = {}
        self._to_close: set[str] = set()
        stream = self._found()
        self._loader = None if stream is None else CapturedLoader(stream, request.durability)

    @property
    def opened(self) -> CapturedLoader | None:
        """The loader, if the stream exists by now."""
        return self._loader

    def take(self, item: Item) -> int:
        """Take records; see `Target`."""
        origin = item.origin or Origin()
        named = self._request.shard_id or origin.shard_id or SHARD_DEFAULT
        origin = origin._replace(shard_id=named)
        door = self._door(item, origin)
        assert self._loader is not None
        size = len(item.changes) if isinstance(item, Changes) else len(item.data)
        before = item.last_line - size
        bad = 0
        for run in door.admit(_numbers(item)):
            if run.fell:
                if not self._request.skip_bad:
                    raise BadRecord(before + run.stop, run.fell)
                bad += 1
            elif run.new and not self._loader.writes(named):
                raise BadRecord(before + run.start + 1, f"shard {named} is closed: nothing is appended to it")
            elif run.new:
                self._loader.add(_part(item, run, before, origin))
            else:
                self.already_there += run.stop - run.start
        return bad

    def finish(self, kind: str, origin: Origin) -> Loader:
        """Return the loader; see `Target`."""
        if self._loader is None:
            known = origin.shards[0].id if origin.shards else SHARD_DEFAULT
            self._make(kind, origin._replace(shard_id=self._request.shard_id or origin.shard_id or known))
        assert self._loader is not None
        self._loader.flush()
        for shard in sorted(self._to_close):
            self._loader.let_go(shard)
            data = DataDir.open(self._data_dir, create=True)
            self._loader.stream = reshard.close_shard(data, self._loader.stream, shard)
        return self._loader

    def _door(self, item: Item, origin: Origin) -> Admission:
        """Return the door of the shard that records come from, made if it is not there."""
        assert origin.shard_id is not None
        known = self._doors.get(origin.shard_id)
        if known is not None and self._loader is not None:
            self._check_arn(self._loader.stream, origin)
            return known
        if self._loader is None:
            self._make(kind_of(item), origin)
        assert self._loader is not None
        stream = self._loader.stream
        require_kind(stream, kind_of(item))
        self._check_arn(stream, origin)
        if stream.shard(origin.shard_id) is None:
            data = DataDir.open(self._data_dir, create=True)
            stream = data.add_captured_shards(stream, _captured(origin))
        shard = stream.shard(origin.shard_id)
        assert shard is not None
        if shard.open:
            self._loader.use(stream, shard)
        if any(known.id == shard.id and known.closed for known in origin.shards):
            self._to_close.add(shard.id)
        door = self._doors[shard.id] = Admission(stream, shard, self._loader.flush)
        return door

    def _make(self, kind: str, origin: Origin) -> None:
        data, name = DataDir.open(self._data_dir, create=True), self._request.stream
        arn = self._request.stream_arn or origin.arn or default_arn(name, kind, time.time_ns() // 1_000_000)
        stream = data.create_captured_stream(name, arn, kind, _captured(origin))
        self._loader = CapturedLoader(stream, self._request.durability)

    def _check_arn(self, stream: Stream, origin: Origin) -> None:
        arn = self._request.stream_arn or origin.arn
        if arn is not None and arn != stream.arn:
            raise RefusedError(f"these records are of {arn}, and stream {stream.name!r} is {stream.arn}")


def _captured(origin: Origin) -> list[CapturedShard]:
    """Return the shards that an origin speaks of: all that its file knows, and its own."""
    assert origin.shard_id is not None
    known = [CapturedShard(s.id, s.start_hash, s.end_hash, s.parents) for s in origin.shards]
    if any(shard.id == origin.shard_id for shard in known):
        return known
    return [*known, CapturedShard(origin.shard_id)]


def _numbers(item: Item) -> pa.Array:
    if isinstance(item, Changes):
        return pa.array([change.sequence_number for change in item.changes], pa.string())
    numbers = item.numbers
    return numbers if isinstance(numbers, pa.Array) else pa.array(numbers, pa.string())


def _part(item: Item, run: Run, before: int, origin: Origin) -> Item:
    """Return some of an item's records."""
    last_line = before + run.stop
    if isinstance(item, Changes):
        return Changes(item.changes[run.start : run.stop], last_line, 0, origin)

    def part(column: Any) -> Any:
        return None if column is None else column[run.start : run.stop]

    data, keys, arrivals = part(item.data), part(item.keys), part(item.arrivals)
    numbers, sources, subsources = part(item.numbers), part(item.sources), part(item.subsources)
    return Rows(data, keys, arrivals, last_line, 0, numbers, sources, subsources, origin)
