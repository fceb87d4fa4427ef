"""What is done while a system call fails: batches are discarded, and carried to their on-failure destinations.

Each of the three kinds of destination gets some. Who discards does what a mapping does when a commit is refused: it
begins anew from its checkpoint. Who carries is the forwarder itself, its calls made where they are, one after the
other, so that the number of a call means the same in every run. What each of them was told goes to the witness.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
import trio.testing

from streamfn.errors import StreamfnError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.writer import ShardWriter
from streamfn.mapping.delivery import Source
from streamfn.mapping.forwarder import Forwarder
from streamfn.state.discards import Discard
from streamfn.state.store import Store
from streamfn.types import Failure, NewRecord

STREAM, FAILED = "s", "failed"
MAPPING = "handler@s"
SHARD = "shardId-000000000000"
TIME_MS = 1_764_065_472_345
RECORDS = 40
DIRECTORIES = ("file", "s3")
_ROUND = ["discard", "discard", "carry"]
OPERATIONS = [(name, kind) for kind in (FAILED, *DIRECTORIES) for name in (*_ROUND, *_ROUND)]


def prepare(path: Any) -> None:
    """Make the data directory that every run begins with a copy of."""
    stream = DataDir.open(path, create=True).create_stream(STREAM)
    with ShardWriter.open(stream.shards[0], threaded=False) as writer:
        writer.append([NewRecord(b"%d" % number, "key", TIME_MS) for number in range(RECORDS)])
        writer.commit()
    with Store.open(DataDir(path).state_path, create=True) as store:
        store.bind(
            MAPPING,
            stream_id=stream.id,
            stream_name=STREAM,
            handler="handler",
            code_dir="/",
            options={},
            starts={SHARD: 0},
        )


class Carrier:
    """A process' part of a mapping: its store and its epoch; `carry` is one forwarder's work from end to end."""

    def __init__(self, path: Path) -> None:
        """Take the mapping over."""
        self.data = DataDir.open(path, create=True)
        self.store = Store.open(self.data.state_path, create=False)
        mapping = self.store.mapping(MAPPING)
        assert mapping is not None
        self.uuid = mapping.uuid
        self.epoch = self.store.acquire(self.uuid)
        self.at = self.store.checkpoints(self.uuid)[SHARD].offset

    def fenced(self, error: Exception) -> None:
        raise error

    def carry(self) -> int:
        """Carry what is pending; returns how many rows are left."""
        trio.to_thread.run_sync = _at_once  # type: ignore[assignment]
        source = Source(self.uuid, self.data.stream(STREAM), "role")
        forwarder = Forwarder(self, self.data, self.store, _at_once, source, lambda text: None)
        trio.run(forwarder.finish, clock=trio.testing.MockClock(autojump_threshold=0))
        return forwarder.left


async def _at_once(function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return function(*arguments)


class Script:
    """One run; `site` is told, before each operation, what goes on."""

    def __init__(self, path: Any, witness: int, site: Callable[[str], None]) -> None:
        self._path = Path(path)
        self._witness = witness
        self._site = site
        self._carrier: Carrier | None = None

    def run(self) -> None:
        """Do everything; what is refused is told and done again at the end."""
        for name, kind in OPERATIONS:
            self._do(name, kind)
        for _ in range(3):  # the fault is over: everything must be possible again
            if self._do("carry", ""):
                break
        self._tell("end")

    def _do(self, name: str, kind: str) -> bool:
        self._site(name)
        try:
            if self._carrier is None:
                self._carrier = Carrier(self._path)
            if name == "carry":
                left = self._carrier.carry()
                self._tell("carried", left)
                return left == 0
            self._discard(self._carrier, kind)
        except StreamfnError as error:
            self._tell("refused", name, type(error).__name__, str(error))
            if self._carrier is not None:
                self._carrier.store.close()
            self._carrier = None
            return False
        return True

    def _discard(self, carrier: Carrier, kind: str) -> None:
        """Two batches at once, of one record and of two."""
        destination = f"{kind}:{self._path}/{kind}" if kind in DIRECTORIES else kind
        first = carrier.at
        rows = [_row(first, first + 1, destination), _row(first + 1, first + 3, destination)]
        self._tell("discarding", *[row.first_offset for row in rows])
        carrier.store.commit(carrier.uuid, carrier.epoch, {SHARD: (first + 3, None)}, rows)
        carrier.at = first + 3
        self._tell("discarded", *[row.first_offset for row in rows])

    def _tell(self, *what: Any) -> None:
        os.write(self._witness, json.dumps(what).encode() + b"\n")


def _row(first: int, end: int, destination: str) -> Discard:
    failure = Failure(
        attempts=3,
        request_id=f"request-{first}",
        function_arn="arn:function",
        function_error="Unhandled",
        records=end - first,
        first_sequence_number=str(first),
        last_sequence_number=str(end - 1),
        first_arrival_ms=TIME_MS,
        last_arrival_ms=TIME_MS,
        time_ms=TIME_MS + first,
        destination=destination,
    )
    return Discard(SHARD, first, end, "RetryAttemptsExhausted", "", failure)
