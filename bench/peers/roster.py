"""Who is measured, in which ways, and what streamfn is to reach against each.

A peer's ways are the configurations that could be its best; all are tried in the first round, the fastest one goes on.
"""

from dataclasses import dataclass, field
from typing import NamedTuple


class Case(NamedTuple):
    handler: str
    batch: int

    def __str__(self):
        return f"{self.handler}, batch {self.batch}"


NOOP, REAL, SINGLE = Case("noop", 100), Case("real", 100), Case("noop", 1)
CASES = (NOOP, REAL, SINGLE)
BEST_BAR = {REAL: 1.6}  # times the best rival


class Way(NamedTuple):
    key: str  # what the peer's process is told
    text: str
    why: str = ""  # where its makers say so


@dataclass(frozen=True, eq=False)
class Peer:
    """`module` runs it, in the peers' environment; streamfn itself has none."""

    name: str
    module: str
    has: str  # of what streamfn does, or why it is here
    ways: tuple[Way, ...]
    records: dict[Case, int]  # that go through it in a run, some half a second or more of work
    bars: dict[Case, float] = field(default_factory=dict)
    rival: bool = True  # counts as a peer; else a limit to compare with
    calls: bool = True  # can be asked for one invocation, and waited for


FUTURES = "https://docs.python.org/3/library/concurrent.futures.html"
PARALLEL = "https://trio-parallel.readthedocs.io/en/latest/"
SCALING = "https://github.com/bytewax/bytewax"
CLUSTERS = {"1 1": "1 process", "1 2": "1 process, 2 threads", "2 1": "2 processes"}  # processes and threads
RIE = "https://github.com/aws/aws-lambda-runtime-interface-emulator"
MINISTACK = "https://pypi.org/project/ministack/"

STREAMFN = Peer(
    "streamfn",
    "",
    "reads its log, checks CRCs, makes events, keeps order per shard, checkpoints durably",
    (Way("run", "2 workers"),),
    dict.fromkeys(CASES, 0),  # whatever the log holds
)
PEERS = (
    Peer(
        "floor: one process, nothing handed over",
        "in_floor",
        "ready-made events; no log, no order, no checkpoint, no processes",
        (Way("loop", "a loop"),),
        {NOOP: 200_000, REAL: 100_000, SINGLE: 200_000},
        rival=False,
    ),
    Peer(
        "ProcessPoolExecutor",
        "in_process_pool",
        "ready-made events; no log, no order, no checkpoint",
        (
            Way("submit", "2 workers, `submit`, 64 in flight", f"{FUTURES}#concurrent.futures.Executor.submit"),
            *(
                Way(
                    f"map {size}",
                    f"2 workers, `map` with chunksize {size}",
                    f"{FUTURES}#concurrent.futures.Executor.map",
                )
                for size in (8, 64)
            ),
        ),
        {NOOP: 200_000, REAL: 100_000, SINGLE: 40_000},
        {NOOP: 5},
    ),
    Peer(
        "trio-parallel",
        "in_trio_parallel",
        "ready-made events; no log, no order, no checkpoint",
        (
            Way("tasks", "2 workers, an event a call", PARALLEL),
            *(Way(f"tasks {size}", f"2 workers, {size} events a call", PARALLEL) for size in (8, 64)),
        ),
        {NOOP: 100_000, REAL: 100_000, SINGLE: 20_000},
        {NOOP: 5},
    ),
    Peer(
        "Bytewax",
        "in_bytewax",
        "ready-made records; makes the batches, keeps order per key; no log, no checkpoint (its recovery is off)",
        tuple(Way(f"collect {key}", f"`op.collect`, {text}", SCALING) for key, text in CLUSTERS.items()),
        {NOOP: 100_000, REAL: 100_000, SINGLE: 40_000},
        {NOOP: 6},
        calls=False,
    ),
    Peer(
        "Bytewax, nothing to collect",
        "in_bytewax",
        "ready-made events, or batches as its source cuts them: no order, no state",
        tuple(
            Way(f"{kind} {key}", f"{what}, {CLUSTERS[key]}", SCALING)
            for kind, what in (("cut", "`op.flat_map_batch`"), ("events", "events as items"))
            for key in ("1 1", "2 1")
        ),
        {NOOP: 200_000, REAL: 100_000, SINGLE: 100_000},
        rival=False,
    ),
    Peer(
        "awslambdaric behind an emulator",
        "in_emulator",
        "ready-made events over HTTP, one at a time each; no log, no order, no checkpoint; the emulator is "
        "AWS's binary where it is at hand, else our own reading of its protocol (`bench.peers.emulator`)",
        (Way("emulators 1", "one emulator", RIE), Way("emulators 2", "two emulators, a runtime each", RIE)),
        {NOOP: 20_000, REAL: 20_000, SINGLE: 2_000},
        {NOOP: 30},
    ),
    Peer(
        "MiniStack",
        "in_ministack",
        "a Kinesis event source mapping on 4 shards: its stream in memory, its own batches; no durable checkpoint",
        (Way("one poller", "as it is: one poller for all mappings", MINISTACK),),
        {NOOP: 10_000, REAL: 10_000},
        {NOOP: 300},
    ),
)
ABSENT = {
    "moto": "its event source mappings call a function in Docker, for each put record alone, before the put returns; "
    "without Docker they call nothing",
    "LocalStack": "needs an account's token and Docker",
    "SAM CLI": "has no event source mappings",
}
