"""The recorder: every shard's reading in a task of its own, with threads for what blocks.

    one task a shard     asks its machine what to do, calls the source in a thread, stores what came in a thread
    one task more        lists the shards now and then, and when one has ended: children, and what was closed
    stop()               the first request: calls in flight are left alone, what has come is stored, then it ends
    abandon()            the second: at once; what was being stored may or may not be durable

A shard is read, stored and closed by its own task only, so it has one owner.  The source's calls may be
abandoned, because an answer that is not stored has not happened; storing is never abandoned by `stop`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import trio

from streamfn.capture.captured import CapturedStream, ShardLog
from streamfn.capture.lineage import Lineage
from streamfn.capture.outcome import Bounds, Counts, RecordResult, ShardTrouble
from streamfn.capture.pace import Pace
from streamfn.capture.reading import AskIterator, End, Read, ShardReading, Wait, Why
from streamfn.capture.source import Answer, Captured, Description, Source, SourceShard, Trouble, TroubleKind, data_bytes
from streamfn.capture.threads import Threads
from streamfn.errors import FailedError

RELIST_S = 30.0
RELIST_SOON_S = 2.0  # while a shard has ended and its children are not known
# A shard in trouble is spoken of once it has failed so often in a row.
_SPEAK_AT_FAILURES = 3

Say = Callable[[str], None]


class Recorder:
    """One recording of a source into a stream.  `counts`, `troubles` and `behind_ms` may be looked at while it runs."""

    def __init__(
        self,
        source: Source,
        captured: CapturedStream,
        described: Description,
        listed: Sequence[SourceShard],
        pace: Pace,
        bounds: Bounds,
        say: Say,
        *,
        draw: Callable[[], float] = random.random,
        relist_s: float = RELIST_S,
    ) -> None:
        self.counts = Counts()
        self.lineage = Lineage()
        self._source = source
        self._captured = captured
        self._described = described
        self._listed = listed
        self._pace = pace
        self._bounds = bounds
        self._say = say
        self._draw = draw
        self._relist_s = relist_s
        self._began = time.monotonic()
        self._skew_ms = described.server_ms - _now_ms()
        self._readings: dict[str, ShardReading] = {}
        self._due: dict[str, float] = {}
        self._positions: dict[str, str | None] = {}
        self._threads = Threads()
        self._stop = trio.CancelScope()
        self._why = ""
        self._relist = trio.Event()
        self._list_is_newer = True  # than the last end of a shard
        self._promised = 0  # records that count against the limit: stored, or about to be

    # ---- for who watches

    @property
    def reading(self) -> int:
        """How many shards are being read now."""
        return len(self._readings)

    @property
    def behind_ms(self) -> int | None:
        """How far the slowest shard is behind the newest record, None where the source does not say."""
        return max((r.behind_ms for r in self._readings.values() if r.behind_ms is not None), default=None)

    def troubles(self) -> list[ShardTrouble]:
        """The shards whose last call failed."""
        now = trio.current_time()
        return [
            ShardTrouble(shard_id, r.failures, str(r.trouble), max(0.0, self._due.get(shard_id, now) - now))
            for shard_id, r in self._readings.items()
            if r.trouble is not None
        ]

    def stop(self, why: str = "stopped") -> None:
        """End as soon as what has come is stored.  The first reason holds."""
        if not self._why:
            self._why = why
            self._stop.cancel()

    def abandon(self) -> None:
        """End at once: what is being stored may or may not be durable; the next run finds out."""
        self._why = "abandoned"
        self._stop.cancel()
        self._threads.abandon()

    # ---- the whole

    async def run(self) -> RecordResult:
        """Record until a bound is reached, `stop` or `abandon` is called, or the source has ended.

        Cancelled, it ends as after `stop`.

        Raises:
            FailedError: the source refuses, is gone, or the log cannot be written; what was stored is durable.
        """
        with self._stop:
            if self._bounds.duration_s is not None:
                self._stop.deadline = trio.current_time() + self._bounds.duration_s
            async with trio.open_nursery() as nursery:
                await self._take_in([*self._listed, *self._unlisted()])
                nursery.start_soon(self._watch_shards, nursery)
                self._begin_ready(nursery)
        return self.result()

    def result(self) -> RecordResult:
        """What has been done so far; also after `run` has failed."""
        counts = self.counts
        open_shards = {shard.id for shard in self._captured.stream.open_shards}
        return RecordResult(
            why=self._why or "duration",
            records=counts.records,
            bytes=counts.bytes,
            shards=len(counts.shards),
            losses=counts.losses,
            seconds=time.monotonic() - self._began,
            resumes_at={shard: at for shard, at in self._positions.items() if shard in open_shards},
        )

    def _unlisted(self) -> list[SourceShard]:
        """Shards that are not finished here and that the source does not list: to be found gone, and said so."""
        listed = {shard.id for shard in self._listed}
        return [SourceShard(s.id, s.parents) for s in self._captured.stream.open_shards if s.id not in listed]

    async def _take_in(self, listed: Sequence[SourceShard]) -> None:
        """Take note of what the source lists: of new shards once they are in the stream, and of closed ones."""
        wanted = self._captured.wanted(listed)
        await self._threads.durably(self._captured.add, wanted)
        self.lineage.learn(wanted, self._captured.is_finished)
        for shard_id, reading in self._readings.items():
            ending = self.lineage.shards[shard_id].ending_sequence_number
            if ending is not None:
                reading.upstream_closed(ending)

    def _begin_ready(self, nursery: trio.Nursery) -> None:
        """Start what may be read by now, and see whether that was all."""
        for shard in self.lineage.start_ready():
            nursery.start_soon(self._read, shard, nursery)
        if self.lineage.done and self._list_is_newer:
            if self._bounds.until is not None:
                self.stop("until")
            elif not self._described.active:
                self.stop("source ended")

    async def _watch_shards(self, nursery: trio.Nursery) -> None:
        """List the shards now and then."""
        while True:
            soon = self.lineage.childless and self._described.active
            with trio.move_on_after(min(RELIST_SOON_S, self._relist_s) if soon else self._relist_s):
                await self._relist.wait()
            self._relist = trio.Event()
            try:
                await self._list_again(nursery)
            except Trouble as trouble:
                if trouble.kind is TroubleKind.GONE:
                    raise self._gone() from None
                if trouble.kind is TroubleKind.FATAL:
                    raise FailedError(f"cannot list the shards of {self._described.arn}: {trouble}") from None
                self._list_is_newer = False
                await trio.sleep(RELIST_SOON_S)
                self._relist.set()

    async def _list_again(self, nursery: trio.Nursery) -> None:
        self._list_is_newer = True  # an end while we list makes it older again
        self._described = await self._threads.call(self._source.describe)
        await self._take_in(await self._threads.call(self._source.shards))
        self._begin_ready(nursery)

    # ---- one shard

    async def _read(self, shard: SourceShard, nursery: trio.Nursery) -> None:
        """Read one shard to its end, or as far as is wanted."""
        log = await self._threads.durably(self._captured.open_log, shard.id)
        try:
            reading = await self._reading_of(shard, log)
            self._readings[shard.id] = reading
            end = await self._follow(reading, log)
        finally:
            self._readings.pop(shard.id, None)
            await self._threads.durably(log.close)
        if end.why is Why.UNTIL:
            self.lineage.stop(shard.id)
        else:
            await self._finish(reading.shard, end)
        self._begin_ready(nursery)

    async def _reading_of(self, shard: SourceShard, log: ShardLog) -> ShardReading:
        start = await self._threads.durably(self._captured.start_of, shard.id, log)
        if log.repaired.cut_bytes:
            self._say(f"{shard.id}: what a crash had left half-written was cut ({log.repaired.cut_bytes} bytes)")
        self._positions[shard.id] = start.stored.sequence_number if start.stored else None
        self.counts.shards.add(shard.id)
        return ShardReading(
            self.lineage.shards[shard.id],
            self._pace,
            self._draw,
            beginning=start.beginning,
            retention_ms=self._described.retention_ms,
            stored=start.stored,
            seen_until_ms=start.seen_until_ms,
            until=self._bounds.until,
        )

    async def _follow(self, reading: ShardReading, log: ShardLog) -> End:
        """Do what the machine says until it has ended."""
        while True:
            match reading.next(_now_ns(), _now_ms() + self._skew_ms):
                case End() as end:
                    return end
                case Wait(until_ns):
                    self._due[reading.shard.id] = until_ns / 1e9
                    await trio.sleep_until(until_ns / 1e9)
                case AskIterator(position):
                    try:
                        reading.got_iterator(
                            await self._threads.call(self._source.iterator, reading.shard.id, position)
                        )
                    except Trouble as trouble:
                        await self._troubled(reading, trouble)
                case Read(iterator):
                    try:
                        answer = await self._threads.call(self._source.records, iterator)
                        await self._store(reading, log, answer)
                    except Trouble as trouble:
                        await self._troubled(reading, trouble)
            await self._report_losses(reading)

    async def _store(self, reading: ShardReading, log: ShardLog, answer: Answer) -> None:
        given = reading.answered(answer, _now_ns())
        taken = self._within_limit(given)
        await self._report_losses(reading)  # before what comes behind them is there, and tells of no loss
        if taken:
            await self._threads.durably(log.append, taken)
            self.counts.records += len(taken)
            self.counts.bytes += sum(map(data_bytes, taken))
            self._positions[reading.shard.id] = taken[-1].sequence_number
            limit = self._bounds.limit
            if limit is not None and self.counts.records == limit:
                self.stop("limit")
        if len(taken) < len(given):
            # What the machine takes for stored is not: this shard is not read on, and has by no means ended.
            await trio.sleep_forever()

    def _within_limit(self, taken: list[Captured]) -> list[Captured]:
        """Return the records that may still be stored; those in other shards' hands count already."""
        if self._bounds.limit is None:
            return taken
        taken = taken[: self._bounds.limit - self._promised]
        self._promised += len(taken)
        return taken

    async def _troubled(self, reading: ShardReading, trouble: Trouble) -> None:
        shard_id = reading.shard.id
        if trouble.kind is TroubleKind.FATAL:
            raise FailedError(f"cannot read {shard_id} of {self._described.arn}: {trouble}") from None
        if trouble.kind is TroubleKind.GONE:
            if await self._is_gone(shard_id):
                reading.gone()
                return
            trouble = Trouble(TroubleKind.TRANSIENT, trouble.code, str(trouble))
        reading.troubled(trouble, _now_ns())
        if reading.failures == _SPEAK_AT_FAILURES and trouble.kind is not TroubleKind.THROTTLED:
            self._say(f"{shard_id}: {trouble}; trying again")

    async def _is_gone(self, shard_id: str) -> bool:
        """Whether the source has a shard no more; that it has nothing at all any more is an error."""
        try:
            return all(shard.id != shard_id for shard in await self._threads.call(self._source.shards))
        except Trouble as trouble:
            if trouble.kind is TroubleKind.GONE:
                raise self._gone() from None
            return False

    def _gone(self) -> FailedError:
        return FailedError(f"{self._described.arn} is not there any more; what was recorded of it stays")

    async def _report_losses(self, reading: ShardReading) -> None:
        """Say what was trimmed away, when that is durably noted."""
        losses, shard_id = list(reading.losses), reading.shard.id
        if not losses:
            return
        reading.losses.clear()
        await self._threads.durably(self._captured.lost, shard_id, losses)
        self.counts.losses += len(losses)
        for after, before in losses:
            where = f"after {after}" if after else "before what is there"
            where += f" and before {before}" if before else ""
            self._say(f"{shard_id}: records {where} may be missing: the source has trimmed them away meanwhile")

    async def _finish(self, shard: SourceShard, end: End) -> None:
        """A shard is complete: its children are added, then it is closed."""
        await self._take_in(end.children)
        await self._threads.durably(self._captured.finish, shard)
        self.lineage.finish(shard.id)
        if not end.children:
            self._list_is_newer = False
            self._relist.set()


def _now_ns() -> int:
    return int(trio.current_time() * 1e9)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
