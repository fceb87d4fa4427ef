"""What can be measured for docs/performance.md: a command each, which prints Markdown and may write JSON."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bench.engine import ROOT


class Section(NamedTuple):
    name: str
    command: tuple[str, ...]  # behind `python -m`
    minutes: float  # it takes about so many, on two cores
    quick: tuple[str, ...]  # arguments for a look at whether it runs
    json: bool = False  # whether it can also write what it has measured


SECTIONS = (
    Section("engine", ("bench",), 2, ("--records", "20000", "--rounds", "1")),
    Section("peers", ("bench.peers",), 8, ("--quick",), json=True),
    Section("scaling", ("bench.scaling",), 8, ("--quick",), json=True),
    Section("limit", ("bench.limit",), 1, ("--quick",), json=True),
    Section("profile", ("bench.profile",), 1, ("--quick",), json=True),
    Section("histogram", ("bench.histogram",), 0.5, ("--values", "100000", "--rounds", "1")),
    Section("pacing", ("bench.pacing",), 1, ("--seconds", "1")),
    Section("comparing", ("bench.comparing",), 0.5, ("--records", "20000")),
    Section("coldstart", ("bench.coldstart",), 0.5, ("--starts", "5", "--at-once", "5")),
    Section(
        "coldstart-sandbox",
        ("bench.coldstart", "--isolation", "sandbox"),
        0.5,
        ("--starts", "5", "--at-once", "5"),
    ),
    Section("idle", ("bench.idle",), 1.5, ("--mappings", "10", "--workers", "2")),
    Section("live", ("bench.live",), 3, ("--records", "100000", "--rounds", "2")),
    Section("append", ("bench.append",), 2, ("--rounds", "1", "--records", "20")),
    Section("bulk", ("bench.bulk",), 2, ("--megabytes", "20", "--rounds", "1")),
    Section("scale", ("bench.scale",), 1.5, ("--records", "1000000", "--shards", "20")),
    Section("memory", ("bench.memory",), 3, ("--records", "50000", "--appends", "20000")),
    Section("columns", ("bench.columns",), 2, ("--megabytes", "50", "--rounds", "1")),
    Section("filters", ("bench.filters",), 3, ("20000",)),
    Section("features", ("bench.features",), 10, ("--records", "20000", "--rounds", "1")),
)
BY_NAME = {section.name: section for section in SECTIONS}


def measure(section, *, quick=False, extra=()):
    """Run a section's command; return what belongs into the results."""
    command = [*section.command, *(section.quick if quick else ()), *extra]
    load = os.getloadavg()[0]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bench-document-") as directory:
        path = Path(directory, "measured.json")
        written = ["--json", str(path)] if section.json else []
        done = subprocess.run(
            [sys.executable, "-m", *command, *written], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        )
        data = json.loads(path.read_text()) if section.json else None
    return {
        "command": " ".join(("python -m", *section.command)),
        "load": round(load, 1),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.perf_counter() - began),
        "printed": done.stdout.strip(),
        "data": data,
    }
