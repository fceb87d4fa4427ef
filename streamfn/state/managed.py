"""Mappings that are things of their own: made by `mapping create`, changed by requests, run by whoever runs them all.

A row beside the mapping's says what is wanted of it and what was asked for last. `revision` counts the requests:
whoever has brought one into effect settles the state only if no later one has come in between.

The functions take an open connection; transactions are their caller's.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

TABLE = """
CREATE TABLE managed (
    mapping TEXT PRIMARY KEY REFERENCES mappings (uuid) ON DELETE CASCADE,
    enabled INTEGER NOT NULL,       -- whether it is to run
    state TEXT NOT NULL,            -- in Lambda's words; on the way to where `enabled` says
    reason TEXT NOT NULL,           -- StateTransitionReason
    revision INTEGER NOT NULL,      -- of the configuration
    modified_ms INTEGER NOT NULL
) WITHOUT ROWID
"""

_COLUMNS = "enabled, state, reason, revision, modified_ms"


class Managed(NamedTuple):
    """What is wanted of a mapping. `modified_ms` is milliseconds since 1970, UTC."""

    enabled: bool
    state: str
    reason: str
    revision: int
    modified_ms: int


def select(connection: sqlite3.Connection, uuid: str) -> Managed | None:
    """What is wanted of the mapping; None if it is none of these, as are all in a database of an older version."""
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'managed'").fetchone():
        return None
    row = connection.execute(f"SELECT {_COLUMNS} FROM managed WHERE mapping = ?", (uuid,)).fetchone()
    return None if row is None else Managed(bool(row[0]), *row[1:])


def write(connection: sqlite3.Connection, uuid: str, managed: Managed) -> None:
    """Put this in the place of what was there."""
    connection.execute(
        f"INSERT OR REPLACE INTO managed (mapping, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", (uuid, *managed)
    )


def settle(connection: sqlite3.Connection, uuid: str, revision: int, state: str, now_ms: int) -> bool:
    """Say that a revision has come into effect; False, and nothing is changed, if it is not the latest."""
    cursor = connection.execute(
        "UPDATE managed SET state = ?, modified_ms = ? WHERE mapping = ? AND revision = ?",
        (state, now_ms, uuid, revision),
    )
    return cursor.rowcount > 0
