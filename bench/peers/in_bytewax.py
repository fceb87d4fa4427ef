"""Bytewax: a dataflow whose source has ready-made JSON, and whose last step parses it and calls the handler.

collect P T    records, keyed by their shard, collected by `op.collect` into batches; P processes of T threads each
cut P T        records, in whatever batches the source emits them (`op.flat_map_batch`): no state, no key
events P T     ready-made events as items, so that nothing is to be collected
"""

import os
import sys
from datetime import timedelta

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import cluster_main, run_main
from orjson import loads

from bench import handlers
from bench.peers.job import answer, free_ports, job

SHARDS = 4


class Pieces(StatelessSourcePartition):
    """Lists of items, one after the other."""

    def __init__(self, pieces):
        self._pieces = iter(pieces)

    def next_batch(self):
        try:
            return next(self._pieces)
        except StopIteration:
            raise StopIteration from None


class Source(DynamicSource):
    """Each worker has every so many-th piece."""

    def __init__(self, pieces):
        self._pieces = pieces

    def build(self, step_id, worker_index, worker_count):
        return Pieces(self._pieces[worker_index::worker_count])


class Nowhere(DynamicSink, StatelessSinkPartition):
    """Results are let go of."""

    def build(self, step_id, worker_index, worker_count):
        return self

    def write_batch(self, items):
        pass


def pieces(asked, kind):
    """What the source emits at once."""
    if kind == "events":
        return [[event] for event in asked.events()]
    lines = asked.lines()
    cut = [lines[first : first + asked.batch] for first in range(0, len(lines), asked.batch)]
    if kind == "collect":
        shards = [f"shardId-{number:012d}" for number in range(SHARDS)]
        return [[(shards[place % SHARDS], line) for line in piece] for place, piece in enumerate(cut)]
    return cut


def flow(asked, kind, made):
    handler = getattr(handlers, asked.handler)

    def call(batch):
        return handler({"Records": [loads(line) for line in batch]}, None)

    dataflow = Dataflow("bench")
    stream = op.input("records", dataflow, Source(made))
    if kind == "collect":
        batches = op.collect("collect", stream, timeout=timedelta(seconds=10), max_size=asked.batch)
        results = op.map("handler", batches, lambda item: call(item[1]))
    elif kind == "cut":
        results = op.flat_map_batch("handler", stream, lambda batch: [call(batch)])
    else:
        results = op.map("handler", stream, lambda event: handler(loads(event), None))
    op.output("nowhere", results, Nowhere())
    return dataflow


def main():
    asked = job()
    kind, processes, threads = asked.way.split()
    dataflow = flow(asked, kind, pieces(asked, kind))
    if (processes, threads) == ("1", "1"):
        run_main(dataflow)
    else:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(int(processes))] if int(processes) > 1 else None
        others = []
        for number in range(1, int(processes)):
            pid = os.fork()
            if pid == 0:
                cluster_main(dataflow, addresses, number, worker_count_per_proc=int(threads))
                os._exit(0)
            others.append(pid)
        cluster_main(dataflow, addresses or [], 0, worker_count_per_proc=int(threads))
        if any(os.waitpid(pid, 0)[1] for pid in others):
            sys.exit("a process of the cluster failed")
    answer("bytewax", "orjson")


if __name__ == "__main__":
    main()
