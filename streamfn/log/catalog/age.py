"""How old a segment is, by two clocks, so that no jump of one of them throws records away.

A wall clock can jump: a wrong battery clock, a time server's mistake.  The machine's monotonic clock cannot, but it
begins anew with each boot.  So a shard has a clock of its own, which adds up the monotonic time of all boots it has
seen: it says how long the shard has lived while a machine was running.  Each sealed segment carries the time of its
last append by both clocks, and it is old enough for retention only if both say so.  A machine that is switched off
keeps its records longer for it; a clock that is wrong by a year removes none.

The clock's state is one small file, written once a boot, when a time by it is first wanted.  Who stops appending to a
shard whose stream has a retention by age leaves a note in it, by when everything that is there had been appended: or
the next process, which seals that, would have to take it for new.
"""

from __future__ import annotations

import json
import threading
import zlib
from typing import NamedTuple

from streamfn.clock import Clock
from streamfn.log.catalog.stream import Shard
from streamfn.log.storage.disk import read_file, replace

FILE_NAME = "age.json"


class Moment(NamedTuple):
    """A moment by both clocks: wall-clock milliseconds since 1970, UTC, and milliseconds that the shard has lived."""

    wall_ms: int
    lived_ms: int


class _Stored(NamedTuple):
    """What the file says: at `monotonic_ms` in the boot `boot_id` the shard had lived `lived_ms`.

    Everything below `noted_offset` had been appended when it had lived `noted_ms`.
    """

    boot_id: str
    monotonic_ms: int
    lived_ms: int
    noted_offset: int = 0
    noted_ms: int = 0


class ShardClock:
    """The two clocks of one shard, for the process that holds its lock.  Thread-safe; may wait for the disk."""

    def __init__(self, shard: Shard, clock: Clock) -> None:
        self._shard = shard
        self._clock = clock
        self._lock = threading.Lock()
        self._stored: _Stored | None = None

    def of(self, shard: Shard) -> ShardClock:
        """Return the clocks of another shard, by the same machine's."""
        return ShardClock(shard, self._clock)

    def now(self, *, at_least_ms: int = 0) -> Moment:
        """Return this moment; the shard has lived `at_least_ms` by what else is known.

        Raises:
            OSError: the file cannot be read or written.
        """
        return self.at(self._clock.unix_ms(), self._clock.monotonic_ns(), at_least_ms=at_least_ms)

    def at(self, wall_ms: int, monotonic_ns: int, *, at_least_ms: int = 0) -> Moment:
        """Return an earlier moment of this process, by what its clocks said then; see `now`."""
        with self._lock:
            monotonic_ms = monotonic_ns // 1_000_000
            stored = self._stored or self._begin(monotonic_ms)
            lived_ms = stored.lived_ms + max(0, monotonic_ms - stored.monotonic_ms)
            if lived_ms < at_least_ms:
                stored = stored._replace(monotonic_ms=monotonic_ms, lived_ms=at_least_ms)
                _write(self._shard, stored)
                lived_ms = at_least_ms
            self._stored = stored
            return Moment(wall_ms, lived_ms)

    def note(self, end_offset: int, wall_ms: int, monotonic_ns: int) -> None:
        """Note, durably, that everything below an offset had been appended at a moment of this process; see `at`."""
        lived_ms = self.at(wall_ms, monotonic_ns).lived_ms
        with self._lock:
            assert self._stored is not None, "read by `at`"
            self._stored = self._stored._replace(noted_offset=end_offset, noted_ms=lived_ms)
            _write(self._shard, self._stored)

    def appended_by(self, end_offset: int) -> int | None:
        """Return how long the shard had lived, at most, when what lies below an offset was appended.

        None where nobody noted it.  Raises OSError as `now`.
        """
        self.now()
        with self._lock:
            stored = self._stored
            return stored.noted_ms if stored is not None and end_offset <= stored.noted_offset else None

    def _begin(self, monotonic_ms: int) -> _Stored:
        """Return what the file says, brought up to this boot."""
        boot_id = self._shard.disk.boot_id()
        stored = _read(self._shard)
        if stored is not None and stored.boot_id == boot_id:
            return stored
        # So long it had lived before this boot; since then a machine has been running for as long as the boot has.
        before = stored or _Stored("", 0, 0)
        stored = before._replace(boot_id=boot_id, monotonic_ms=monotonic_ms, lived_ms=before.lived_ms + monotonic_ms)
        _write(self._shard, stored)
        return stored


def _read(shard: Shard) -> _Stored | None:
    try:
        described = json.loads(read_file(shard.disk, shard.directory / FILE_NAME))
        numbers = [int(described[name]) for name in _Stored._fields[1:]]
        stored = _Stored(str(described["boot_id"]), *numbers)
        return stored if described["crc32"] == _checksum(stored) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # it then begins anew, behind what the segments say: records are kept longer, never shorter


def _write(shard: Shard, stored: _Stored) -> None:
    described = {**stored._asdict(), "crc32": _checksum(stored)}
    replace(shard.disk, shard.directory / FILE_NAME, (json.dumps(described) + "\n").encode())


def _checksum(stored: _Stored) -> int:
    return zlib.crc32(repr(tuple(stored)).encode())
