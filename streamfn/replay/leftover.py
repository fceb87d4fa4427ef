"""What is left of what a mapping discarded: which records a redrive has to deliver, in which passes.

Left is what was discarded and not redriven since. Not so records too large for any event: no invocation can have them.
Of the others those are delivered that are still in the log; what retention or a crash has taken is counted as gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from streamfn.core.ranges import Ranges
from streamfn.errors import RefusedError
from streamfn.events.failure_record import RECORD_TOO_LARGE
from streamfn.log.shard import gaps
from streamfn.mapping.position import committed_end
from streamfn.state.discards import Discard, StoredDiscard

if TYPE_CHECKING:
    from streamfn.log.catalog.datadir import DataDir
    from streamfn.log.catalog.stream import Shard, Stream
    from streamfn.state.store import Store, StoredMapping


class Pass(NamedTuple):
    """Discards that are delivered together.

    `ids` are theirs; `wanted` says by shard which records are still to be delivered, of those that are there; `ends`
    where the pass ends in each of these shards. `under_way`: an earlier redrive has begun it.
    """

    ids: tuple[int, ...]
    wanted: dict[str, Ranges]
    ends: dict[str, int]
    under_way: bool

    @property
    def records(self) -> int:
        """How many are to be delivered."""
        return sum(len(ranges) for ranges in self.wanted.values())

    @property
    def starts(self) -> dict[str, int]:
        """The first of them in each shard."""
        return {shard_id: next(iter(ranges))[0] for shard_id, ranges in self.wanted.items()}


class Plan(NamedTuple):
    """What a redrive of a mapping has to do.

    `on_failure_records` counts the discards that are left, `gone` those of their records that are not in the log any
    more, `too_large` discarded records that are left where they are, `pending` on-failure records of earlier redrives
    that have not reached their destination.
    """

    mapping: StoredMapping
    stream: Stream
    passes: tuple[Pass, ...]
    on_failure_records: int
    gone: int
    too_large: int
    pending: int

    @property
    def records(self) -> int:
        """How many are to be delivered."""
        return sum(each.records for each in self.passes)

    @property
    def shards(self) -> dict[str, int]:
        """How many of them lie in each shard."""
        counts: dict[str, int] = {}
        for each in self.passes:
            for shard_id, ranges in each.wanted.items():
                counts[shard_id] = counts.get(shard_id, 0) + len(ranges)
        return dict(sorted(counts.items()))

    @property
    def is_empty(self) -> bool:
        """Nothing is left to do."""
        return not self.passes and not self.pending


def found(data: DataDir, store: Store, which: str) -> tuple[StoredMapping, Stream]:
    """Return a mapping, by its UUID or name, and its stream. Waits for the disk.

    Raises:
        RefusedError: there is no such mapping, or its stream was deleted.
    """
    mapping = store.find(which)
    if mapping is None:
        known = ", ".join(each.name for each in store.mappings()[:10])
        raise RefusedError(f"unknown mapping {which!r} in {data.path}: there is {known or 'none yet'}")
    return mapping, data.stream_by_id(mapping.stream_id)


def plan(data: DataDir, store: Store, which: str, told: Sequence[Discard] = ()) -> Plan:
    """Find out what a redrive of a mapping has to do; `which` is its UUID or name. Waits for the disk, changes nothing.

    `told` are discards that the store does not know of.

    Raises:
        RefusedError: there is no such mapping, or its stream was deleted.
        LogDamaged: where the log ends, or what is missing in it, cannot be read.
    """
    mapping, stream = found(data, store, which)
    redrive = store.redrive_of(mapping.uuid)
    done = {} if redrive is None else {name: one.offset for name, one in store.checkpoints(redrive).items()}
    all_ = [*store.discards(mapping.uuid), *(StoredDiscard(-1, each, 0, None, 0) for each in told)]
    failed = [one for one in all_ if one.discard.failure is not None and one.redriven_ms is None]
    left = [each for each in failed if each.discard.reason != RECORD_TOO_LARGE]
    # A window is closed by what comes behind it: only where a run goes on to the shard's end.
    windowed = bool(mapping.options.get("TumblingWindowInSeconds"))
    passes, gone = [], 0
    for under_way in (True, False):
        discards = [each for each in left if each.redriving == under_way]
        if discards:
            wanted, ends, missing = _wanted(stream, discards, done if under_way else {}, to_the_end=windowed)
            passes.append(Pass(tuple(each.id for each in discards), wanted, ends, under_way))
            gone += missing
    pending = 0 if redrive is None else store.pending_count(redrive)
    return Plan(mapping, stream, tuple(passes), len(left), gone, len(failed) - len(left), pending)


def offsets_of(discards: Iterable[StoredDiscard]) -> dict[str, Ranges]:
    """Return the records that some discards speak of, by shard."""
    found: dict[str, list[tuple[int, int]]] = {}
    for discard, failure in ((each.discard, each.discard.failure) for each in discards):
        ranges = found.setdefault(discard.shard_id, [])
        if failure is not None and failure.offsets is not None:
            ranges += Ranges.of(failure.offsets)
        else:
            ranges.append((discard.first_offset, discard.end_offset))
    return {shard_id: Ranges(ranges) for shard_id, ranges in found.items()}


def _wanted(
    stream: Stream, discards: Sequence[StoredDiscard], done: Mapping[str, int], *, to_the_end: bool
) -> tuple[dict[str, Ranges], dict[str, int], int]:
    """The records of some discards that are there, where a run over them ends, and how many are gone.

    `done` is where its checkpoints are: what lies before them is neither.
    """
    wanted: dict[str, Ranges] = {}
    ends: dict[str, int] = {}
    gone = 0
    for shard_id, spoken_of in offsets_of(discards).items():
        if not spoken_of:
            continue
        shard = stream.shard(shard_id)
        assert shard is not None, "shards of a stream stay in its description for ever"
        asked = spoken_of.clipped(done.get(shard_id, 0))
        end, there = _there(shard, asked)
        gone += len(asked) - len(there)
        if there:
            wanted[shard_id], ends[shard_id] = there, end if to_the_end else there.end
    # Of what was told by a destination alone, records may have been gone before anybody knew their offsets.
    return wanted, ends, gone + sum(map(_unknown, discards))


def _unknown(one: StoredDiscard) -> int:
    """How many of a discard's records have no offsets."""
    discard, failure = one.discard, one.discard.failure
    assert failure is not None
    return failure.records - (
        discard.end_offset - discard.first_offset if failure.offsets is None else len(failure.offsets)
    )


def _there(shard: Shard, asked: Ranges) -> tuple[int, Ranges]:
    """Where a shard ends, and what of these records is in it."""
    end = committed_end(shard)
    missing = Ranges((gap.first_offset, gap.end_offset) for gap in gaps.read(shard).gaps)
    return end, asked.clipped(0, end).without(missing)
