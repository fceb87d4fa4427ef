"""Taking along what other processes put, into shards that this one has open for something of its own.

An import holds its shards for as long as it runs.  Between its groups a thread appends what others put meanwhile,
so nobody waits for the import's end; `exclusive` keeps the two apart.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from streamfn.errors import LogError
from streamfn.log.producer.wakeup import Wakeup
from streamfn.log.producer.writing import Writing
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage.durability import Durability


class Porter:
    """A thread beside whoever uses the writers; close it before they are closed."""

    def __init__(self, durability: Durability) -> None:
        """`durability` is that of the writers' owner: under `interval` what he has committed is synced here, too."""
        self._interval_s = None if durability.interval_ms is None else durability.interval_ms / 1000
        self._writings: list[tuple[ShardWriter, Writing | None]] = []
        self._mutex = threading.Lock()
        self._closing = False
        self._poll = select.epoll()
        self._wake = Wakeup()
        self._poll.register(self._wake, select.EPOLLIN | select.EPOLLET)
        self._thread = threading.Thread(target=self._run, name="streamfn-porter", daemon=True)
        self._thread.start()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Have the writers alone, to append and commit; others wait."""
        with self._mutex:
            yield

    def add(self, writers: Collection[ShardWriter], *, serve: bool) -> None:
        """Look after more writers; `serve` others through them, or only sync them."""
        with self._mutex:
            for writer in writers:
                writing = Writing(writer, self._poll, releases=False) if serve else None
                self._writings.append((writer, writing))

    def remove(self, writer: ShardWriter) -> None:
        """Leave a writer alone, before it is closed."""
        with self._mutex:
            for place, (known, writing) in enumerate(self._writings):
                if known is writer:
                    del self._writings[place]
                    _part(writing)
                    return

    def close(self) -> None:
        """Say goodbye to everybody, and end the thread.  Harmless twice."""
        if self._closing:
            return
        self._closing = True
        self._wake.ring()
        self._thread.join()
        for _, writing in self._writings:
            _part(writing)
        self._poll.close()
        self._wake.close()

    def _run(self) -> None:
        next_s = time.monotonic() + (self._interval_s or 0)
        while not self._closing:
            events = self._poll.poll(self._pause(next_s))
            with self._mutex:
                now = time.monotonic()
                due = self._interval_s is not None and now >= next_s
                for writer, writing in self._writings:
                    if writing is not None:
                        _carry(writer, writing, events)
                        writing.sync_if_due(now)
                    if due and writer.synced_offset < writer.end_offset:
                        with suppress(LogError):  # the writer is fenced, and its owner's next append is told
                            writer.sync()
            if due:
                next_s = now + (self._interval_s or 0)

    def _pause(self, next_s: float) -> float | None:
        now = time.monotonic()
        pauses = [writing.sync_in(now) for _, writing in self._writings if writing is not None]
        if self._interval_s is not None:
            pauses.append(max(0.0, next_s - now))
        return min((pause for pause in pauses if pause is not None), default=None)


def _carry(writer: ShardWriter, writing: Writing, events: list[tuple[int, int]]) -> None:
    """Append what has come, group by group."""
    mode = writer.durability
    parts = writing.guests.receive(events)
    while parts:
        group = writing.first_run(parts)
        error = writing.append(group) or writing.commit()
        writing.answer(group, error)
        parts = writing.held
    writer.durability = mode


def _part(writing: Writing | None) -> None:
    if writing is not None:
        writing.guests.close()
        writing.guests.part()
