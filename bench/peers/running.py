"""One run of a peer: a process of its own, timed by its handlers, whose counts and sums are checked."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from bench import engine, handlers
from bench.engine import ROOT, witnessed
from bench.peers.job import DISTINCT, LATENCY
from bench.peers.roster import SINGLE
from bench.records import checksum, ready_events, ready_records

TIMEOUT_S = 300


class NotHereError(Exception):
    """A peer that cannot be run here: its message says why."""


class Run(NamedTuple):
    rate: float  # records per second
    versions: dict[str, str]


def write_material(place, cases):
    """The log for streamfn, and the same records ready-made for its peers."""
    engine.write_log(place.log, place.logged)
    os.mkdir(place.material)
    for batch in {case.batch for case in cases} | {SINGLE.batch}:
        Path(place.material, f"events-{batch}").write_bytes(b"\n".join(ready_events(DISTINCT, batch)))
    Path(place.material, "records").write_bytes(b"\n".join(ready_records(DISTINCT)))


def expected(case, records):
    """What the handlers' values add up to."""
    if case.handler == "noop":
        return records
    rounds, rest = divmod(records, DISTINCT)
    return rounds * checksum(DISTINCT) + checksum(rest)


class Place(NamedTuple):
    """Where runs happen: the peers' interpreter, the ready-made records, the log and how many records it holds."""

    python: str
    material: str
    log: str
    logged: int

    def ours(self, case):
        """A run of streamfn."""
        return Run(engine.streamfn(self.log, case.handler, self.logged, case.batch), {})

    def run(self, peer, way, case, share=1.0):
        """A run of a peer, with that share of the records that are meant for it."""
        if not peer.module:
            return self.ours(case)
        records = max(case.batch * 100, int(peer.records[case] * share) // 100 * 100)
        with witnessed() as witness:
            said = self._process(peer, case.handler, case.batch, records, way.key)
            seen, total, seconds = handlers.read_witnesses(witness)
        if (seen, total) != (records, expected(case, records)):
            raise AssertionError(f"{peer.name} ({way.key}), {case}: {seen} of {records} records, sum {total}")
        return Run(records / seconds, said["versions"])

    def latency(self, peer):
        """Nanoseconds of round trips of one record each, one after the other."""
        with witnessed():
            return self._process(peer, "noop", 1, DISTINCT, LATENCY)["times_ns"]

    def _process(self, peer, handler, batch, records, way):
        command = [self.python, "-m", f"bench.peers.{peer.module}"]
        command += [self.material, handler, str(batch), str(records), way]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            if last.startswith("ModuleNotFoundError") or "PackageNotFoundError" in last:
                raise NotHereError(f"not installed: {last.partition(': ')[2]}")
            print(done.stderr, file=sys.stderr)
            raise AssertionError(f"{peer.name} ({way}) failed: {last}")
        return json.loads(done.stdout.splitlines()[-1])
