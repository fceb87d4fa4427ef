"""Replaying a stream from a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import trio

from streamfn.core.filter import check as check_filters
from streamfn.doors.apart import store_apart
from streamfn.doors.errors import bare
from streamfn.doors.handlers import FoundHandler
from streamfn.doors.options import check_limit
from streamfn.errors import RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping.logs import LogSink
from streamfn.mapping.mapping import EventSourceMapping
from streamfn.mapping.options import RunOptions
from streamfn.mapping.outcome import Outcome
from streamfn.mapping.result import RunResult
from streamfn.mapping.runtime import open_runtime
from streamfn.replay.planning import Pace, schedule_of
from streamfn.replay.selection import Bound, Selection, parse_bound, select, with_keys

Moment = str | datetime | float
"""A time (a text in ISO 8601, a datetime, seconds or milliseconds since 1970), or a text that is a sequence number."""

Watch = Callable[[Outcome], object]


class Wanted(NamedTuple):
    """Which records, how fast, and who is told; see `Session.replay`."""

    start: Moment | None
    to: Moment | None
    speed: float | None
    max_gap_seconds: float | None
    shard_ids: Sequence[str]
    partition_keys: Sequence[str]
    limit: int | None
    watch: Watch | None


async def replay(
    data: DataDir,
    sink: LogSink,
    options: RunOptions,
    wanted: Wanted,
    *,
    handler: FoundHandler,
    code_dir: Path,
    follow: bool,
) -> RunResult:
    """Do what `Session.replay` says, in a runtime of its own."""
    pace = _pace(wanted)
    check_limit(wanted.limit)
    begin, end = _bound("start", wanted.start), _bound("to", wanted.to)
    stream = await trio.to_thread.run_sync(data.stream, options.stream)
    check_filters(options.filters, stream.kind, options.filters_max)
    if _texts("partition_keys", wanted.partition_keys):
        options = replace(options, filters=with_keys(options.filters, wanted.partition_keys, stream))
        check_filters(options.filters, stream.kind, options.filters_max)
    shards = _texts("shard_ids", wanted.shard_ids)
    selection = await trio.to_thread.run_sync(lambda: select(stream, begin, end, shards))
    with store_apart() as store, bare():
        async with open_runtime(data, sink, store_path=store) as runtime:
            mapping = await runtime.mapping(
                options,
                code_dir=code_dir,
                function=handler.forked,
                path=handler.path,
                follow=follow,
                starts=selection.starts,
            )
            return await _run(mapping, selection, pace, wanted)


async def _run(mapping: EventSourceMapping, selection: Selection, pace: Pace, wanted: Wanted) -> RunResult:
    schedule = await schedule_of(selection, pace, mapping.selector, salvage=mapping.salvage)
    raised: list[Exception] = []

    def told(outcome: Outcome) -> None:
        """Whatever the program's own code raises ends the replay, and not the runtime in the middle of its work."""
        assert wanted.watch is not None
        try:
            if not raised:
                wanted.watch(outcome)
        except Exception as error:
            raised.append(error)
            mapping.drain(0.0)

    unwatch = mapping.watch(told) if wanted.watch is not None else None
    try:
        result = await mapping.run(ends=selection.ends, limit=wanted.limit, schedule=schedule)
    finally:
        if unwatch is not None:
            unwatch()
    if raised:
        raise raised[0]
    return result


def _pace(wanted: Wanted) -> Pace:
    """Raises RefusedError for a speed or a gap that is none."""
    for option, value in (("speed", wanted.speed), ("max_gap_seconds", wanted.max_gap_seconds)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise RefusedError(f"option {option} takes a number above 0, such as 10, not {value!r}")
    if wanted.speed is None and wanted.max_gap_seconds is not None:
        raise RefusedError("option max_gap_seconds goes with a speed: without one nothing is waited for")
    return Pace(wanted.speed, wanted.max_gap_seconds)


def _bound(option: str, moment: Moment | None) -> Bound | None:
    return None if moment is None else parse_bound(f"option {option}", moment)


def _texts(option: str, given: Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str) or not all(isinstance(each, str) for each in given):
        raise RefusedError(f"option {option} takes a list of texts, not {given!r}")
    return tuple(given)
