"""Where the tumbling windows of a mapping's shards are: rows that hold exactly at their shard's checkpoint.

A state says what has become of the records below the checkpoint, and of no other. So a row is written in the
transaction that moves the checkpoint, only where the checkpoint then is, and a checkpoint that moves without one takes
the row away: what is read is never ahead of its checkpoint, nor behind it.

The functions take an open connection; transactions are their caller's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from streamfn.state.discards import Position
from streamfn.types import Window

# Version 3 of the state database.
WINDOWS = """
CREATE TABLE windows (
    mapping TEXT NOT NULL REFERENCES mappings (uuid) ON DELETE CASCADE,
    shard_id TEXT NOT NULL,
    offset INTEGER NOT NULL,        -- of the checkpoint that it goes with
    start_ms INTEGER NOT NULL,      -- the window's bounds, milliseconds since 1970
    end_ms INTEGER NOT NULL,
    state BLOB,                     -- JSON, as it was returned; NULL: this window is closed, and none is open
    PRIMARY KEY (mapping, shard_id)
)
"""


def move(
    connection: sqlite3.Connection, uuid: str, positions: Mapping[str, Position], windows: Mapping[str, Window]
) -> None:
    """The checkpoints have been moved to `positions`, those that were not further already; these are their windows."""
    connection.executemany(
        "DELETE FROM windows WHERE mapping = ? AND shard_id = ? AND offset < ?",
        [(uuid, shard_id, offset) for shard_id, (offset, _) in positions.items() if shard_id not in windows],
    )
    connection.executemany(
        "INSERT INTO windows (mapping, shard_id, offset, start_ms, end_ms, state)"
        " SELECT mapping, shard_id, offset, ?, ?, ? FROM checkpoints"
        " WHERE mapping = ? AND shard_id = ? AND offset = ?"
        " ON CONFLICT (mapping, shard_id) DO UPDATE SET offset = excluded.offset,"
        " start_ms = excluded.start_ms, end_ms = excluded.end_ms, state = excluded.state",
        [
            (*window, uuid, shard_id, positions[shard_id][0])
            for shard_id, window in windows.items()
            if shard_id in positions
        ],
    )


def select(connection: sqlite3.Connection, uuid: str) -> dict[str, Window]:
    """Return what is kept for a mapping, by shard; nothing in a database of an older version."""
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'windows'").fetchone():
        return {}
    rows = connection.execute(
        "SELECT shard_id, start_ms, end_ms, state FROM windows JOIN checkpoints USING (mapping, shard_id, offset)"
        " WHERE mapping = ? ORDER BY shard_id",
        (uuid,),
    ).fetchall()
    return {shard_id: Window(*values) for shard_id, *values in rows}
