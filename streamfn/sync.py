"""The library for programs that do not run Trio.

    with streamfn.open_sync("data") as session:
        session.put("clicks", b'{"page": "/"}')
        result = session.run_until_caught_up("app.handler", "clicks")

A session has a Trio run in a thread of its own, so it may be used from any thread, beside a running asyncio loop, and
several times in one process. Calls wait for their result; Ctrl-C interrupts them in the main thread as it does any call.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio

from streamfn.mapping.handler import Handler
from streamfn.mapping.logs import LogSink
from streamfn.mapping.mapping import RunResult
from streamfn.session import Put, Session
from streamfn.session import open as open_async
from streamfn.types import NewRecord

T = TypeVar("T")


class SyncSession:
    """`Session`, call by call; each waits for its result. Made by `open_sync`."""

    def __init__(self, session: Session, token: trio.lowlevel.TrioToken) -> None:
        self._session = session
        self._token = token

    def streams(self) -> list[str]:
        """See `Session.streams`."""
        return trio.from_thread.run_sync(self._session.streams, trio_token=self._token)

    def create_stream(self, name: str, *, shards: int = 1) -> None:
        """See `Session.create_stream`."""
        self._call(lambda: self._session.create_stream(name, shards=shards))

    def delete_stream(self, name: str) -> None:
        """See `Session.delete_stream`."""
        self._call(lambda: self._session.delete_stream(name))

    def put(self, stream: str, data: bytes | str, *, partition_key: str | None = None) -> Put:
        """See `Session.put`."""
        return self._call(lambda: self._session.put(stream, data, partition_key=partition_key))

    def put_many(self, stream: str, records: Iterable[NewRecord]) -> list[Put]:
        """See `Session.put_many`."""
        return self._call(lambda: self._session.put_many(stream, records))

    def run(self, handler: str | Handler, stream: str, *, limit: int | None = None, **options: Any) -> RunResult:
        """See `Session.run`. Without a limit it ends only when the session is closed from another thread."""
        return self._call(lambda: self._session.run(handler, stream, limit=limit, **options))

    def run_until_caught_up(
        self, handler: str | Handler, stream: str, *, limit: int | None = None, **options: Any
    ) -> RunResult:
        """See `Session.run_until_caught_up`."""
        return self._call(lambda: self._session.run_until_caught_up(handler, stream, limit=limit, **options))

    def _call(self, function: Callable[[], Awaitable[T]]) -> T:
        return trio.from_thread.run(function, trio_token=self._token)


@contextmanager
def open_sync(data_dir: str | os.PathLike[str] | None = None, *, log: LogSink | None = None) -> Iterator[SyncSession]:
    """A session in a thread of its own, for as long as the block lasts. Arguments and errors as for `streamfn.open`."""
    thread = _Thread(data_dir, log)
    thread.start()
    try:
        yield thread.session()
    finally:
        thread.close()


class _Thread(threading.Thread):
    """The thread that runs Trio: opens a session, keeps it open until told to close, and passes errors on."""

    def __init__(self, data_dir: str | os.PathLike[str] | None, log: LogSink | None) -> None:
        super().__init__(name="streamfn", daemon=True)
        self._data_dir, self._log = data_dir, log
        self._opened = threading.Event()
        self._session: SyncSession | None = None
        self._scope: trio.CancelScope | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """The Trio run."""
        try:
            trio.run(self._serve)
        except BaseException as error:  # carried over to the thread that waits for it
            self._error = error
        finally:
            self._opened.set()

    async def _serve(self) -> None:
        async with open_async(self._data_dir, log=self._log) as session:
            with trio.CancelScope() as self._scope:
                self._session = SyncSession(session, trio.lowlevel.current_trio_token())
                self._opened.set()
                await trio.sleep_forever()

    def session(self) -> SyncSession:
        """The session, once it is open."""
        self._opened.wait()
        if self._session is None:
            assert self._error is not None
            raise self._error
        return self._session

    def close(self) -> None:
        """End the run and wait for it."""
        if self._session is not None and self._scope is not None and self.is_alive():
            trio.from_thread.run_sync(self._scope.cancel, trio_token=self._session._token)
        self.join()
        if self._error is not None and self._session is not None:
            raise self._error
