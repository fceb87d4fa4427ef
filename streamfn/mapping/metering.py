"""What a runtime has to tell a monitoring system: its mappings and functions as Prometheus' metrics.

Names follow Prometheus' conventions (base units, `_total` for what only grows); docs/metrics.md says which metric of
AWS each one is. What is read here is kept anyway: without a scrape it costs nothing.

Counters outlive a mapping that is opened anew, as a request does to one that runs; they begin at 0 with the process,
but for the event counts, which are those in the store: since the mapping was made.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamfn._native import ffi, lib
from streamfn.mapping.observing import ages_ms, retrying_shards
from streamfn.mapping.result import Counts
from streamfn.measure.histogram import total
from streamfn.measure.prometheus import Distribution, Family, HistogramFamily
from streamfn.pool import linux
from streamfn.pool.function import Census
from streamfn.state.progress import Progress
from streamfn.version import VERSION

if TYPE_CHECKING:
    from streamfn.mapping.mapping import EventSourceMapping
    from streamfn.mapping.runtime import Runtime

# Bounds of the histograms' buckets in seconds: three a decade, from what an idle machine's round trip takes on, up to
# Lambda's longest timeout.
BOUNDS_S = (
    0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0, 300.0, 900.0,
)  # fmt: skip
_BOUNDS_NS = [round(bound * 1e9) for bound in BOUNDS_S]

# Each count of a run, what it is called here, and what it is.
_COUNTS = {
    "records": ("records_processed", "Records whose batch succeeded."),
    "batches": ("batches_processed", "Batches that succeeded."),
    "errors": ("invocation_errors", "Invocations that failed, or reported records that did."),
    "retries": ("invocation_retries", "Invocations with a batch that had failed before."),
    "discarded": ("records_discarded", "Records given up: retries used up, too old, or too large."),
    "trimmed": ("records_trimmed", "Records that retention took before they could be handed over."),
    "lost": ("records_lost", "Records that damage or a crash took."),
    "windows_closed": ("windows_closed", "Tumbling windows whose final invocation succeeded."),
    "windows_given_up": ("windows_given_up", "Calls of tumbling windows whose retries were used up."),
}
# Each event count of Lambda, likewise.
_EVENTS = {
    "polled": "Records read from the log; what was read ahead and not handed over is counted again by the next run.",
    "filtered_out": "Records that no filter wanted.",
    "invoked": "Records delivered to an invocation that ended, as often as they were.",
    "failed_invoke": "Of these, the ones that the invocation did not do.",
    "dropped": "Records discarded without an on-failure destination.",
    "on_failure_delivered": "Records whose on-failure record has reached its destination.",
}


@dataclass(slots=True)
class _Tall:
    """A histogram, reduced to what a scrape is told of it; they add up."""

    counts: list[int] = field(default_factory=lambda: [0] * len(BOUNDS_S))
    total: int = 0
    sum_s: float = 0.0

    def add(self, histogram: Any) -> None:
        """What an `sf_histogram *` has recorded, too."""
        if number := total(histogram):
            found = ffi.new("uint64_t[]", len(_BOUNDS_NS))
            lib.sf_histogram_cumulate(histogram, _BOUNDS_NS, len(_BOUNDS_NS), found)
            self.counts = [before + more for before, more in zip(self.counts, found, strict=True)]
            self.total += number
            self.sum_s += lib.sf_histogram_mean(histogram) * number / 1e9

    def distribution(self) -> Distribution:
        """As it is told."""
        return Distribution(BOUNDS_S, tuple(self.counts), self.total, self.sum_s)


@dataclass(slots=True)
class _Totals:
    """What the runs of one mapping have counted in this process."""

    counts: Counts = field(default_factory=Counts)
    invocations: int = 0
    duration: _Tall = field(default_factory=_Tall)
    latency: _Tall = field(default_factory=_Tall)

    def add(self, mapping: EventSourceMapping) -> None:
        """What all runs of this one have."""
        self.counts += mapping.earlier + mapping.counts
        self.invocations += mapping.bill.requests
        self.duration.add(mapping.duration)
        self.latency.add(mapping.latency)

    def copy(self) -> _Totals:
        """One that adds up on its own."""
        duration, latency = self.duration, self.latency
        return _Totals(
            self.counts,
            self.invocations,
            _Tall(list(duration.counts), duration.total, duration.sum_s),
            _Tall(list(latency.counts), latency.total, latency.sum_s),
        )


class Metering:
    """See the module. Made for a runtime before its mappings are; belongs to its Trio thread."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._ended: dict[tuple[str, str], _Totals] = {}
        runtime.on_part = self._keep

    def _keep(self, mapping: EventSourceMapping) -> None:
        self._ended.setdefault(_key(mapping), _Totals()).add(mapping)

    async def families(self) -> list[Family | HistogramFamily]:
        """Everything there is to tell now."""
        runtime = self._runtime
        mappings = list(runtime.open_mappings)
        found: list[Family | HistogramFamily] = [
            *self._of_mappings(mappings),
            *_of_functions(runtime),
            *_of_process(),
        ]
        uuids = {mapping.uuid: _key(mapping) for mapping in mappings}
        progress = await runtime.disk(runtime.store.all_progress)
        return [*found, *_of_events({uuids[uuid]: one for uuid, one in progress.items() if uuid in uuids})]

    def _of_mappings(self, mappings: Sequence[EventSourceMapping]) -> Iterable[Family | HistogramFamily]:
        totals = {key: ended.copy() for key, ended in self._ended.items()}
        for mapping in mappings:
            totals.setdefault(_key(mapping), _Totals()).add(mapping)
        yield from _counters(totals)
        for name, what in (
            ("duration", "Time an invocation took, from the worker's claim to the handler's end."),
            ("latency", "Time from handing a batch over to the end of its invocation."),
        ):
            family = HistogramFamily(f"streamfn_invocation_{name}_seconds", what)
            for key, one in totals.items():
                family.add(getattr(one, name).distribution(), **_labels(key))
            yield family
        yield from _gauges(mappings)


def _counters(totals: dict[tuple[str, str], _Totals]) -> Iterable[Family]:
    invocations = Family("streamfn_invocations_total", "Invocations that ended, failed ones among them.", "counter")
    for key, one in totals.items():
        invocations.add(one.invocations, **_labels(key))
    yield invocations
    for count, (name, what) in _COUNTS.items():
        family = Family(f"streamfn_{name}_total", what, "counter")
        for key, one in totals.items():
            family.add(getattr(one.counts, count), **_labels(key))
        yield family


def _gauges(mappings: Sequence[EventSourceMapping]) -> Iterable[Family]:
    info = Family("streamfn_mapping_info", "The stream that a mapping reads; always 1.")
    age = Family("streamfn_iterator_age_seconds", "Age of the oldest record of a shard that is not finished; 0: none.")
    lag = Family("streamfn_lag_records", "Records of a shard that are not finished, up to its committed end.")
    retrying = Family("streamfn_lanes_retrying", "Lanes that wait to deliver a failed batch again.")
    paused = Family("streamfn_mapping_paused", "1 while hand-over pauses because checkpoints cannot be written.")
    pending = Family("streamfn_on_failure_pending", "On-failure records whose destination does not take them.")
    for mapping in mappings:
        key = _key(mapping)
        labels = _labels(key)
        info.add(1, **labels, stream=mapping.stream.name)
        for shard_id, age_ms in ages_ms(mapping).items():
            age.add(max(0, age_ms or 0) / 1000, **labels, shard=shard_id)
        for feed in mapping.feeds:
            lag.add(max(0, feed.lag), **labels, shard=feed.shard.id)
        retrying.add(len(retrying_shards(mapping)), **labels)
        paused.add(mapping.stuck is not None, **labels)
        pending.add(mapping.on_failure_pending, **labels)
    return info, age, lag, retrying, paused, pending


def _of_functions(runtime: Runtime) -> Iterable[Family]:
    censuses: dict[str, Census] = {}
    for function in runtime.pool.functions:  # several may have one name
        name = function.config.name
        censuses[name] = censuses.get(name, Census()) + function.census()
    concurrent = Family("streamfn_concurrent_executions", "Workers that have something in flight.")
    workers = Family("streamfn_workers", "Workers by what they do.")
    most = Family("streamfn_workers_max", "Workers there may be.")
    throttles = Family(
        "streamfn_throttles_total", "How often something was due and found no worker, nor room for one more.", "counter"
    )
    for name, census in censuses.items():
        concurrent.add(census.busy + census.held_up, function=name)
        for state in ("busy", "held_up", "idle", "starting", "retiring"):
            workers.add(getattr(census, state), function=name, state=state)
        most.add(census.maximum, function=name)
        throttles.add(census.throttles, function=name)
    return concurrent, workers, most, throttles


def _of_events(progress: dict[tuple[str, str], Progress]) -> Iterable[Family]:
    for event, what in _EVENTS.items():
        family = Family(f"streamfn_{event}_events_total", what, "counter")
        for key, one in progress.items():
            family.add(getattr(one, event), **_labels(key))
        yield family


def _of_process() -> Iterable[Family]:
    """The runtime's own process, under the names that Prometheus' client libraries use for one."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    build = Family("streamfn_build_info", "The version that runs; always 1.")
    build.add(1, version=VERSION)
    cpu = Family("process_cpu_seconds_total", "CPU time of the runtime, without the workers'.", "counter")
    cpu.add(round(used.ru_utime + used.ru_stime, 6))
    start = Family("process_start_time_seconds", "When the process started, since 1970.")
    memory = Family("process_resident_memory_bytes", "Memory of the runtime, without the workers'.")
    files = Family("process_open_fds", "Open file descriptors.")
    fields = linux.stat_fields("self")
    since_boot_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    start.add(round(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot_s, 2))
    memory.add(int(fields[21]) * resource.getpagesize())
    files.add(len(os.listdir("/proc/self/fd")))
    return build, cpu, start, memory, files


def _key(mapping: EventSourceMapping) -> tuple[str, str]:
    return mapping.name, mapping.function.config.name


def _labels(key: tuple[str, str]) -> dict[str, str]:
    return {"mapping": key[0], "function": key[1]}
