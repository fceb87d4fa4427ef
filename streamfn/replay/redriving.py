"""Redrive: what a mapping discarded is delivered again to its function, as its stored configuration has it now.

    discards ──▶ passes over what is left of them ──▶ the one pipeline, over these records alone ──▶ its checkpoints
       ▲                                                  │
       └────────── what fails again is discarded again ◀──┘

Theory of operation. A redrive is a mapping of its own behind the mapping (state/redrives.py), so one may run while the
other does, and no checkpoint of the mapping is read or moved. What it delivers is settled when a pass begins; from
there on it is a run like any other: in the order of the log, filtered, batched, retried, halved and discarded as the
mapping says, and committed as it goes. After a crash the pass that was under way is gone on with from its checkpoints:
nothing is lost, and only what was delivered and not committed comes again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from streamfn.core.schedule import AsFast
from streamfn.errors import Fenced, RefusedError
from streamfn.mapping.functions import Functions, function_of, options_of
from streamfn.mapping.result import RunResult
from streamfn.mapping.service import added
from streamfn.replay.leftover import Pass, Plan, found, plan
from streamfn.replay.told import Told, known_of, read_told

if TYPE_CHECKING:
    from streamfn.log.catalog.stream import Stream
    from streamfn.mapping.mapping import EventSourceMapping
    from streamfn.mapping.runtime import Runtime
    from streamfn.state.store import StoredMapping

CAUGHT_UP, DRAINED = "caught up", "drained"
_OF_ALL_RUNS = ("billed_duration_ms", "gb_seconds", "estimated_price_usd")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveResult(RunResult):
    """What a redrive did, or with `why` "dry run" would have to do: then `records` is how many are left.

    `on_failure_records` counts the discards that it was about, `gone` those of their records that are not in the log
    any more, `too_large` records that no event has room for: they are left where they are, as those `unresolved`
    on-failure records of a source are whose batch cannot be told. `remaining` records have not been delivered, because
    it was stopped; the next redrive goes on there.
    """

    on_failure_records: int = 0
    gone: int = 0
    too_large: int = 0
    unresolved: int = 0
    remaining: int = 0


def result_of(plan: Plan, told: Told, done: RunResult, remaining: int = 0) -> RedriveResult:
    """What a redrive by that plan came to."""
    return RedriveResult(
        **{each.name: getattr(done, each.name) for each in fields(RunResult)},
        on_failure_records=plan.on_failure_records,
        gone=plan.gone,
        too_large=plan.too_large,
        unresolved=len(told.unresolved),
        remaining=remaining,
    )


async def told_by(runtime: Runtime, mapping: StoredMapping, stream: Stream, source: str) -> Told:
    """What a destination tells of a mapping's discards that is not known; nothing of none. See `read_told`."""
    if not source:
        return Told()
    known = await runtime.disk(known_of, runtime.store, stream.id)
    return await trio.to_thread.run_sync(read_told, runtime.data, stream, mapping, source, known)


class Redrive:
    """A redrive at work: `open`, then `run` once, then `close`."""

    def __init__(self, runtime: Runtime, which: str, ours: Mapping[str, Any], source: str = "") -> None:
        """`which` is the mapping's UUID or name; `ours` are options of functions and logs, as those of a service.

        `source` is a destination, resolved: what lies there and is not known counts as discarded too; empty: none.
        """
        self._runtime = runtime
        self._which = which
        self._ours = ours
        self._functions = Functions(runtime)
        self._source = source
        self._draining = False
        self._begun = 0  # passes
        self._running = False
        self.before = RunResult(0, 0, 0, 0, 0.0, CAUGHT_UP)  # what the passes have done that are over
        self.mapping: EventSourceMapping | None = None  # the redrive's own
        self.plan: Plan | None = None
        self.told = Told()

    async def open(self) -> EventSourceMapping | None:
        """Take the redrive for this process and start the function; None if nothing is left to do.

        What has to be done is in `plan` from then on. Cancellation: nothing is left running.

        Raises:
            RefusedError: there is no such mapping, its stream was deleted, its destination cannot be used, or its
                function is not to run.
            BusyError: another process redrives the mapping; its pid is named.
            HandlerImportError: the handler cannot be loaded.
            FunctionGone: its stored function was deleted.
        """
        runtime = self._runtime
        of, stream = await runtime.disk(found, runtime.data, runtime.store, self._which)
        self.plan = await self._look(of, stream)
        if self.plan.is_empty:
            return None
        stored = await runtime.disk(runtime.store.open_redrive, of.uuid)
        ownership = runtime.own(stored.title, stored.uuid)
        try:
            # Again, now that nobody else redrives it.
            self.plan = await self._look(of, stream)
            if self.told.discards:
                epoch = await runtime.disk(runtime.store.acquire, stored.uuid)
                await runtime.disk(runtime.store.adopt, stored.uuid, epoch, self.told.discards)
                self.plan = await runtime.disk(plan, runtime.data, runtime.store, of.uuid)
            configured = await runtime.disk(function_of, runtime.store, of)
            options, code_dir = options_of(of, configured, self._ours)
            # Everything is there: nothing is waited for that could fill a batch.
            options = replace(options, maximum_batching_window_in_seconds=0)
            if options.reserved_concurrency == 0:
                raise RefusedError(f"the function {options.target!r} has a reserved concurrency of 0: nothing runs it")
            arn = str(of.options.get("FunctionArn") or "")
            function, fresh = await self._functions.take(options, Path(code_dir), stream.region, arn)
        except BaseException:
            ownership.release()
            raise
        try:
            self.mapping = await runtime.managed(stored, ownership, options, function, init_log=fresh, of=of)
        except BaseException:
            await self.close()
            raise
        return self.mapping

    async def _look(self, of: StoredMapping, stream: Stream) -> Plan:
        """What is left, and in `told` what the source has that is not known."""
        self.told = await told_by(self._runtime, of, stream, self._source)
        return await self._runtime.disk(plan, self._runtime.data, self._runtime.store, of.uuid, self.told.discards)

    async def run(self) -> RunResult:
        """Deliver what is left, pass after pass; what fails again is left for the next redrive.

        Cancellation: stops at once; the next redrive goes on where the checkpoints are.

        Raises:
            LogDamaged: a shard is damaged; the others were served.
            Fenced: the mapping was deleted meanwhile.
        """
        assert self.plan is not None
        # Without a pass there is something to be carried to a destination, which every run does.
        passes = self.plan.passes or (Pass((), {}, {}, True),)
        try:
            for number, each in enumerate(passes, 1):
                if not await self._deliver(number, each):
                    break
        except Fenced as error:
            title = self.plan.mapping.title
            raise Fenced(
                f"the mapping {title!r} was deleted, or its stream was made anew, and its redrive ends"
            ) from error
        return self.result()

    async def _deliver(self, number: int, each: Pass) -> bool:
        """Deliver what is left of a pass, the so-manieth of this redrive; whether all of it is."""
        assert self.mapping is not None
        mapping, disk, store = self.mapping, self._runtime.disk, self._runtime.store
        if number > 1:  # within an epoch a record is disposed of once
            mapping.own(await disk(store.acquire, mapping.uuid))
        if not each.under_way:
            await disk(store.begin_pass, mapping.uuid, mapping.epoch, each.ids, each.starts)
        if self._draining:
            self.before = replace(self.result(), why=DRAINED)
            return False
        mapping.wanted, self._begun, self._running = each.wanted, number, True
        # A record is as old as the redrive is, or the mapping's age limit would discard it untried.
        done = await mapping.run(ends=each.ends, schedule=AsFast())
        self.before, self._running = self.result(), False
        if done.why != CAUGHT_UP:
            return False
        await disk(store.finish_pass, mapping.uuid, mapping.epoch)
        return True

    def result(self) -> RunResult:
        """What was done so far."""
        if self.mapping is None or not self._running:
            return self.before
        now = self.mapping.result()
        # What all invocations cost is counted by the mapping over all of its runs.
        return replace(added(self.before, now), **{name: getattr(now, name) for name in _OF_ALL_RUNS})

    @property
    def remaining(self) -> int:
        """How many records are left, as far as it is known."""
        if self.plan is None:
            return 0
        if self.mapping is None or self.mapping.wanted is None:
            return self.plan.records
        later = self.plan.passes[self._begun :]
        return self.mapping.remaining + sum(each.records for each in later)

    def drain(self) -> None:
        """Stop at the edge of a batch."""
        self._draining = True
        if self.mapping is not None:
            self.mapping.drain()

    async def close(self) -> None:
        """Give everything up; shielded, and takes less than a second."""
        with trio.CancelScope(shield=True):
            mapping, self.mapping = self.mapping, None
            if mapping is not None:
                await self._runtime.part(mapping)
            await self._functions.close()
