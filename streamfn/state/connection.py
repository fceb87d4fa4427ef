"""Open the state database: create it whole, check it, and turn SQLite's errors into ours.

A new database is built under another name and linked into place when it is complete and synced, so nobody
ever sees half of one, and two processes that start together do not race for the switch to WAL.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from streamfn.errors import BusyError, DiskFull, FailedError, StreamfnError
from streamfn.state import functions, managed, progress
from streamfn.state.discards import DISCARDS, DISCARDS_2, PENDING, UPGRADE_2
from streamfn.state.redrives import REDRIVEN, REDRIVES
from streamfn.state.windows import WINDOWS

FORMAT_VERSION = 5

# How long a writer waits for another one.  Commits take milliseconds; one that takes this long is stuck.
BUSY_TIMEOUT_S = 5.0

_SCHEMA = f"""
BEGIN;
CREATE TABLE format (version INTEGER NOT NULL);
INSERT INTO format VALUES ({FORMAT_VERSION});
CREATE TABLE mappings (
    uuid TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    stream_id TEXT NOT NULL,
    stream_name TEXT NOT NULL,
    handler TEXT NOT NULL,
    code_dir TEXT NOT NULL,
    options TEXT NOT NULL,          -- JSON
    epoch INTEGER NOT NULL,         -- of the latest owner; an older one may not commit
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE checkpoints (
    mapping TEXT NOT NULL REFERENCES mappings (uuid) ON DELETE CASCADE,
    shard_id TEXT NOT NULL,
    offset INTEGER NOT NULL,        -- every record below it has a disposition
    sequence_number TEXT,           -- of the last record below it, if that was known
    updated_ms INTEGER NOT NULL,
    PRIMARY KEY (mapping, shard_id)
) WITHOUT ROWID;
{DISCARDS};
{PENDING};
{WINDOWS};
{managed.TABLE};
{progress.TABLE};
{functions.FUNCTIONS};
{functions.VERSIONS};
{REDRIVES};
{REDRIVEN};
COMMIT;
"""

# What makes a database of version N one of version N + 1, statement by statement.
_UPGRADES: dict[int, tuple[str, ...]] = {
    1: (DISCARDS_2,),
    2: (*UPGRADE_2, WINDOWS, managed.TABLE, progress.TABLE),
    3: (functions.FUNCTIONS, functions.VERSIONS),
    4: (REDRIVES, REDRIVEN),
}


def connect(path: Path, *, create: bool, read_only: bool) -> sqlite3.Connection:
    """Open the database at `path`, in autocommit mode, checked and of a version we know.

    With `read_only` nothing is written, not even beside it, where the directory does not allow it.

    Raises:
        FailedError: it is missing, damaged, of a newer version, or cannot be opened.
        DiskFull, BusyError: see `translated`.
    """
    with translated(path):
        if not path.exists():
            if not create:
                raise FailedError(f"there is no state database at {path}")
            _create(path)
        connection = _open_read_only(path) if read_only else _open(f"{path.absolute().as_uri()}?mode=rw")
    try:
        with translated(path):
            version = _check(connection, path)
            if not read_only:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA foreign_keys = ON")
                if version < FORMAT_VERSION:
                    _upgrade(connection)
    except StreamfnError:
        connection.close()
        raise
    return connection


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise what SQLite says as one line about `path`.

    DiskFull when there is no room (try again later), BusyError when another process held the database for
    BUSY_TIMEOUT_S, else FailedError with the way out.
    """
    try:
        yield
    except sqlite3.ProgrammingError:  # our bug, not the database's state
        raise
    except sqlite3.DatabaseError as error:
        # The low byte is the primary code; before the file is known to be a database there may be none.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise DiskFull(f"no space left for the state database {path}") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise BusyError(f"another process keeps the state database {path} locked") from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise _damaged(path, str(error)) from error
        raise FailedError(f"cannot use the state database {path} as uid {os.getuid()}: {error}") from error
    except OSError as error:
        reason = f"cannot use the state database {path} as uid {os.getuid()}: {error.strerror}"
        raise FailedError(reason) from error


def _damaged(path: Path, reason: str) -> FailedError:
    return FailedError(
        f"the state database {path} is damaged ({reason}): restore it, or move it and its -wal file away; "
        "mappings then start anew from their starting positions (the streams are not affected)"
    )


def _create(path: Path) -> None:
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # freed on close; the loser finds the winner's file
        if path.exists():
            return
        draft = path.with_name(path.name + ".new")
        for leftover in (draft, draft.with_name(draft.name + "-wal"), draft.with_name(draft.name + "-shm")):
            leftover.unlink(missing_ok=True)
        with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
        # Closing the last connection has moved everything out of the WAL and synced it.
        os.rename(draft, path)
        os.fsync(directory)
    finally:
        os.close(directory)


def _open(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # opening reads nothing yet
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _open_read_only(path: Path) -> sqlite3.Connection:
    uri = path.absolute().as_uri()
    try:
        return _open(f"{uri}?mode=ro")
    except sqlite3.OperationalError:
        # In WAL mode even a reader needs the -shm file beside it.  Where it can be neither opened nor made,
        # nobody can be writing either; without a WAL the file is then complete as it stands.
        wal = path.with_name(path.name + "-wal")
        if os.access(path.parent, os.W_OK) or (wal.exists() and wal.stat().st_size):
            raise
        return _open(f"{uri}?immutable=1")


def _check(connection: sqlite3.Connection, path: Path) -> int:
    """Return the format version of a database that is whole and known."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _damaged(path, str(verdict).splitlines()[-1])
    try:
        version: int = connection.execute("SELECT version FROM format").fetchone()[0]
    except (sqlite3.OperationalError, TypeError) as error:
        raise _damaged(path, "it is not a state database of streamfn") from error
    if version > FORMAT_VERSION:
        raise FailedError(
            f"the state database {path} has format version {version}, and this streamfn knows up to "
            f"{FORMAT_VERSION}: use the streamfn that wrote it, or a newer one"
        )
    return version


def _upgrade(connection: sqlite3.Connection) -> None:
    """Bring an older database up to date, whole or not at all; two processes that start together do it once."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("SELECT version FROM format").fetchone()
        for step in range(version, FORMAT_VERSION):
            for statement in _UPGRADES[step]:
                connection.execute(statement)
        connection.execute("UPDATE format SET version = ?", (FORMAT_VERSION,))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
