"""The mappings of a data directory and their checkpoints, in SQLite; beside them its functions (`functions`).

What it promises, whatever the callers do:

  * A checkpoint never moves back.
  * A commit is made whole or not at all, and is durable when the call returns (WAL, synchronous FULL).
  * The state of a tumbling window is that of its shard's checkpoint: neither ahead of it nor behind it.
  * Once `acquire` has returned epoch e, no commit with an older epoch is accepted (`Fenced`).

A mapping is its name; its uuid names its lock, and its stream's *id* is what its checkpoints speak of: a
stream that was deleted and imported again is another stream.
"""

from __future__ import annotations

import json
import sqlite3
import uuid as uuids
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from streamfn.clock import Clock, SystemClock
from streamfn.errors import Fenced, RefusedError
from streamfn.state import discards, managed, progress, redrives, windows
from streamfn.state.connection import connect, translated
from streamfn.state.discards import Discard, StoredDiscard
from streamfn.state.functions import Functions
from streamfn.state.managed import Managed
from streamfn.state.progress import Progress
from streamfn.types import Window

_COLUMNS = "uuid, name, stream_id, stream_name, handler, code_dir, options, epoch, created_ms, updated_ms"

# Tables that speak of a mapping's stream, and of them those that say where in it the mapping stands.
_OF_A_STREAM = ("checkpoints", "discards", "windows")
_POSITIONS = ("checkpoints", "windows")

_NO_WINDOWS: Mapping[str, Window] = {}


class StoredMapping(NamedTuple):
    """A mapping as it was bound last.  Times are milliseconds since 1970, UTC."""

    uuid: str
    name: str
    stream_id: str
    stream_name: str
    handler: str
    code_dir: str
    options: dict[str, object]
    epoch: int
    created_ms: int
    updated_ms: int

    @property
    def title(self) -> str:
        """What people call it: its name, or `HANDLER@STREAM` where that is only its UUID."""
        if self.name.startswith(redrives.HIDDEN):
            return f"redrive of {self.handler}@{self.stream_name}"
        return f"{self.handler}@{self.stream_name}" if self.name == self.uuid else self.name


Change = Callable[[StoredMapping, Managed], tuple[StoredMapping, Managed]]


class Binding(NamedTuple):
    """What `bind` did: `resumed` is False if the mapping begins at the starting offsets given."""

    mapping: StoredMapping
    resumed: bool


class Checkpoint(NamedTuple):
    """How far one shard is: every record below `offset` has a disposition.

    `sequence_number` is the last such record's, None where nobody knew it.
    """

    offset: int
    sequence_number: str | None
    updated_ms: int


class Store:
    """One connection.  Use it from one thread at a time; every call may wait for the disk.

    Any call may raise DiskFull (no room: nothing was changed, try again later), BusyError (another process
    held the database for 5 s) or FailedError (unreadable, read-only, damaged).
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, clock: Clock) -> None:
        """Private: use `open`."""
        self._connection = connection
        self._clock = clock
        self.path = path
        self.functions = Functions(connection, lambda: translated(path), self._transaction, clock)

    @classmethod
    def open(cls, path: Path, *, create: bool, read_only: bool = False, clock: Clock | None = None) -> Self:
        """Open the database at `path`; with `create` it is made if it is missing, whole or not at all.

        Raises:
            FailedError: missing (without `create`), damaged, of a newer version, or not accessible.
        """
        return cls(connect(path, create=create, read_only=read_only), path, clock or SystemClock())

    def close(self) -> None:
        """Let the database go.  Every commit is durable already."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- mappings ----

    def mapping(self, name: str) -> StoredMapping | None:
        """The mapping of this name, None if there is none."""
        with translated(self.path):
            return self._mapping(name)

    def mappings(self, *, redrives_too: bool = False) -> list[StoredMapping]:
        """All of them, by name; their redrives, which are nobody's to name, only where they are asked for."""
        with translated(self.path):
            rows = self._connection.execute(f"SELECT {_COLUMNS} FROM mappings ORDER BY name").fetchall()
        found = [_stored(row) for row in rows]
        return [one for one in found if redrives_too or not one.name.startswith(redrives.HIDDEN)]

    def bind(
        self,
        name: str,
        *,
        stream_id: str,
        stream_name: str,
        handler: str,
        code_dir: str,
        options: Mapping[str, object],
        starts: Mapping[str, int],
    ) -> Binding:
        """Make the mapping `name`, or update the one there is, in one transaction.

        The first time stores everything, with a checkpoint at `starts[shard_id]` for every shard.  Later
        `handler`, `code_dir` and `options` (JSON-able) are updated and checkpoints kept; shards without one
        get theirs from `starts`.  If a stream of the same name but another id has taken the old one's place,
        the mapping keeps its uuid and epoch and starts anew.

        It does not ask whether the mapping is running: take the lock first if `mapping(name)` exists.

        Raises:
            RefusedError: the name is bound to a stream of another name.
        """
        now_ms = self._clock.unix_ms()
        described = (handler, code_dir, json.dumps(dict(options), sort_keys=True), now_ms)
        with self._transaction():
            known = self._mapping(name)
            if known is not None and known.stream_name != stream_name:
                raise RefusedError(
                    f"mapping {name!r} reads stream {known.stream_name!r}, not {stream_name!r}: "
                    "choose another name for this one"
                )
            if known is None:
                uuid = str(uuids.uuid4())
                self._connection.execute(
                    f"INSERT INTO mappings ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
                    (uuid, name, stream_id, stream_name, *described[:3], now_ms, now_ms),
                )
            else:
                uuid = known.uuid
                if managed.select(self._connection, uuid) is not None:
                    raise RefusedError(made_text(name))
                self._connection.execute(
                    "UPDATE mappings SET stream_id = ?, handler = ?, code_dir = ?, options = ?,"
                    " updated_ms = ? WHERE uuid = ?",
                    (stream_id, *described, uuid),
                )
            self._begin(uuid, known is not None and known.stream_id != stream_id, starts, now_ms)
            bound = self._mapping(name)
        assert bound is not None
        return Binding(bound, resumed=known is not None and known.stream_id == stream_id)

    def forget(self, name: str) -> bool:
        """Remove a mapping and its checkpoints.  False if there was none.  An owner's commits fail then."""
        with self._transaction():
            known = self._mapping(name)
            return known is not None and self._remove(known.uuid)

    # ---- mappings made by `mapping create` ----

    def create(
        self,
        mapping: StoredMapping,
        wanted: Managed,
        starts: Mapping[str, int],
        check: Callable[[list[tuple[StoredMapping, Managed]]], None],
    ) -> None:
        """Make a managed mapping with its starting checkpoints, unless `check`, told the others, raises.

        Raises:
            RefusedError: there is a mapping of this name.
        """
        with self._transaction():
            check(self._all_managed())
            if self._mapping(mapping.name) is not None:
                raise RefusedError(f"there is a mapping named {mapping.name!r}: choose another name for this one")
            values = (*mapping[:6], json.dumps(mapping.options, sort_keys=True), *mapping[7:])
            self._connection.execute(
                f"INSERT INTO mappings ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values
            )
            managed.write(self._connection, mapping.uuid, wanted)
            self._begin(mapping.uuid, False, starts, mapping.created_ms)

    def managed(self, uuid: str) -> Managed | None:
        """What is wanted of a mapping; None if it was not made by `create`."""
        with translated(self.path):
            return managed.select(self._connection, uuid)

    def all_managed(self) -> list[tuple[StoredMapping, Managed]]:
        """All that were made by `create`, oldest first."""
        with translated(self.path):
            return self._all_managed()

    def find(self, text: str) -> StoredMapping | None:
        """The mapping whose UUID or name this is, or the only managed one that reads `HANDLER@STREAM`."""
        with translated(self.path):
            rows = self._connection.execute(f"SELECT {_COLUMNS} FROM mappings WHERE uuid = ?", (text,)).fetchall()
            if rows:
                return _stored(rows[0])
            named = self._mapping(text)
            if named is not None:
                return named
            alike = [one for one, _ in self._all_managed() if f"{one.handler}@{one.stream_name}" == text]
            return alike[0] if len(alike) == 1 else None

    def alter(self, uuid: str, change: Change) -> tuple[StoredMapping, Managed]:
        """Put what `change` makes of a managed mapping in its place, as its next revision.

        Handler, code directory and options are written, and what is wanted. What `change` raises changes nothing.

        Raises:
            Fenced: it was deleted, or is none that was made by `create`.
        """
        with self._transaction():
            row = self._connection.execute(f"SELECT {_COLUMNS} FROM mappings WHERE uuid = ?", (uuid,)).fetchone()
            before = managed.select(self._connection, uuid)
            if row is None or before is None:
                raise Fenced(f"mapping {uuid} was deleted")
            mapping, wanted = change(_stored(row), before)
            wanted = wanted._replace(revision=before.revision + 1, modified_ms=self._clock.unix_ms())
            self._connection.execute(
                "UPDATE mappings SET handler = ?, code_dir = ?, options = ? WHERE uuid = ?",
                (mapping.handler, mapping.code_dir, json.dumps(mapping.options, sort_keys=True), uuid),
            )
            managed.write(self._connection, uuid, wanted)
        return mapping, wanted

    def settle(self, uuid: str, revision: int, state: str) -> bool:
        """Say that a revision has come into effect; False if it is not the latest any more."""
        with self._transaction():
            return managed.settle(self._connection, uuid, revision, state, self._clock.unix_ms())

    def remove(self, uuid: str) -> bool:
        """`forget`, by UUID."""
        with self._transaction():
            return self._remove(uuid)

    def _remove(self, uuid: str) -> bool:
        redrives.drop(self._connection, uuid)
        return self._connection.execute("DELETE FROM mappings WHERE uuid = ?", (uuid,)).rowcount > 0

    def rebind(self, uuid: str, stream_id: str, starts: Mapping[str, int]) -> Binding:
        """Bind a managed mapping to its stream as it is now, its configuration untouched; see `bind`.

        Raises:
            Fenced: it was deleted.
        """
        with self._transaction():
            row = self._connection.execute(f"SELECT {_COLUMNS} FROM mappings WHERE uuid = ?", (uuid,)).fetchone()
            if row is None:
                raise Fenced(f"mapping {uuid} was deleted")
            mapping = _stored(row)
            anew = mapping.stream_id != stream_id
            self._connection.execute("UPDATE mappings SET stream_id = ? WHERE uuid = ?", (stream_id, uuid))
            self._begin(uuid, anew, starts, self._clock.unix_ms())
        return Binding(mapping._replace(stream_id=stream_id), resumed=not anew)

    def reset(self, uuid: str, offsets: Mapping[str, int]) -> None:
        """Put checkpoints elsewhere, forward or back, and drop what windows are pending in these shards.

        The caller owns the mapping. Discards stay: they happened.

        Raises:
            Fenced: it was deleted.
        """
        now_ms = self._clock.unix_ms()
        with self._transaction():
            if not self._connection.execute("SELECT 1 FROM mappings WHERE uuid = ?", (uuid,)).fetchone():
                raise Fenced(f"mapping {uuid} was deleted")
            shards = [(uuid, shard_id) for shard_id in offsets]
            for table in _POSITIONS:
                self._connection.executemany(f"DELETE FROM {table} WHERE mapping = ? AND shard_id = ?", shards)
            self._begin(uuid, False, offsets, now_ms)

    def progress(self, uuid: str) -> Progress:
        """What a mapping has done in all its runs."""
        with translated(self.path):
            return progress.select(self._connection, uuid)

    def all_progress(self) -> dict[str, Progress]:
        """The same of every mapping that has done anything, by uuid."""
        with translated(self.path):
            return progress.select_all(self._connection)

    def _all_managed(self) -> list[tuple[StoredMapping, Managed]]:
        rows = self._connection.execute(f"SELECT {_COLUMNS} FROM mappings ORDER BY created_ms, uuid").fetchall()
        found = [(one, managed.select(self._connection, one.uuid)) for one in map(_stored, rows)]
        return [(one, wanted) for one, wanted in found if wanted is not None]

    # ---- owners and checkpoints ----

    def acquire(self, uuid: str) -> int:
        """Begin a new ownership: the next epoch, durable when this returns.

        Raises:
            Fenced: the mapping was forgotten.
        """
        with self._transaction():
            row = self._connection.execute(
                "UPDATE mappings SET epoch = epoch + 1 WHERE uuid = ? RETURNING epoch", (uuid,)
            ).fetchone()
            if row is None:
                raise Fenced(f"mapping {uuid} was deleted")
            epoch: int = row[0]
        return epoch

    def checkpoints(self, uuid: str) -> dict[str, Checkpoint]:
        """How far each shard of the mapping is, by shard id."""
        with translated(self.path):
            rows = self._connection.execute(
                "SELECT shard_id, offset, sequence_number, updated_ms FROM checkpoints WHERE mapping = ?"
                " ORDER BY shard_id",
                (uuid,),
            ).fetchall()
        return {shard_id: Checkpoint(*values) for shard_id, *values in rows}

    def windows(self, uuid: str) -> dict[str, Window]:
        """Where the tumbling windows of a mapping's shards are at their checkpoints, by shard id; see `commit`."""
        with translated(self.path):
            return windows.select(self._connection, uuid)

    def discards(self, uuid: str) -> list[StoredDiscard]:
        """What was discarded for a mapping, and by its redrives, oldest first; older databases are read as well."""
        with translated(self.path):
            return discards.select(self._connection, uuid)

    def pending_destinations(self, uuid: str) -> list[str]:
        """Where discards are still to be carried to."""
        with translated(self.path):
            return discards.pending_destinations(self._connection, uuid)

    def pending(self, uuid: str, destination: str, limit: int) -> list[StoredDiscard]:
        """The first `limit` discards that are still to be carried to that destination, oldest first."""
        with translated(self.path):
            return discards.select_pending(self._connection, uuid, destination, limit)

    def pending_count(self, uuid: str) -> int:
        """How many discards are still to be carried to their destinations."""
        with translated(self.path):
            return discards.count_pending(self._connection, uuid)

    def note(self, uuid: str, epoch: int, ids: Sequence[int], position: str) -> None:
        """Write down where the destination of these discards ends, before the first copy of any of them.

        Durable when this returns.

        Raises:
            Fenced: as `commit`.
        """
        with self._transaction():
            self._check_epoch(uuid, epoch)
            discards.note(self._connection, ids, position)

    def delivered(self, uuid: str, epoch: int, ids: Sequence[int]) -> None:
        """The copies of these discards are durable in their destination; it counts how many records they speak of.

        Raises:
            Fenced: as `commit`.
        """
        with self._transaction():
            self._check_epoch(uuid, epoch)
            records = discards.deliver(self._connection, ids, self._clock.unix_ms())
            progress.add(self._connection, uuid, Progress(on_failure_delivered=records))

    def commit(
        self,
        uuid: str,
        epoch: int,
        offsets: Mapping[str, tuple[int, str | None]],
        discarded: Sequence[Discard] = (),
        moved_windows: Mapping[str, Window] = _NO_WINDOWS,
        done: Progress | None = None,
    ) -> None:
        """Move checkpoints forward to `offsets[shard_id]` = (offset, sequence number of the last record).

        One transaction, durable when this returns; `discarded`, which the new checkpoints cover, are rows of
        it, and so is where the tumbling windows of these shards are at the new checkpoints (`moved_windows`; a
        window may move where its checkpoint does not).  A shard that is further already stays where it is, and
        its window as well; one that moves without a window has none any more.
        `done` is added to what the mapping has done.

        Raises:
            Fenced: `epoch` is not the latest, or the mapping was forgotten; nothing was changed.
        """
        now_ms = self._clock.unix_ms()
        with self._transaction():
            self._check_epoch(uuid, epoch)
            self._connection.executemany(
                "INSERT INTO checkpoints (mapping, shard_id, offset, sequence_number, updated_ms)"
                " VALUES (?, ?, ?, ?, ?) ON CONFLICT (mapping, shard_id) DO UPDATE SET"
                " offset = excluded.offset, sequence_number = excluded.sequence_number,"
                " updated_ms = excluded.updated_ms WHERE excluded.offset > checkpoints.offset",
                [
                    (uuid, shard_id, offset, sequence_number, now_ms)
                    for shard_id, (offset, sequence_number) in offsets.items()
                ],
            )
            windows.move(self._connection, uuid, offsets, moved_windows)
            discards.insert(self._connection, uuid, epoch, discarded, now_ms)
            if done is not None:
                progress.add(self._connection, uuid, done)

    # ---- redrives ----

    def redrive_of(self, uuid: str) -> str | None:
        """The UUID of a mapping's redrive, which its lock and its checkpoints go by; None: there never was one."""
        with translated(self.path):
            return redrives.of(self._connection, uuid)

    def with_redrive(self, uuid: str) -> list[str]:
        """The UUIDs of a mapping and of its redrive, if there is one: each carries what it has discarded."""
        redrive = self.redrive_of(uuid)
        return [uuid] if redrive is None else [uuid, redrive]

    def open_redrive(self, uuid: str) -> StoredMapping:
        """Have a redrive of a mapping, a mapping of its own, configured as that one is now; see `redrives`.

        Raises:
            Fenced: the mapping was deleted.
        """
        with self._transaction():
            if not self._connection.execute("SELECT 1 FROM mappings WHERE uuid = ?", (uuid,)).fetchone():
                raise Fenced(f"mapping {uuid} was deleted")
            redrive = redrives.open_(self._connection, uuid, self._clock.unix_ms())
            row = self._connection.execute(f"SELECT {_COLUMNS} FROM mappings WHERE uuid = ?", (redrive,)).fetchone()
        return _stored(row)

    def adopt(self, redrive: str, epoch: int, told: Sequence[Discard]) -> None:
        """Keep discards that were told by their destination alone; they have arrived there.

        Raises:
            Fenced: as `commit`.
        """
        with self._transaction():
            self._check_epoch(redrive, epoch)
            redrives.adopt(self._connection, redrive, told, self._clock.unix_ms())

    def begin_pass(self, redrive: str, epoch: int, ids: Sequence[int], starts: Mapping[str, int]) -> None:
        """Begin a pass over these discards, its checkpoints at `starts`; none may be under way.

        Raises:
            Fenced: as `commit`.
        """
        with self._transaction():
            self._check_epoch(redrive, epoch)
            redrives.begin(self._connection, redrive, ids, starts, self._clock.unix_ms())

    def finish_pass(self, redrive: str, epoch: int) -> None:
        """The discards of the pass that is under way are redriven.

        Raises:
            Fenced: as `commit`.
        """
        with self._transaction():
            self._check_epoch(redrive, epoch)
            redrives.finish(self._connection, redrive, self._clock.unix_ms())

    # ---- plumbing ----

    def _begin(self, uuid: str, anew: bool, starts: Mapping[str, int], now_ms: int) -> None:
        """Give shards without a checkpoint theirs; `anew`: after forgetting everything about the stream before."""
        if anew:
            redrives.drop(self._connection, uuid)
            for table in _OF_A_STREAM:
                self._connection.execute(f"DELETE FROM {table} WHERE mapping = ?", (uuid,))
        self._connection.executemany(
            "INSERT OR IGNORE INTO checkpoints (mapping, shard_id, offset, updated_ms) VALUES (?, ?, ?, ?)",
            [(uuid, shard_id, offset, now_ms) for shard_id, offset in starts.items()],
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One write transaction: committed at the end, rolled back if anything is raised."""
        with translated(self.path):
            # IMMEDIATE: what is read inside is still true when it is written.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has rolled back by itself
                    self._connection.execute("ROLLBACK")
                raise

    def _check_epoch(self, uuid: str, epoch: int) -> None:
        row = self._connection.execute("SELECT epoch FROM mappings WHERE uuid = ?", (uuid,)).fetchone()
        if row is None:
            raise Fenced(f"mapping {uuid} was deleted")
        if row[0] != epoch:
            raise Fenced(f"mapping {uuid} has been taken over: epoch {row[0]}, ours is {epoch}")

    def _mapping(self, name: str) -> StoredMapping | None:
        row = self._connection.execute(f"SELECT {_COLUMNS} FROM mappings WHERE name = ?", (name,)).fetchone()
        return None if row is None else _stored(row)


def made_text(name: str) -> str:
    """Why a run with a handler does not take a managed mapping."""
    return (
        f"the mapping {name!r} was made by `mapping create`: `streamfn run` without a handler runs it, and "
        "`streamfn mapping update` changes it; choose another --name for this run"
    )


def _stored(row: tuple[str, str, str, str, str, str, str, int, int, int]) -> StoredMapping:
    return StoredMapping(*row[:6], json.loads(row[6]), *row[7:])
