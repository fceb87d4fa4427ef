"""What a mapping has done in all its runs: its event counts and how its last batch went.

Both are written in the transaction of the checkpoint that follows. A crash may take the counts of the last 50 ms with
it, as it does their checkpoints; the records are delivered, and counted, again.

The functions take an open connection; transactions are their caller's.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

TABLE = """
CREATE TABLE progress (
    mapping TEXT PRIMARY KEY REFERENCES mappings (uuid) ON DELETE CASCADE,
    last_result TEXT NOT NULL,      -- LastProcessingResult; empty: nothing was processed
    polled INTEGER NOT NULL,        -- and Lambda's other event counts
    filtered_out INTEGER NOT NULL,
    invoked INTEGER NOT NULL,
    failed_invoke INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    on_failure_delivered INTEGER NOT NULL
) WITHOUT ROWID
"""


class Progress(NamedTuple):
    """Lambda's event counts, and `LastProcessingResult` (empty: nothing was processed)."""

    last_result: str = ""
    polled: int = 0
    filtered_out: int = 0
    invoked: int = 0
    failed_invoke: int = 0
    dropped: int = 0
    on_failure_delivered: int = 0

    def counts(self) -> dict[str, int]:
        """The counts under the names of Lambda's metrics."""
        return {
            "PolledEventCount": self.polled,
            "FilteredOutEventCount": self.filtered_out,
            "InvokedEventCount": self.invoked,
            "FailedInvokeEventCount": self.failed_invoke,
            "DroppedEventCount": self.dropped,
            "OnFailureDestinationDeliveredEventCount": self.on_failure_delivered,
        }


def _is_there(connection: sqlite3.Connection) -> bool:
    """Whether the database is not of a version that counted nothing."""
    return bool(connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'progress'").fetchone())


def select_all(connection: sqlite3.Connection) -> dict[str, Progress]:
    """What every mapping has done, by uuid; without those that have done nothing yet."""
    if not _is_there(connection):
        return {}
    rows = connection.execute(f"SELECT mapping, {', '.join(Progress._fields)} FROM progress").fetchall()
    return {uuid: Progress(*counts) for uuid, *counts in rows}


def select(connection: sqlite3.Connection, uuid: str) -> Progress:
    """What the mapping has done; nothing in a database of an older version."""
    if not _is_there(connection):
        return Progress()
    row = connection.execute(
        f"SELECT {', '.join(Progress._fields)} FROM progress WHERE mapping = ?", (uuid,)
    ).fetchone()
    return Progress() if row is None else Progress(*row)


def add(connection: sqlite3.Connection, uuid: str, more: Progress) -> None:
    """Add counts; a last result takes the place of the one before."""
    names = Progress._fields
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in names[1:])
    connection.execute(
        f"INSERT INTO progress (mapping, {', '.join(names)}) VALUES (?, {', '.join('?' * len(names))})"
        " ON CONFLICT (mapping) DO UPDATE SET"
        f" last_result = CASE excluded.last_result WHEN '' THEN last_result ELSE excluded.last_result END, {sums}",
        (uuid, *more),
    )
