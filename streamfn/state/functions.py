"""The functions that are stored under a name, and the versions they have had.

A version is what a function was when somebody looked: its code, by its digest, and its configuration. It gets a number
when either has changed. The code itself is not kept: it is the user's directory.
"""

from __future__ import annotations

import json
import sqlite3
import uuid as uuids
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from streamfn.clock import Clock

FUNCTIONS = """
CREATE TABLE functions (
    name TEXT PRIMARY KEY,
    configuration TEXT NOT NULL,    -- JSON, under Lambda's names
    revision TEXT NOT NULL,         -- a new one with every change
    modified_ms INTEGER NOT NULL
) WITHOUT ROWID
"""
VERSIONS = """
CREATE TABLE function_versions (
    function TEXT NOT NULL REFERENCES functions (name) ON DELETE CASCADE,
    version INTEGER NOT NULL,       -- from 1
    digest TEXT NOT NULL,           -- of the code: base64 of SHA-256
    code_bytes INTEGER NOT NULL,
    configuration TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (function, version)
) WITHOUT ROWID
"""


class Code(NamedTuple):
    """What a function's code is known by: base64 of a SHA-256, and how many bytes went into it."""

    digest: str
    size: int


class StoredFunction(NamedTuple):
    """A function as it is. `modified_ms` is milliseconds since 1970, UTC."""

    name: str
    configuration: dict[str, Any]
    revision: str
    modified_ms: int


class FunctionVersion(NamedTuple):
    """A function as it was once; see the module."""

    number: int
    code: Code
    configuration: dict[str, Any]
    created_ms: int


class Functions:
    """A store's functions; made by it. What may be raised by every call: see `Store`."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        reading: Callable[[], AbstractContextManager[None]],
        writing: Callable[[], AbstractContextManager[None]],
        clock: Clock,
    ) -> None:
        """`reading` and `writing` surround what does either: they speak of the store's errors, and `writing` is a
        transaction."""
        self._connection = connection
        self._reading = reading
        self._writing = writing
        self._clock = clock

    def get(self, name: str) -> StoredFunction | None:
        """The function of this name, None if there is none."""
        with self._reading():
            return self._get(name)

    def all(self) -> list[StoredFunction]:
        """All of them, by name."""
        with self._reading():
            if not self._are_there():
                return []
            rows = self._connection.execute(f"SELECT {_COLUMNS} FROM functions ORDER BY name").fetchall()
        return [_stored(row) for row in rows]

    def create(self, name: str, configuration: dict[str, Any], code: Code) -> StoredFunction | None:
        """Store a function with its first version; None, and nothing is changed, if there is one of this name."""
        now_ms = self._clock.unix_ms()
        made = StoredFunction(name, configuration, str(uuids.uuid4()), now_ms)
        with self._writing():
            if self._get(name) is not None:
                return None
            self._connection.execute(
                f"INSERT INTO functions ({_COLUMNS}) VALUES (?, ?, ?, ?)", (name, _text(configuration), *made[2:])
            )
            self._add_version(name, 1, code, configuration, now_ms)
        return made

    def alter(
        self, name: str, change: Callable[[StoredFunction], tuple[dict[str, Any], Code]]
    ) -> StoredFunction | None:
        """Put the configuration that `change` gives in its place; None if there is no such function.

        What `change` raises changes nothing. A version is added where configuration or code differ from the last one.
        """
        with self._writing():
            before = self._get(name)
            if before is None:
                return None
            configuration, code = change(before)
            last = self._versions(name)[-1]
            if last.code.digest == code.digest and last.configuration == configuration:
                return before
            now_ms = self._clock.unix_ms()
            after = StoredFunction(name, configuration, str(uuids.uuid4()), now_ms)
            self._connection.execute(
                "UPDATE functions SET configuration = ?, revision = ?, modified_ms = ? WHERE name = ?",
                (_text(configuration), after.revision, now_ms, name),
            )
            self._add_version(name, last.number + 1, code, configuration, now_ms)
        return after

    def note(self, name: str, code: Code) -> StoredFunction | None:
        """The function, whose code somebody has just found to be this; None if there is no such function."""
        return self.alter(name, lambda before: (before.configuration, code))

    def remove(self, name: str) -> bool:
        """Forget a function and its versions. False if there was none."""
        with self._writing():
            return self._connection.execute("DELETE FROM functions WHERE name = ?", (name,)).rowcount > 0

    def versions(self, name: str) -> list[FunctionVersion]:
        """The versions of a function, oldest first."""
        with self._reading():
            return self._versions(name)

    # ---- inside a transaction

    def _get(self, name: str) -> StoredFunction | None:
        if not self._are_there():
            return None
        row = self._connection.execute(f"SELECT {_COLUMNS} FROM functions WHERE name = ?", (name,)).fetchone()
        return None if row is None else _stored(row)

    def _are_there(self) -> bool:
        """False in a database of an older version that is only read."""
        return bool(self._connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'functions'").fetchone())

    def _versions(self, name: str) -> list[FunctionVersion]:
        if not self._are_there():
            return []
        rows = self._connection.execute(
            "SELECT version, digest, code_bytes, configuration, created_ms FROM function_versions"
            " WHERE function = ? ORDER BY version",
            (name,),
        ).fetchall()
        return [FunctionVersion(row[0], Code(row[1], row[2]), json.loads(row[3]), row[4]) for row in rows]

    def _add_version(self, name: str, number: int, code: Code, configuration: dict[str, Any], now_ms: int) -> None:
        self._connection.execute(
            "INSERT INTO function_versions (function, version, digest, code_bytes, configuration, created_ms)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (name, number, *code, _text(configuration), now_ms),
        )


_COLUMNS = "name, configuration, revision, modified_ms"


def _stored(row: tuple[str, str, str, int]) -> StoredFunction:
    return StoredFunction(row[0], json.loads(row[1]), *row[2:])


def _text(configuration: dict[str, Any]) -> str:
    return json.dumps(configuration, sort_keys=True)
