"""Upkeep of a shard by whoever asks for it: everything that can be sealed is sealed, then trimmed or compacted.

Whoever writes to the shard is asked to let go of it for that time, and goes on afterwards; readers notice nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamfn.clock import Clock, SystemClock
from streamfn.errors import BusyError, LogError, ShardClosed
from streamfn.log.catalog.age import ShardClock
from streamfn.log.catalog.stream import Retention, Shard, sequence_order
from streamfn.log.shard import compact, retention
from streamfn.log.shard.chain import Link, read_chain
from streamfn.log.shard.compact import Compacted
from streamfn.log.shard.numbers import sequence_numbers
from streamfn.log.shard.reader import ShardReader, horizon
from streamfn.log.shard.retention import Trimmed
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.sharing import broker
from streamfn.log.storage.lock import FileLock

# Whether a segment may go, asked of the oldest first; the first one that may not ends it.
Expired = Callable[[Link], bool]

_WAIT_S = 5.0


@contextmanager
def sealed(shard: Shard, clock: Clock, *, appended_before_ms: int | None = None) -> Iterator[None]:
    """Hold a shard's lock while everything in it is sealed, but for a new active segment without records.

    Given `appended_before_ms` (since 1970, UTC), the active one is only sealed if it was appended to before that.

    Raises:
        BusyError: a process goes on writing to it; the text names its pid.
        LogError: the shard is damaged, or its disk full or failing.
        FailedError: it cannot be written.
    """
    broker.request_release(shard, _WAIT_S)
    try:
        writer = ShardWriter.open(shard, clock=clock, wait_s=_WAIT_S)
    except ShardClosed:
        with _closed(shard):
            yield
        return
    with writer:
        if appended_before_ms is None or read_chain(shard).links[-1].modified_ms < appended_before_ms:
            writer.roll()
        writer.finish_sealing()
        with _named(shard):
            yield


@contextmanager
def _closed(shard: Shard) -> Iterator[None]:
    """The same for a shard that was split or merged: its last segment stays as it is."""
    lock = FileLock(shard.directory / "lock", shard.disk)
    lock.acquire(f"shard {shard.id} in {shard.directory.parent}", _WAIT_S)
    try:
        with _named(shard):
            yield
    finally:
        lock.release()


@contextmanager
def _named(shard: Shard) -> Iterator[None]:
    """Errors of the system say which shard they are about."""
    try:
        yield
    except OSError as error:
        raise LogError(f"shard {shard.id} in {shard.directory.parent}: {error.strerror} ({error.filename})") from error


def note_age(shard: Shard, clock: Clock | None = None) -> None:
    """Note that everything in a shard was appended by now, so that a retention by age counts from here at the latest.

    Who appends just now knows it better, and is left alone.

    Raises:
        LogError, FailedError: the shard cannot be read or written.
    """
    clock = clock or SystemClock()
    lock = FileLock(shard.directory / "lock", shard.disk)
    try:
        lock.acquire(f"shard {shard.id} in {shard.directory.parent}", 0)
    except BusyError:
        return
    try:
        with _named(shard), ShardReader.open(shard, horizon(shard)) as reader:
            ShardClock(shard, clock).note(reader.committed().end_offset, clock.unix_ms(), clock.monotonic_ns())
    finally:
        lock.release()


def trim_by_retention(shard: Shard, kept: Retention, clock: Clock | None = None) -> Trimmed:
    """Trim what the stream's retention wants gone; errors as of `sealed`."""
    clock = clock or SystemClock()
    old_ms = clock.unix_ms() - 1000 * kept.age_s if kept.age_s is not None else 0
    before = read_chain(shard).links
    with sealed(shard, clock, appended_before_ms=old_ms):  # which already trims, where the stream says the same
        begins = retention.apply(shard, kept, ShardClock(shard, clock), unsealed=True).horizon
    gone = [link for link in before if link.file.first_offset < begins]
    records = begins - before[0].file.first_offset if gone else 0
    return Trimmed(len(gone), records, sum(link.bytes for link in gone), begins)


def trim(shard: Shard, expired: Expired, clock: Clock | None = None) -> Trimmed:
    """Trim the oldest segments for as long as they are `expired`; errors as of `sealed`."""
    clock = clock or SystemClock()
    with sealed(shard, clock):
        gone: list[Link] = []
        for link in retention.removable(read_chain(shard).links, unsealed=True):
            if not expired(link):
                break
            gone.append(link)
        return retention.trim(shard, gone, clock.unix_ms())


def trim_to_bytes(shard: Shard, size: int, clock: Clock | None = None) -> Trimmed:
    """Trim the oldest segments without which there are still `size` bytes; errors as of `sealed`."""
    clock = clock or SystemClock()
    with sealed(shard, clock):
        links = read_chain(shard).links
        now = ShardClock(shard, clock).now()
        count = retention.expired(links, Retention(bytes=size), now, unsealed=True)
        return retention.trim(shard, links[:count], now.wall_ms)


def appended_before(ms: int) -> Expired:
    """Whether everything in a segment was appended before a time (since 1970, UTC), by the wall clock."""
    return lambda link: retention.appended(link).wall_ms < ms


def below_offset(offset: int) -> Expired:
    """Whether a segment lies wholly below an offset."""
    return lambda link: link.end_offset is not None and link.end_offset <= offset


def below_sequence_number(shard: Shard, number: str) -> Expired:
    """Whether all sequence numbers in a segment are below one; reads the last record of each that is asked about."""
    return lambda link: sequence_order(_last_number(shard, link)) < sequence_order(number)


def _last_number(shard: Shard, link: Link) -> str:
    assert link.end_offset is not None, "a segment that may go has an end"
    with ShardReader.open(shard, link.end_offset - 1) as reader:
        message = reader.poll(1)[0]
        return sequence_numbers(message, link.end_offset - 1 - message.first_offset)[0]


def compact_shard(shard: Shard, *, cold_after_s: int | None, clock: Clock | None = None) -> Compacted:
    """Seal, merge and, where `cold_after_s` is not None, compress; errors as of `sealed`."""
    clock = clock or SystemClock()
    with sealed(shard, clock):
        return compact.compact(shard, clock.unix_ms(), cold_after_s=cold_after_s)
