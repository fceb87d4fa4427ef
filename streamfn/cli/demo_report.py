"""What the demo computes, and how it is shown.

The handler returns a partial table for each batch; `DelayTable` merges them.  Delivery is at least once, so
the table knows for each shard how far it has merged: a batch below that is a repeat and adds nothing.  It is
saved with these positions at the end of a run.  Where they are those of the mapping's checkpoints the next
run goes on with it; where they are not (the process was killed between a checkpoint and its end), the demo
must start anew, because what was computed in between is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamfn.cli.demo_data import STREAM, write_whole
from streamfn.cli.demo_handler import MINUTES_NONE
from streamfn.cli.demo_handler import __file__ as HANDLER_FILE
from streamfn.cli.output import count_of

WORST_SHOWN = 10
# Routes flown less often say more about one bad day than about the route.
FLIGHTS_LEAST = 100
_BAR_COLUMNS = 20
_EIGHTHS = " ▏▎▍▌▋▊▉"


class Route(NamedTuple):
    """What is known of one route; delays are of arrivals, in minutes, negative for early."""

    name: str
    flights: int
    cancelled: int
    arrived: int
    delay_sum: int
    worst: int

    @property
    def mean_delay(self) -> float:
        """Minutes; 0 where nothing has arrived."""
        return self.delay_sum / self.arrived if self.arrived else 0.0


class DelayTable:
    """Delays by route, merged from the handler's answers."""

    def __init__(self, stream_id: str) -> None:
        """Begin empty, for the stream of that id."""
        self.stream_id = stream_id
        self.positions: dict[str, int] = {}
        self._routes: dict[str, list[int]] = {}

    def merge(self, shard_id: str, first_offset: int, records: int, payload: bytes) -> None:
        """Add the answer for a batch; one that has been added before changes nothing.

        Raises:
            ValueError: records before the batch are missing, or it is not what the handler returns.
        """
        position = self.positions.get(shard_id, 0)
        if first_offset + records <= position:
            return
        if first_offset != position:
            raise ValueError(f"{shard_id}: a batch begins at offset {first_offset}, {position} was expected")
        for name, (flights, cancelled, arrived, delay_sum, worst) in orjson.loads(payload)["routes"].items():
            route = self._routes.setdefault(name, [0, 0, 0, 0, MINUTES_NONE])
            route[0] += flights
            route[1] += cancelled
            route[2] += arrived
            route[3] += delay_sum
            route[4] = max(route[4], worst)
        self.positions[shard_id] = first_offset + records

    def is_at(self, checkpoints: Mapping[str, int]) -> bool:
        """Whether exactly the records below these offsets (by shard id) have been merged."""
        begun = {shard_id: offset for shard_id, offset in checkpoints.items() if offset}
        return begun == self.positions

    @property
    def routes(self) -> list[Route]:
        """All routes, the one with the worst mean delay first."""
        routes = [Route(name, *values) for name, values in self._routes.items()]
        return sorted(routes, key=lambda route: (-route.mean_delay, route.name))

    def save(self, path: Path) -> None:
        """Write the table to a file, whole or not at all.

        Raises:
            FailedError: it cannot be written.
        """
        content = {"stream_id": self.stream_id, "positions": self.positions, "routes": self._routes}
        write_whole(path, orjson.dumps(content))

    @classmethod
    def load(cls, path: Path, stream_id: str) -> DelayTable | None:
        """Return the saved table, or None: there is none, it is of another stream, or it is damaged."""
        table = cls(stream_id)
        try:
            content = orjson.loads(path.read_bytes())
            if content["stream_id"] != stream_id:
                return None
            table.positions, table._routes = dict(content["positions"]), dict(content["routes"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # it can be computed again
        return table


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSummary:
    """What the demo did.

    `records`, `batches` and `seconds` are of this run, which may have found nothing left to do.
    `latency_ms` is of whole batches, from hand-over to completion: p50, p90, p99, max.
    """

    table: DelayTable
    records: int
    batches: int
    seconds: float
    records_per_second: float
    workers: int
    latency_ms: Mapping[str, float]
    data_dir: Path
    interrupted: bool = False

    def to_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        return {
            "records": self.records,
            "batches": self.batches,
            "seconds": round(self.seconds, 3),
            "records_per_second": round(self.records_per_second),
            "workers": self.workers,
            "latency_ms": {name: round(value, 3) for name, value in self.latency_ms.items()},
            "routes": [
                {**route._asdict(), "mean_delay": round(route.mean_delay, 2)} for route in self.table.routes
            ],
        }


def render(summary: DemoSummary, console: Console) -> None:
    """Show the result: the worst routes, how fast it went, what to try next."""
    routes = summary.table.routes
    if not summary.records and not summary.interrupted:
        console.print("nothing left to do: all flights have been handled. What an earlier run found:\n")
    if routes:
        console.print(_worst_routes(routes))
        console.print()
        console.print(_totals(routes), highlight=False)
    if summary.records:
        console.print(_speed(summary), highlight=False)
    if summary.interrupted:
        console.print("interrupted: run it again and it goes on from there")
        return
    console.print()
    console.print(_next_steps(summary.data_dir), highlight=False, soft_wrap=True)


def _worst_routes(routes: list[Route]) -> Table:
    shown = [route for route in routes if route.flights >= FLIGHTS_LEAST][:WORST_SHOWN]
    longest = max((route.mean_delay for route in shown), default=0.0)
    table = Table(
        title=f"Where New York's flights of 2013 arrived latest (routes of {FLIGHTS_LEAST} flights and more)",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("route", no_wrap=True)
    table.add_column("mean delay", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=_BAR_COLUMNS)
    for column in ("worst", "flights", "cancelled"):
        table.add_column(column, justify="right", no_wrap=True)
    for route in shown:
        table.add_row(
            route.name.replace("-", " → "),
            f"{route.mean_delay:.1f} min",
            Text(bar(route.mean_delay, longest, _BAR_COLUMNS), style="red"),
            f"{route.worst / 60:.1f} h",
            f"{route.flights:,}",
            f"{100 * route.cancelled / route.flights:.1f}%",
        )
    return table


def bar(value: float, longest: float, columns: int) -> str:
    """Return a bar of block characters, to an eighth of a column; empty for what is not positive."""
    if value <= 0 or longest <= 0:
        return ""
    whole, eighths = divmod(round(min(value / longest, 1.0) * columns * 8), 8)
    return "█" * whole + (_EIGHTHS[eighths] if eighths else "")


def _totals(routes: list[Route]) -> str:
    flights, cancelled = sum(r.flights for r in routes), sum(r.cancelled for r in routes)
    arrived, delay_sum = sum(r.arrived for r in routes), sum(r.delay_sum for r in routes)
    mean = delay_sum / arrived if arrived else 0.0
    return (
        f"{count_of(flights, 'flight')} on {count_of(len(routes), 'route')}, {cancelled:,} cancelled, "
        f"{mean:.1f} minutes late on average"
    )


def _speed(summary: DemoSummary) -> str:
    latency = ", ".join(f"{name} {value:.1f} ms" for name, value in summary.latency_ms.items())
    return (
        f"{count_of(summary.records, 'record')} in {count_of(summary.batches, 'batch', 'batches')} "
        f"through {count_of(summary.workers, 'worker')} in {summary.seconds:.1f} s: "
        f"{summary.records_per_second:,.0f} records/s from log to durable checkpoint\n"
        f"a batch took {latency}"
    )


def _next_steps(data_dir: Path) -> Text:
    """Return commands that work as they stand in the directory the demo was run in."""
    where = "" if data_dir == Path(".streamfn") else f" --data-dir {data_dir}"
    steps = (
        ("look at the data", f"streamfn tail {STREAM} -n 3{where}"),
        ("see what lies where", f"streamfn inspect {STREAM}{where}"),
        ("take the handler", f"cp {HANDLER_FILE} delays.py"),
        ("change it, run yours", f"streamfn run delays.handler --stream {STREAM} --until-caught-up{where}"),
        ("your own records", f"streamfn import yours.jsonl --stream yours{where}"),
    )
    text = Text("Try next:\n")
    for what, command in steps:
        text.append(f"  {what:22}")
        text.append(f"{command}\n", style="bold")
    text.rstrip()
    return text
