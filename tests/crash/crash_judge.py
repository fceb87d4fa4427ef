"""Whether a log that was found after a crash keeps what was promised before it.

Every state is opened (by a reader first, or by a writer at once), read whole and compared with the records
that were given, appended to, and read again; then the power goes once more, which must not take anything away
that the recovery had shown.
"""

from __future__ import annotations

import random

from crash_told import Moment, Seen, Told, Violation, as_found, expect_same, number_of, whole, without_lost
from crash_world import Life, newborn

from streamfn.errors import StreamfnError
from streamfn.log.segment.segment import stream_path
from streamfn.log.shard.gaps import LOST, TRIMMED
from streamfn.log.shard.reader import ShardReader
from streamfn.log.storage.durability import FSYNC, Durability
from streamfn.testing.disk import SimDisk
from streamfn.testing.volatile import Image
from streamfn.types import Record


def judge(
    image: Image,
    told: Told,
    durability: Durability = FSYNC,
    *,
    reader_first: bool,
    power: bool,
    life: type[Life] = Life,
    later: int = 0,
) -> None:
    """Raise Violation unless the log keeps its promise on the disk `image`.

    Args:
        told: what the outside knew when everything ended.
        reader_first: recover by a reader, before there is a writer.
        power: whether the power went; otherwise the process was killed and the system went on.
        later: how many states of a second loss of power are read, after recovery and after a synced append; the
            first is the one that lost everything that was not synced.
    """
    next_life = revive(image, told, durability, reader_first=reader_first, power=power, life=life)
    try:
        expect_stays(next_life, later)
        before = next_life.told
        next_life.append(2)
        next_life.sync()
        delivered = next_life.checkpoint()
        expect_disposed(next_life.told)
        expect_new_numbers(delivered[-2:], before)
        if later:
            expect_whole(next_life)
        expect_stays(next_life, later)
    finally:
        next_life.end()
    if next_life.disk.open_files:
        raise Violation("leak", f"{next_life.disk.open_files} descriptors or mappings are still open")


def expect_stays(life: Life, states: int) -> None:
    """Raise Violation unless all that this life has promised is there after a loss of power now, in so many states."""
    if not states:
        return
    for image in life.disk.crash().states(states, random.Random(0)):
        again = read(SimDisk(image))
        expect_same(again, life.told, 0)
        if again.end < life.told.synced:
            raise Violation("lost-record", f"{life.told.synced} records were shown after recovery, {again.end} stayed")


def revive(
    image: Image,
    told: Told,
    durability: Durability,
    *,
    reader_first: bool,
    power: bool,
    life: type[Life] = Life,
    moments: list[Moment] | None = None,
) -> Life:
    """Open the log, compare it with what was told, and return its next life (`moments`: see `Life.watch`)."""
    if power:  # what was only written is not promised any more
        told = told._replace(written=told.synced, acknowledged=told.synced)
    disk = SimDisk(image)
    before = None
    try:
        if reader_first:
            before = read(disk)
        next_life = life(disk, told, durability, moments)
    except StreamfnError as error:
        raise Violation("refused", f"the log cannot be opened: {error}") from error
    try:
        seen = read(next_life.disk)
        expect_kept(seen, told, power)
        # A reader recovers what is there; only a writer goes on behind what may have been lost.
        exact = power and not told.weak
        if before is not None and outline(before) != outline(seen, None if exact else before.end):
            raise Violation("changed", f"a reader saw {before.end} records, the writer then {seen.end}")
        expect_clean_end(next_life)
        end = next_life.writer.end_offset
        if end != seen.end:
            raise Violation("hole", f"readers see an end at {seen.end}, the writer goes on at {end}")
        told = as_found(without_lost(next_life.told, seen.gaps), seen)
        next_life.told = told._replace(written=end, acknowledged=end, synced=end)
    except BaseException:
        next_life.end()
        raise
    return next_life


def outline(seen: Seen, end: int | None = None) -> object:
    """What can be compared of what was seen, below an offset (None: all of it)."""
    end = seen.end if end is None else end
    gaps = [(gap.first_offset, min(gap.end_offset, end), gap.why) for gap in seen.gaps if gap.first_offset < end]
    return [record for record in seen.records if record.offset < end], gaps, min(end, seen.end)


def read(disk: SimDisk) -> Seen:
    """Everything in the log."""
    shard = newborn()[1]._replace(disk=disk)
    try:
        with ShardReader.open(shard, 0) as reader:
            return whole(reader)
    except StreamfnError as error:
        raise Violation("unreadable", str(error)) from error


def expect_kept(seen: Seen, told: Told, power: bool) -> None:
    """Raise Violation unless what is found is what must be there, or was given beyond."""
    expect_same(seen, told, 0)
    promised = told.synced if power else max(told.written, told.acknowledged)
    for gap in seen.gaps:
        if gap.why == TRIMMED:
            if gap.end_offset > told.trimmed:
                raise Violation("lost-record", f"{gap}, but a trim up to {told.trimmed} was asked for")
        elif any(told.given[gap.first_offset : min(gap.end_offset, promised)]):
            raise Violation("lost-record", f"{gap}, but {promised} records were promised")
        elif gap.why != LOST or (not told.weak and any(told.given[gap.first_offset : gap.end_offset])):
            raise Violation("lost-record", f"{gap}, though every sync was waited for")
    if seen.end < promised:
        raise Violation("lost-record", f"the log ends at {seen.end}, but {promised} records were acknowledged")
    if seen.end < told.checkpoint:
        raise Violation("checkpoint-ahead", f"the log goes on at {seen.end}, a mapping is at {told.checkpoint}")


def expect_clean_end(life: Life) -> None:
    """Raise Violation unless zeros follow on the log's end, for readers that know no commit file."""
    known = life.published()
    assert known is not None
    left = life.disk.content(stream_path(life.shard, known.segment))[known.length :].rstrip(b"\0")
    if left:
        raise Violation("tail-left", f"{len(left)} bytes of a torn append are left at byte {known.length}")


def expect_disposed(told: Told) -> None:
    """Raise Violation unless every record below the checkpoint has one disposition, and none beyond it."""
    at = 0
    for first, end, why in sorted(told.disposed):
        if first != at:
            raise Violation("disposition", f"records {at} to {first} have none, or two ({why})")
        at = end
    if at != told.checkpoint:
        raise Violation("disposition", f"the checkpoint is {told.checkpoint}, dispositions end at {at}")


def expect_new_numbers(new: list[Record], before: Told) -> None:
    """Raise Violation unless two new records have sequence numbers above all that were ever seen before them."""
    numbers = [before.number, *map(number_of, new)]
    if len(new) != 2 or numbers != sorted(set(numbers)):
        raise Violation("number-reused", f"after {before.number[1]} come {[number for _, number in numbers[1:]]}")


def expect_whole(life: Life) -> None:
    """Raise Violation unless the log holds everything that this life has appended."""
    seen = read(life.disk)
    expect_same(seen, life.told, 0)
    if seen.end != len(life.told.given):
        raise Violation("lost-record", f"the log ends at {seen.end} after appends up to {len(life.told.given)}")
    numbers = [number_of(record) for record in seen.records]
    if numbers != sorted(set(numbers)):
        raise Violation("number-reused", "sequence numbers do not rise")
