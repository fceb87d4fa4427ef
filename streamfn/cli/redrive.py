"""`streamfn redrive`."""

from __future__ import annotations

from pathlib import Path

import click

from streamfn.cli.function_options import FunctionFlags, function_options
from streamfn.cli.options import Settings, common_options, metrics_option
from streamfn.cli.run_options import (
    environment_option,
    logs_option,
    on_damage_option,
    options_of_all,
    parse_environment,
    timeout_option,
    workers_option,
)

_EPILOG = """\b
Examples:
  streamfn redrive app.handler@orders --dry-run
  streamfn redrive app.handler@orders
  streamfn redrive UUID --timeout 30 --json
  streamfn redrive app.handler@orders --source s3:failed    (aws s3 sync s3://BUCKET failed)

\b
MAPPING is a mapping's name or UUID, made by `run` or by `mapping create`. What it
discarded is delivered again, at least once and in order, to its function, with the
options that are stored with it by now: mend the handler, then redrive. What fails again
is discarded again, with a new on-failure record, and is left for the next redrive.

\b
It has a checkpoint of its own: killed or interrupted, run it again and it goes on from
there; a second redrive finds nothing left. The mapping's own checkpoint is neither read
nor moved, and the mapping may run meanwhile.

\b
With --json: one object at the end, with records, batches, errors, discarded (again),
on_failure_records (how many were redriven), gone (records that are in the log no more),
too_large (records that no event has room for).

\b
Exit codes: 0 done, 1 failed (handler cannot be imported, another redrive of the mapping
runs, damage, disk), 2 refused before anything was made, 3 finished but records were
discarded again, are gone, or cannot be told, 130 and 143 interrupted before it was done.
"""


@click.command(epilog=_EPILOG)
@click.argument("mapping")
@click.option("--dry-run", is_flag=True, help="Say what is left, and deliver nothing.")
@click.option(
    "--source",
    default="",
    metavar="DESTINATION",
    help="Also on-failure records that lie there (as --on-failure has it) and are not known here.",
)
@workers_option
@timeout_option
@function_options
@environment_option
@logs_option("failed")
@on_damage_option
@metrics_option
@common_options
def redrive(
    settings: Settings,
    flags: FunctionFlags,
    mapping: str,
    dry_run: bool,
    source: str,
    workers: int | None,
    timeout: int | None,
    environment: tuple[str, ...],
    logs: str,
    on_damage: str,
    metrics_port: int | None,
) -> int:
    """Deliver again what MAPPING discarded."""
    from streamfn.cli.redriving import execute, print_plan
    from streamfn.mapping.destinations import resolve_destination

    ours = options_of_all(
        flags,
        workers=workers,
        timeout=timeout,
        environment=parse_environment(environment),
        logs=logs,
        on_damage=on_damage,
    )
    source = resolve_destination(source, Path.cwd())
    if dry_run:
        return print_plan(settings, mapping, source)
    return execute(settings, mapping, ours, source, metrics_port)
