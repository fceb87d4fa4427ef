"""Redriving a mapping from a program."""

from __future__ import annotations

from pathlib import Path

from streamfn.doors.errors import bare, explain
from streamfn.doors.managing import OF_ALL, ServiceOptions
from streamfn.doors.options import function_options
from streamfn.errors import HandlerImportError
from streamfn.mapping.destinations import resolve_destination
from streamfn.mapping.result import RunResult
from streamfn.mapping.runtime import Runtime
from streamfn.replay.leftover import found, plan
from streamfn.replay.redriving import Redrive, RedriveResult, result_of, told_by


async def redrive(
    runtime: Runtime, which: str, options: ServiceOptions, *, source: str, dry_run: bool
) -> RedriveResult:
    """Do what `Session.redrive` says."""
    wanted = function_options("module.function", options, ServiceOptions.__annotations__)
    source = resolve_destination(source, Path.cwd())
    if dry_run:
        mapping, stream = await runtime.disk(found, runtime.data, runtime.store, which)
        told = await told_by(runtime, mapping, stream, source)
        left = await runtime.disk(plan, runtime.data, runtime.store, which, told.discards)
        return result_of(left, told, RunResult(left.records, 0, 0, 0, 0.0, "dry run"))
    work = Redrive(runtime, which, {name: getattr(wanted, name) for name in OF_ALL}, source)
    try:
        with bare():
            done = work.result() if await work.open() is None else await work.run()
    except HandlerImportError as error:
        explain(error)
        raise
    finally:
        remaining = work.remaining
        await work.close()
    assert work.plan is not None
    return result_of(work.plan, work.told, done, remaining)
