"""The ladders: what is varied, what is measured on each rung, and the table that comes of it."""

import shutil
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench import engine, handlers
from bench.engine import ROOT
from bench.scaling.logs import fill
from bench.scaling.running import run, run_stream
from streamfn import limits
from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping.managing import Mappings
from streamfn.state.store import Store


class Rung(NamedTuple):
    at: int
    records: int
    data_dir: Path


class Ladder:
    """One thing that is varied; `rungs` in full, `quick` for a look at whether it runs."""

    name = title = unit = ""
    rungs = quick = ()
    columns = ("records/s", "lowest to highest", "first after", "runtime, MB", "each worker, MB")

    def build(self, directory, at, share):
        """Make what a rung runs on, with that share of the records."""
        raise NotImplementedError

    def run(self, rung):
        return run_stream(rung.data_dir, rung.records)

    def beside(self, rung, last):
        """What else is measured in the same round, by name."""
        return {}

    def row(self, rung, runs, besides):
        """The figures of a rung, medians of its rounds."""
        figures = {field: median(getattr(each, field) for each in runs) for field in runs[0]._fields}
        figures["rates"] = [each.rate for each in runs]
        figures |= {name: median(each[name] for each in besides) for name in besides[0]}
        return {"at": rung.at, "records": rung.records, **figures}

    def cells(self, row):
        """The cells of a row of the table, after the first."""
        low, high = min(row["rates"]), max(row["rates"])
        memory = (f"{row[name] / 1e6:.1f}" for name in ("runtime_bytes", "worker_bytes"))
        return [f"{row['rate']:,.0f}", f"{low:,.0f} to {high:,.0f}", f"{row['first_s']:.2f} s", *memory]


class Sizes(Ladder):
    name, title, unit = "sizes", "bytes a record", "bytes"
    rungs, quick = (64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576), (64, 1024, 1_048_576)
    columns = ("records/s", "MB/s", "records a batch", "floor, records/s", ": floor", "runtime, MB", "each worker, MB")
    MOST, BYTES = 1_000_000, 512 << 20

    def build(self, directory, at, share):
        count = int(share * min(self.MOST, self.BYTES // at))
        _, records = fill(directory, "bench", max(count, 64), at, engine.SHARDS)
        return Rung(at, records, directory)

    def beside(self, rung, last):
        batch = max(1, round(rung.records / last.batches))
        floor = engine.floor(handlers.noop, min(rung.records, 200_000), batch, rung.at)
        return {"floor": floor, "ratio": last.rate / floor}

    def cells(self, row):
        bytes_s = row["rate"] * row["at"] / 1e6
        figures = [f"{row['rate']:,.0f}", f"{bytes_s:,.0f}", f"{row['records'] / row['batches']:.0f}"]
        memory = [f"{row[name] / 1e6:.1f}" for name in ("runtime_bytes", "worker_bytes")]
        return [*figures, f"{row['floor']:,.0f}", f"**{row['ratio']:.2f}**", *memory]


class Shards(Ladder):
    name, title, unit = "shards", "shards", "shards"
    rungs, quick = (1, 4, 16, 64, 256, limits.SHARDS_MAX), (1, 16)
    RECORDS = 400_000

    def build(self, directory, at, share):
        _, records = fill(directory, "bench", int(share * self.RECORDS), 1024, at)
        return Rung(at, records, directory)


class Backlog(Ladder):
    name, title, unit = "backlog", "records of 128 bytes waiting", "records"
    rungs, quick = (10_000, 100_000, 1_000_000, 10_000_000), (10_000, 100_000)

    def build(self, directory, at, share):
        _, records = fill(directory, "bench", at, 128, engine.SHARDS)
        return Rung(at, records, directory)


class MappingsLadder(Ladder):
    """Each mapping has a stream of one shard; all are of one function, in one `streamfn run`."""

    name, title, unit = "mappings", "mappings", "mappings"
    rungs, quick = (1, 10, 100, 1000), (1, 10)
    columns = ("records/s", "lowest to highest", "first after", "all handled after", "runtime, MB", "each worker, MB")
    RECORDS = 200_000

    def build(self, directory, at, share):
        each = int(share * self.RECORDS) // at
        names = [fill(directory, f"s{number}", each, 1024, 1)[0].name for number in range(at)]
        data = DataDir.open(directory, create=False)
        with Store.open(data.state_path, create=True) as store:
            managing = Mappings(data, lambda: store, ROOT)
            for name in names:
                asked = {"FunctionName": "bench.handlers.noop", "EventSourceArn": name}
                managing.create({**asked, "StartingPosition": "TRIM_HORIZON"})
        shutil.copy(data.state_path, self._before(directory))
        return Rung(at, at * each, directory)

    def run(self, rung):
        state = DataDir.open(rung.data_dir, create=False).state_path
        for path in state.parent.glob(f"{state.name}-*"):
            path.unlink()  # what SQLite has beside it
        shutil.copy(self._before(rung.data_dir), state)  # nothing is done yet
        return run(rung.data_dir, rung.records)

    def _before(self, directory):
        return directory.with_suffix(".state")

    def cells(self, row):
        cells = super().cells(row)
        return [*cells[:3], f"{row['seconds']:.2f} s", *cells[3:]]


LADDERS = (Sizes(), Shards(), MappingsLadder(), Backlog())
