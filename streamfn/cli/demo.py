"""`streamfn demo`."""

from __future__ import annotations

import click

from streamfn.cli.options import Settings, common_options
from streamfn.cli.run import default_workers
from streamfn.errors import RefusedError

_EPILOG = """\b
Examples:
  streamfn demo
  streamfn demo --json | jq .records_per_second

\b
The first run imports the flights as the stream flights, of 4 shards by carrier. Run
again, it finds nothing left to do and says so. No network is used.
"""


@click.command(epilog=_EPILOG)
@click.option("--workers", type=int, metavar="N", help="Worker processes.  [default: one per processor]")
@common_options
def demo(settings: Settings, workers: int | None) -> int:
    """Run a real handler on every flight that left New York City in 2013, and show what it found."""
    if workers is not None and workers < 1:
        raise RefusedError(f"--workers must be at least 1, not {workers}")
    from streamfn.cli.demo_run import run_demo

    workers = default_workers() if workers is None else workers
    return run_demo(settings.data_dir, settings.json_output, workers)
