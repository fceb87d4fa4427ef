"""Redrives: what was discarded for a mapping, on its way to its function once more.

A redrive is a mapping of its own, hidden behind the one whose discards it delivers: so it has a lock, an epoch,
checkpoints and discards like any other, while the mapping itself may run beside it. It goes in *passes*. A pass is a
set of discards that is settled when it begins, in the transaction that puts the redrive's checkpoints before the first
of their records; when all of it is delivered, its discards are marked as redriven. A redrive that was killed goes on
with the pass that is under way, from its checkpoints; what was discarded meanwhile is of the next one, wherever in the
stream it lies. What fails again is a discard of the redrive, and so of a later pass.

The functions take an open connection; transactions are their caller's.
"""

from __future__ import annotations

import sqlite3
import uuid as uuids
from collections.abc import Iterable, Mapping, Sequence

from streamfn.state import discards
from streamfn.state.discards import Discard

# Version 5.
REDRIVES = """
CREATE TABLE redrives (
    mapping TEXT PRIMARY KEY REFERENCES mappings (uuid) ON DELETE CASCADE,  -- whose discards they are
    redrive TEXT NOT NULL UNIQUE REFERENCES mappings (uuid) ON DELETE CASCADE -- the mapping that delivers them
) WITHOUT ROWID
"""
REDRIVEN = """
CREATE TABLE redriven (
    discard INTEGER PRIMARY KEY REFERENCES discards (id) ON DELETE CASCADE,
    done_ms INTEGER                 -- when its pass was over; NULL: that is under way
)
"""

# Names of mappings are printable: nobody can ask for this one.
HIDDEN = "\t"


def hidden_name(uuid: str) -> str:
    """Return what the redrive of a mapping is called in the table of mappings."""
    return f"{HIDDEN}redrive of {uuid}"


def of(connection: sqlite3.Connection, uuid: str) -> str | None:
    """The UUID of a mapping's redrive; None if there never was one, or the database is of an older version."""
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'redrives'").fetchone():
        return None
    row = connection.execute("SELECT redrive FROM redrives WHERE mapping = ?", (uuid,)).fetchone()
    return None if row is None else str(row[0])


def open_(connection: sqlite3.Connection, uuid: str, now_ms: int) -> str:
    """Have a redrive of a mapping, configured as that is now; returns its UUID."""
    redrive = of(connection, uuid)
    columns = "stream_id, stream_name, handler, code_dir, options"
    if redrive is None:
        redrive = str(uuids.uuid4())
        connection.execute(
            f"INSERT INTO mappings (uuid, name, {columns}, epoch, created_ms, updated_ms)"
            f" SELECT ?, ?, {columns}, 0, ?, ? FROM mappings WHERE uuid = ?",
            (redrive, hidden_name(uuid), now_ms, now_ms, uuid),
        )
        connection.execute("INSERT INTO redrives (mapping, redrive) VALUES (?, ?)", (uuid, redrive))
    else:
        connection.execute(
            f"UPDATE mappings SET ({columns}, updated_ms) ="
            f" (SELECT {columns}, ? FROM mappings WHERE uuid = ?) WHERE uuid = ?",
            (now_ms, uuid, redrive),
        )
    return redrive


def drop(connection: sqlite3.Connection, uuid: str) -> None:
    """Forget the redrive of a mapping, with its checkpoints and what failed in it."""
    connection.execute("DELETE FROM mappings WHERE uuid IN (SELECT redrive FROM redrives WHERE mapping = ?)", (uuid,))


def adopt(connection: sqlite3.Connection, redrive: str, told: Sequence[Discard], now_ms: int) -> None:
    """Keep discards that lie in their destination and were not known here, as the redrive's own.

    Each is one of an epoch below all others: in those that owners have, a range of records is discarded once.
    """
    lowest = "SELECT min(0, ifnull(min(epoch), 0)) FROM discards WHERE mapping = ?"
    (epoch,) = connection.execute(lowest, (redrive,)).fetchone()
    for below, each in enumerate(told, 1):
        discards.insert(connection, redrive, epoch - below, [each], now_ms)
    connection.execute(
        "UPDATE discards SET delivered_ms = ? WHERE mapping = ? AND epoch < ? AND delivered_ms IS NULL",
        (now_ms, redrive, epoch),
    )


def begin(
    connection: sqlite3.Connection, redrive: str, ids: Iterable[int], starts: Mapping[str, int], now_ms: int
) -> None:
    """Begin a pass over these discards, with the redrive's checkpoints at `starts`, by shard id."""
    connection.executemany("INSERT INTO redriven (discard) VALUES (?)", [(each,) for each in ids])
    for table in ("checkpoints", "windows"):
        connection.execute(f"DELETE FROM {table} WHERE mapping = ?", (redrive,))
    connection.executemany(
        "INSERT INTO checkpoints (mapping, shard_id, offset, updated_ms) VALUES (?, ?, ?, ?)",
        [(redrive, shard_id, offset, now_ms) for shard_id, offset in starts.items()],
    )


def finish(connection: sqlite3.Connection, redrive: str, now_ms: int) -> None:
    """Mark the discards of the pass that is under way as redriven."""
    owners = "SELECT mapping FROM redrives WHERE redrive = ? UNION SELECT ?"
    connection.execute(
        "UPDATE redriven SET done_ms = ? WHERE done_ms IS NULL AND discard IN"
        f" (SELECT id FROM discards WHERE mapping IN ({owners}))",
        (now_ms, redrive, redrive),
    )
