"""What is done while a system call fails: a producer, a mapping and an operator on one shard.

A producer appends and commits, a mapping delivers and checkpoints (with a discard), segments roll, are sealed,
merged, compressed and trimmed.  Each of them does what a program of its kind does when it is refused: it tries
again later, and opens the shard anew where it is told to.  What each of them was told goes to the witness, one
line of JSON each, before anything else happens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from streamfn.errors import StreamfnError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard import compact, retention
from streamfn.log.shard.chain import read_chain
from streamfn.log.shard.reader import ShardReader, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage.durability import FSYNC, OS
from streamfn.state.discards import Discard
from streamfn.state.store import Store
from streamfn.types import NewRecord

STREAM = "s"
MAPPING = "handler@s"
SEGMENT_BYTES = 8192
_ROUND = ["append", "append", "checkpoint", "append", "roll", "append", "append", "append", "checkpoint"]
OPERATIONS = [*_ROUND, "reopen", *_ROUND, *["append"] * 6, "checkpoint", "trim", "compact", "checkpoint", "append"]

# Their callers turn it into a line for people.
_MAY_RAISE_OSERROR = ("trim", "compact")


def prepare(path: Any) -> None:
    """Make the data directory that every run begins with a copy of."""
    stream = DataDir.open(path, create=True).create_stream(STREAM)
    with Store.open(DataDir(path).state_path, create=True) as store:
        store.bind(
            MAPPING,
            stream_id=stream.id,
            stream_name=STREAM,
            handler="handler",
            code_dir="/",
            options={},
            starts={stream.shards[0].id: 0},
        )


class Script:
    """One run; `site` is told, before each operation, what goes on."""

    def __init__(self, path: Any, witness: int, site: Callable[[str], None]) -> None:
        self._path = path
        self._witness = witness
        self._site = site
        self._ids = 0
        self._durability = FSYNC
        self._writer: ShardWriter | None = None
        self._reader: ShardReader | None = None
        self._store: Store | None = None
        self._data_dir: DataDir | None = None
        self._at = 0

    def run(self) -> None:
        """Do everything; what is refused is told and done again at the end."""
        for name in OPERATIONS:
            self._do(name)
        for name in ("append", "checkpoint"):  # the fault is over: both must be possible again
            for _ in range(3):
                if self._do(name):
                    break
        self._tell("end")
        if self._writer is not None:
            self._writer.close()

    def _do(self, name: str) -> bool:
        self._site(name)
        try:
            getattr(self, f"_{name}")()
        except (StreamfnError, OSError) as error:
            if isinstance(error, OSError) and name not in _MAY_RAISE_OSERROR:
                raise
            self._tell("refused", name, type(error).__name__, str(error))
            self._recover(name)
            return False
        return True

    def _recover(self, name: str) -> None:
        """A producer opens the shard again; a mapping begins again at its checkpoint."""
        if name == "checkpoint":
            for held in (self._reader, self._store):
                if held is not None:
                    held.close()
            self._reader = self._store = None
            return
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except StreamfnError as error:
                self._tell("refused", "close", type(error).__name__, str(error))

    def _tell(self, *what: Any) -> None:
        os.write(self._witness, json.dumps(what).encode() + b"\n")

    # ---- what is done

    def _shard(self) -> Any:
        if self._data_dir is None:
            self._data_dir = DataDir.open(self._path, create=True)
        return self._data_dir.stream(STREAM).shards[0]

    def _opened(self) -> ShardWriter:
        if self._writer is None:
            self._writer = ShardWriter.open(
                self._shard(), wait_s=0, segment_bytes=SEGMENT_BYTES, durability=self._durability, threaded=False
            )
        return self._writer

    def _append(self) -> None:
        ids = range(self._ids, self._ids + 1 + self._ids % 3)
        self._ids = ids.stop
        self._tell("given", ids.start, ids.stop)
        writer = self._opened()
        offsets = writer.append([record(number) for number in ids])
        writer.commit()
        self._tell("acknowledged", offsets.start, ids.start, ids.stop)

    def _roll(self) -> None:
        self._opened().roll()

    def _trim(self) -> None:
        self._opened()  # and with it the shard's lock
        shard = self._shard()
        links = retention.removable(read_chain(shard).links)[:1]
        if links:
            self._tell("trimming", links[-1].end_offset)
            retention.trim(shard, links, 0)
            self._tell("trimmed", links[-1].end_offset)

    def _compact(self) -> None:
        self._opened()
        shard = self._shard()
        compact.compact(shard, 10**15, cold_after_s=0, segment_bytes=2 * SEGMENT_BYTES)

    def _reopen(self) -> None:
        """Under a weaker durability from now on: offsets are reserved, and a killed process loses nothing either."""
        self._durability = OS
        writer = self._opened()
        self._writer = None
        writer.close()

    def _checkpoint(self) -> None:
        shard = self._shard()
        if self._store is None:
            self._store = Store.open(DataDir(self._path).state_path, create=False)
            self._mapping = self._store.mapping(MAPPING)
            self._epoch = self._store.acquire(self._mapping.uuid)
            self._at = self._store.checkpoints(self._mapping.uuid)[shard.id].offset
        if self._reader is None:
            self._reader = ShardReader.open(shard, self._at)
        start = self._at
        while (got := self._reader.poll(1 << 20)) or self._reader.gap:
            if not got:
                self._at = self._reader.skip().end_offset
            for message in got:
                for found in records(message):
                    if found.offset >= self._at:
                        self._tell("delivered", found.offset, int(found.data.split(b":")[0]))
                        self._at = found.offset + 1
        if self._at == start:
            return
        discard = Discard(shard.id, start, start + 1, "failed", "")
        self._tell("checkpointing", self._at)
        self._store.commit(self._mapping.uuid, self._epoch, {shard.id: (self._at, None)}, [discard])
        self._tell("checkpointed", start, self._at)


def record(number: int) -> NewRecord:
    """The record with that id: its content follows from it."""
    return NewRecord(b"%d:" % number + bytes([number % 256]) * (number * 97 % 500), f"key-{number % 5}")
