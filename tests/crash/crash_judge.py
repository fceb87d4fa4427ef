"""Whether a log that was found after a crash keeps what was promised before it.

Every state is opened (by a reader first, or by a writer at once), read whole and compared with the records
that were given, appended to, and read again; then the power goes once more, which must not take anything away
that the recovery had shown.
"""

from __future__ import annotations

import random

from crash_world import Life, Moment, Told, Violation, expect_same, newborn, whole

from streamfn.errors import StreamfnError
from streamfn.log.durability import FSYNC, Durability
from streamfn.log.reader import ShardReader, horizon
from streamfn.log.segment import stream_path
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
        later: how many states of a second loss of power are read, after recovery and after a synced append (0:
            one, of the latter); the first is the one that lost everything that was not synced.
    """
    next_life = revive(image, told, durability, reader_first=reader_first, power=power, life=life)
    try:
        expect_stays(next_life, later)
        next_life.append(2)
        next_life.sync()
        next_life.checkpoint()
        if later:
            expect_whole(next_life)
        expect_stays(next_life, max(1, later))
    finally:
        next_life.end()
    if next_life.disk.open_files:
        raise Violation("leak", f"{next_life.disk.open_files} descriptors or mappings are still open")


def expect_stays(life: Life, states: int) -> None:
    """Raise Violation unless all that this life has shown is there after a loss of power now, in so many states."""
    if not states:
        return
    given = life.told.given
    for image in life.disk.crash().states(states, random.Random(0)):
        again = read(SimDisk(image))
        expect_same(again, life.told, len(given) - len(again))
        if len(again) < len(given):
            raise Violation("lost-record", f"{len(given)} records were shown after recovery, {len(again)} stayed")


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
        found = read(next_life.disk)
        expect_kept(found, told, power)
        if before is not None and before != (found if power else found[: len(before)]):
            raise Violation("changed", f"a reader saw {len(before)} records, the writer then {len(found)}")
        expect_clean_end(next_life)
        end = next_life.writer.end_offset
        if end < told.checkpoint:
            raise Violation("checkpoint-ahead", f"the log goes on at {end}, a mapping is at {told.checkpoint}")
        given = next_life.told.given[:end]
        next_life.told = next_life.told._replace(given=given, written=end, acknowledged=end, synced=end)
    except BaseException:
        next_life.end()
        raise
    return next_life


def read(disk: SimDisk) -> list[Record]:
    """Everything in the log."""
    shard = newborn()[1]._replace(disk=disk)
    try:
        with ShardReader.open(shard, horizon(shard)) as reader:
            return whole(reader)
    except StreamfnError as error:
        raise Violation("unreadable", str(error)) from error


def expect_kept(found: list[Record], told: Told, power: bool) -> None:
    """Raise Violation unless the records found are those that must be there, or were given beyond."""
    start = found[0].offset if found else 0
    if start > told.trimmed:
        raise Violation("lost-record", f"the log begins at {start}, but was trimmed to {told.trimmed}")
    expect_same(found, told, start)
    end = start + len(found)
    promised = told.synced if power else max(told.written, told.acknowledged)
    if end < promised:
        raise Violation("lost-record", f"the log ends at {end}, but {promised} records were acknowledged")


def expect_clean_end(life: Life) -> None:
    """Raise Violation unless zeros follow on the log's end, for readers that know no commit file."""
    known = life.published()
    assert known is not None
    left = life.disk.content(stream_path(life.shard, known.segment))[known.length :].rstrip(b"\0")
    if left:
        raise Violation("tail-left", f"{len(left)} bytes of a torn append are left at byte {known.length}")


def expect_whole(life: Life) -> None:
    """Raise Violation unless the log holds everything that this life has appended."""
    found = read(life.disk)
    expect_same(found, life.told, found[0].offset if found else 0)
    end = found[-1].offset + 1 if found else 0
    if end != len(life.told.given):
        raise Violation("lost-record", f"the log ends at {end} after appends up to {len(life.told.given)}")
    numbers = [(len(r.sequence_number), r.sequence_number) for r in found]
    if numbers != sorted(set(numbers)):
        raise Violation("number-reused", "sequence numbers do not rise")
