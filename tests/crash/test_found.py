"""What the crash states have found in the log: one test for each, as short as it gets."""

from __future__ import annotations

import errno
import random

import pytest
from crash_explore import Explorer
from crash_judge import judge, read, revive
from crash_scripts import long_script
from crash_told import Moment, Told
from crash_world import RESERVE_BLOCK, Life, newborn

from streamfn.errors import DiskFull, RefusedError
from streamfn.log.shard import reserve
from streamfn.log.storage.durability import OS
from streamfn.testing.disk import SimDisk
from streamfn.types import NewRecord


def killed_at(call: str, *steps: str) -> Moment:
    """The moment before the last call of this name of the last step (no step: of opening a new shard)."""
    moments: list[Moment] = []
    found: list[Moment] = []
    disk = SimDisk(newborn()[0])
    disk.before = lambda name: found.append(life_or_opening()) if name == call else None

    def life_or_opening() -> Moment:
        return life.moment() if life is not None else Moment(disk.crash(), Told())

    life: Life | None = None
    life = Life(disk, Told(), moments=moments)
    for step in steps:
        found.clear()
        life.step(step)
    disk.before = None
    life.end()
    return found[-1]


def test_a_new_segment_whose_name_was_not_synced_stays_after_the_next_writers_acknowledgement():
    moment = killed_at("sync_directory")
    judge(moment.crash.killed(), moment.told, reader_first=False, power=False, later=1000)


def test_both_forms_of_a_segment_are_not_lost_when_sealing_was_killed_before_the_name_was_synced():
    moment = killed_at("sync_directory", "append", "roll", "seal")
    judge(moment.crash.killed(), moment.told, reader_first=False, power=False, later=1000)


def test_what_several_killed_writers_left_unsynced_is_read_by_the_next():
    told, image = Told(), newborn()[0]
    for _ in range(3):
        life = Life(SimDisk(image), told, OS)
        life.append()
        moment = life.moment()
        life.end()
        told, image = moment.told, moment.crash.killed()
    judge(image, told, OS, reader_first=False, power=False, later=1000)


def test_a_recovery_that_is_killed_still_leaves_the_log_above_every_checkpoint():
    """Records with captured numbers, seen, and lost with the power: the reserve has two things to remember."""
    life = Life(SimDisk(newborn()[0]), Told(), OS)
    for step in ("append", "sync", "captured", "checkpoint"):
        life.step(step)
    moment = life.moment()
    life.end()
    moments: list[Moment] = []
    revive(moment.crash.lost(), moment.told, OS, reader_first=False, power=True, moments=moments).end()
    assert moments
    for killed in moments:
        judge(killed.crash.killed(), killed.told, OS, reader_first=False, power=False)
        judge(killed.crash.lost(), killed.told, OS, reader_first=False, power=True)


def failing(life: Life, records: list[NewRecord]) -> None:
    """An append whose first write is refused by the disk."""

    def full(name: str) -> None:
        if name == "pwrite":
            raise OSError(errno.ENOSPC, "No space left on device")

    life.disk.before = full
    with pytest.raises(DiskFull):
        life.writer.append(records)
    life.disk.before = None


def test_captured_records_that_found_no_room_may_come_again():
    life = Life(SimDisk(newborn()[0]), Told())
    captured = [NewRecord(b"x", "k", sequence_number=number) for number in ("7", "9")]
    life.writer.append(captured[:1])
    failing(life, captured[1:])
    life.writer.append(captured[1:])
    with pytest.raises(RefusedError, match="does not follow 9"):
        life.writer.append(captured[1:])
    life.writer.append([NewRecord(b"y", "k")])
    life.sync()
    numbers = [record.sequence_number for record in read(life.disk).records]
    life.end()
    assert numbers[:2] == ["7", "9"]
    assert int(numbers[2]) > 9


def test_captured_records_follow_what_is_there_after_records_without_numbers_found_no_room():
    life = Life(SimDisk(newborn()[0]), Told())
    failing(life, [NewRecord(b"x", "k")])
    life.writer.append([NewRecord(b"y", "k", sequence_number="7")])
    failing(life, [NewRecord(b"x", "k")])
    life.writer.append([NewRecord(b"z", "k", sequence_number="8")])
    life.sync()
    numbers = [record.sequence_number for record in read(life.disk).records]
    life.end()
    assert numbers == ["7", "8"]


@pytest.mark.parametrize(
    ("seed", "number"),
    [
        pytest.param(2029, 3522, id="a refused append came back"),
        pytest.param(2029, 7441, id="the reserve was not synced"),
        pytest.param(2030, 19342, id="what an opening had cut off came back before the next sync"),
        pytest.param(2030, 17852, id="and behind other records"),
        pytest.param(2030, 40251, id="and where nothing is ever synced"),
    ],
)
def test_scripts_that_broke_a_promise_keep_it(seed, number, monkeypatch):
    monkeypatch.setattr(reserve, "BLOCK", RESERVE_BLOCK)
    explorer = Explorer(seed, 1 << 30, 0, 1)
    chance = random.Random(f"{seed}/{number}")
    explorer._long(long_script(chance), number, chance)
    assert explorer.states > 100
    assert not explorer.broken, "\n".join(explorer.broken)
