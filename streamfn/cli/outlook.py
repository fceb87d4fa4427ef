"""The work behind `streamfn replay --dry-run`: what a replay comes to, for people and programs."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Any

import click
import trio

from streamfn.cli.options import Settings
from streamfn.cli.output import count_of, print_json, shown_age, shown_size
from streamfn.cli.replaying import ReplayRequest
from streamfn.doors.apart import store_apart
from streamfn.formats.times import format_time
from streamfn.functions import prices
from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping.logs import LogWriter
from streamfn.mapping.runtime import open_runtime
from streamfn.mapping.selector import Selector, open_selector
from streamfn.replay.planning import Outlook, outlook_of


def replay_dry(request: ReplayRequest, settings: Settings, *, assumed_ms: float) -> int:
    """Say what a replay comes to. Calls nothing.

    Raises:
        StreamfnError: a shard is damaged, or the filters cannot be asked.
    """
    outlook = trio.run(_outlook, request, DataDir.open(settings.data_dir, create=False), assumed_ms)
    if settings.json_output:
        print_json(outlook_json(request, outlook))
    else:
        click.echo(outlook_text(request, outlook))
    return 0


async def _outlook(request: ReplayRequest, data: DataDir, assumed_ms: float) -> Outlook:
    async def look(selector: Selector | None) -> Outlook:
        return await outlook_of(request.selection, request.pace, request.options, selector, assumed_ms=assumed_ms)

    options, stream = request.options, request.selection.stream
    if not options.filters:
        return await look(None)
    with store_apart() as store, closing(LogWriter(_to_stderr)) as writer:
        async with open_runtime(data, writer, store_path=store) as runtime:
            selector = await open_selector(
                runtime.pool,
                options.filters,
                name=options.name,
                kind=stream.kind,
                arn=stream.arn,
                region=stream.region,
                scanners=options.workers,
                queue=runtime.queue,
                say=runtime.say,
            )
            try:
                return await look(selector)
            finally:
                await selector.close(runtime.pool)


def _to_stderr(text: str) -> None:
    with suppress(OSError):
        click.echo(text, err=True, nl=False)


def outlook_json(request: ReplayRequest, outlook: Outlook) -> dict[str, Any]:
    """Return what `--dry-run --json` prints."""
    first, last = outlook.first_ms, outlook.last_ms
    return {
        "stream": request.selection.stream.name,
        "records": outlook.records,
        "shards": outlook.shards,
        "first_arrival": None if first is None else format_time(first),
        "last_arrival": None if last is None else format_time(last),
        "span_s": outlook.span_s,
        "bytes": outlook.event_bytes,
        "speed": request.pace.speed,
        "invocations": outlook.invocations,
        "assumed_duration_ms": outlook.assumed_ms,
        "estimated_seconds": round(outlook.seconds, 3),
        "billed_duration_ms": outlook.billed_ms,
        "memory_size_mb": outlook.memory_mb,
        "gb_seconds": round(outlook.gb_seconds, 6),
        "estimated_price_usd": round(outlook.price_usd, 9),
    }


def outlook_text(request: ReplayRequest, outlook: Outlook) -> str:
    """Return the same for people."""
    name = request.selection.stream.name
    if outlook.first_ms is None or outlook.last_ms is None:
        return f"{name}: no records there; nothing was called"
    rates = prices.rates()
    speed = "as fast as it goes" if request.pace.speed is None else f"at {request.pace.speed:g}x"
    took = shown_age(round(1000 * outlook.seconds))
    lines = (
        f"{name}: {count_of(outlook.records, 'record')} of {count_of(outlook.shards, 'shard')}, "
        f"{shown_size(outlook.event_bytes)} of events",
        f"arrived from {format_time(outlook.first_ms)} to {format_time(outlook.last_ms)}, "
        f"in {shown_age(round(1000 * outlook.span_s))}",
        f"{speed}, if an invocation takes {outlook.assumed_ms:g} ms: about {took}, "
        f"{count_of(outlook.invocations, 'invocation')}",
        f"in Lambda with {outlook.memory_mb} MB: {outlook.gb_seconds:,.3f} GB-seconds, "
        f"about ${outlook.price_usd:,.6f} ({rates.region}, {rates.architecture}, {rates.as_of})",
        "nothing was called",
    )
    return "\n".join(lines)
