"""What a mapping discarded: rows that are written in the transaction of the checkpoint that passes them.

A row says which records no invocation will see any more, and why. One that a function has failed on, or that was never
handed over because of its age or size, also says all that Lambda's on-failure record tells of it, so that the record
can be written however long after: when the run that discarded it has crashed, or the records have been trimmed. Such a
row names its destination, and keeps how far its way there is: a forwarder notes where the destination ends before it
copies for the first time, and marks the row when the copy is durable.

The functions take an open connection; transactions are their caller's.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from streamfn.types import Failure

# What a commit is told of a shard: offset, and the sequence number of the last record below it, where it is known.
Position = tuple[int, str | None]


class Discard(NamedTuple):
    """Records of one shard, `first_offset` .. `end_offset` (exclusive), that no invocation will see any more.

    `reason`: `trimmed` (retention took them first), `lost` (a crash under a weaker durability took them) or
    `damaged` (salvaged over); or, with `failure`, the condition of Lambda's on-failure record:
    `RetryAttemptsExhausted`, `RecordAgeExceeded`, or ours, `RecordTooLarge`.  `detail` is a line for people.
    """

    shard_id: str
    first_offset: int
    end_offset: int
    reason: str
    detail: str
    failure: Failure | None = None


class StoredDiscard(NamedTuple):
    """A discard as it is kept. `noted` is the forwarder's own; `delivered_ms` None until the copy is durable.

    `redriven_ms` says when it was redriven, None until it is; `redriving` that the pass it is of is under way.
    """

    id: int
    discard: Discard
    created_ms: int
    noted: str | None
    delivered_ms: int | None
    redriven_ms: int | None = None
    redriving: bool = False

    @property
    def pending(self) -> bool:
        """Whether it is still to be carried to its destination."""
        failure = self.discard.failure
        return failure is not None and bool(failure.destination) and self.delivered_ms is None


# Version 2 of the state database.
DISCARDS_2 = """
CREATE TABLE discards (
    id INTEGER PRIMARY KEY,
    mapping TEXT NOT NULL REFERENCES mappings (uuid) ON DELETE CASCADE,
    shard_id TEXT NOT NULL,
    first_offset INTEGER NOT NULL,
    end_offset INTEGER NOT NULL,    -- the records first_offset .. end_offset (exclusive)
    reason TEXT NOT NULL,           -- why they have no other disposition
    detail TEXT NOT NULL,           -- for people: where, and what is known of it
    created_ms INTEGER NOT NULL,
    UNIQUE (mapping, shard_id, first_offset)
)
"""

# Version 3.  Within an epoch a record is disposed of once; after its checkpoint was set back, once more.
DISCARDS = """
CREATE TABLE discards (
    id INTEGER PRIMARY KEY,
    mapping TEXT NOT NULL REFERENCES mappings (uuid) ON DELETE CASCADE,
    epoch INTEGER NOT NULL,         -- of the owner that discarded them
    shard_id TEXT NOT NULL,
    first_offset INTEGER NOT NULL,
    end_offset INTEGER NOT NULL,    -- the records first_offset .. end_offset (exclusive)
    reason TEXT NOT NULL,           -- why they have no other disposition
    detail TEXT NOT NULL,           -- for people: where, and what is known of it
    created_ms INTEGER NOT NULL,
    -- what an on-failure record tells of them; NULL where none is written
    attempts INTEGER,
    request_id TEXT,
    function_arn TEXT,
    function_error TEXT,
    records INTEGER,
    first_sequence_number TEXT,
    last_sequence_number TEXT,
    first_arrival_ms INTEGER,
    last_arrival_ms INTEGER,
    time_ms INTEGER,
    offsets BLOB,                   -- theirs, u32 each from first_offset on; NULL: all of the range
    -- the way to the destination
    destination TEXT NOT NULL DEFAULT '',
    noted TEXT,                     -- where the destination ended before the first copy
    delivered_ms INTEGER,
    UNIQUE (mapping, epoch, shard_id, first_offset, end_offset)  -- a window's call has no records
)
"""
PENDING = """
CREATE INDEX pending_discards ON discards (mapping, id) WHERE destination != '' AND delivered_ms IS NULL
"""

UPGRADE_2 = (
    "ALTER TABLE discards RENAME TO discards_2",
    DISCARDS,
    PENDING,
    "INSERT INTO discards (id, mapping, epoch, shard_id, first_offset, end_offset, reason, detail, created_ms)"
    " SELECT id, mapping, 0, shard_id, first_offset, end_offset, reason, detail, created_ms FROM discards_2",
    "DROP TABLE discards_2",
)

_RANGE = "shard_id, first_offset, end_offset, reason, detail"
_FAILURE = (
    "attempts, request_id, function_arn, function_error, records, first_sequence_number, last_sequence_number,"
    " first_arrival_ms, last_arrival_ms, time_ms, offsets, destination"
)
_INSERT = (
    f"INSERT OR IGNORE INTO discards (mapping, epoch, created_ms, {_RANGE}, {_FAILURE})"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_NO_FAILURE = (*[None] * 11, "")


def insert(connection: sqlite3.Connection, uuid: str, epoch: int, discards: Iterable[Discard], now_ms: int) -> None:
    """Keep them.  A commit whose outcome nobody learned may come again: each row is there once."""
    connection.executemany(_INSERT, [(uuid, epoch, now_ms, *each[:5], *_failure_values(each)) for each in discards])


def _failure_values(discard: Discard) -> tuple[object, ...]:
    failure = discard.failure
    if failure is None:
        return _NO_FAILURE
    packed = None
    if failure.offsets is not None:
        rows = [offset - discard.first_offset for offset in failure.offsets]
        packed = struct.pack(f"<{len(rows)}I", *rows)
    return (*failure[:10], packed, failure.destination)


def select(connection: sqlite3.Connection, uuid: str) -> list[StoredDiscard]:
    """What was discarded for a mapping, and by its redrives, oldest first; older databases are read as well."""
    (version,) = connection.execute("SELECT version FROM format").fetchone()
    if version == 1:
        return []
    if version == 2:
        rows = connection.execute(
            f"SELECT id, created_ms, {_RANGE} FROM discards WHERE mapping = ? ORDER BY id", (uuid,)
        )
        return [StoredDiscard(row[0], Discard(*row[2:]), row[1], None, None) for row in rows]
    if version < 5:
        return _stored(connection, "mapping = ? ORDER BY id", (uuid,))
    marks = {}
    family = "mapping IN (SELECT ? UNION SELECT redrive FROM redrives WHERE mapping = ?)"
    for discard, done_ms in connection.execute(
        f"SELECT discard, done_ms FROM redriven JOIN discards ON id = discard WHERE {family}", (uuid, uuid)
    ):
        marks[discard] = {"redriven_ms": done_ms, "redriving": done_ms is None}
    found = _stored(connection, f"{family} ORDER BY id", (uuid, uuid))
    return [each._replace(**marks[each.id]) if each.id in marks else each for each in found]


def pending_destinations(connection: sqlite3.Connection, uuid: str) -> list[str]:
    """Where discards are still to be carried to."""
    where = "mapping = ? AND destination != '' AND delivered_ms IS NULL"
    rows = connection.execute(f"SELECT DISTINCT destination FROM discards WHERE {where} ORDER BY 1", (uuid,))
    return [destination for (destination,) in rows]


def select_pending(connection: sqlite3.Connection, uuid: str, destination: str, limit: int) -> list[StoredDiscard]:
    """The first `limit` that are still to be carried to that destination, oldest first."""
    where = "mapping = ? AND destination = ? AND destination != '' AND delivered_ms IS NULL ORDER BY id LIMIT ?"
    return _stored(connection, where, (uuid, destination, limit))


def count_pending(connection: sqlite3.Connection, uuid: str) -> int:
    """How many are still to be carried to their destinations."""
    where = "mapping = ? AND destination != '' AND delivered_ms IS NULL"
    count: int = connection.execute(f"SELECT count(*) FROM discards WHERE {where}", (uuid,)).fetchone()[0]
    return count


def _stored(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> list[StoredDiscard]:
    columns = f"id, created_ms, noted, delivered_ms, {_RANGE}, {_FAILURE}"
    found = []
    for row in connection.execute(f"SELECT {columns} FROM discards WHERE {where}", values):
        identity, created_ms, noted, delivered_ms = row[:4]
        failure = None
        if row[9] is not None:
            packed = row[19]
            offsets = None
            if packed is not None:
                offsets = tuple(row[5] + each for each in struct.unpack(f"<{len(packed) // 4}I", packed))
            failure = Failure._make((*row[9:19], offsets, row[20]))
        discard = Discard._make((*row[4:9], failure))
        found.append(StoredDiscard(identity, discard, created_ms, noted, delivered_ms))
    return found


def note(connection: sqlite3.Connection, ids: Iterable[int], position: str) -> None:
    """Write down where the destination ends."""
    connection.executemany("UPDATE discards SET noted = ? WHERE id = ?", [(position, each) for each in ids])


def deliver(connection: sqlite3.Connection, ids: Iterable[int], now_ms: int) -> int:
    """Their copies are durable.  Returns how many records they speak of that were not marked so before."""
    records = 0
    for each in ids:
        where = "id = ? AND delivered_ms IS NULL RETURNING records"
        for (count,) in connection.execute(f"UPDATE discards SET delivered_ms = ? WHERE {where}", (now_ms, each)):
            records += count
    return records


def covered(
    positions: Mapping[str, Position], discards: Sequence[Discard]
) -> tuple[dict[str, Position], list[Discard], list[Discard]]:
    """Return the checkpoints that may be committed of `positions`, the discards that go with them, and the rest.

    A discard is committed with the checkpoint that passes all of its records. Where records of other lanes lie among
    them, a shard's position may be in their middle: the checkpoint then stays in front of them all, or a crash would
    either lose the row or deliver again what has one.
    """
    may = dict(positions)
    moved = True
    while moved:  # a checkpoint that is held back may fall into the middle of another discard
        moved = False
        for each in discards:
            if each.shard_id in may and each.first_offset < may[each.shard_id][0] < each.end_offset:
                may[each.shard_id] = (each.first_offset, None)
                moved = True
    due: list[Discard] = []
    rest: list[Discard] = []
    for each in discards:
        passed = each.shard_id in may and each.end_offset <= may[each.shard_id][0]
        (due if passed else rest).append(each)
    return may, due, rest
