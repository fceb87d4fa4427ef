"""Bytes that are not what was written are found out, whichever they are: never delivered, never a crash.

Every single-bit flip and every cut of four kinds of message, every bit of whole files through a reader, and
smears, runs of zeros and truncations drawn by the seed.
"""

from __future__ import annotations

import random

import pytest
from crash_damage import KINDS, Log, Scanner, cold, delivered, log, message, salvaged, trimmed
from crash_world import SEGMENT_BYTES

from streamfn.errors import LogDamaged, LogError
from streamfn.log.shard import gaps
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage import commit
from streamfn.testing.disk import SimDisk

SMEARS = 20_000


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_of_a_message_is_found(kind, capsys):
    content, layout = message(KINDS[kind])
    scanner = Scanner(content, layout)
    assert scanner.accepts()
    undetected = []
    for at in range(len(content)):
        for bit in range(8):
            scanner.memory[at] ^= 1 << bit
            if scanner.accepts():
                undetected.append((at, bit))
            scanner.memory[at] ^= 1 << bit
    assert undetected == []
    assert scanner.accepts()
    with capsys.disabled():
        print(f"\nbit flips: {8 * len(content)} of a message of {kind}, 0 undetected", end="")


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_of_a_message_is_found(kind):
    """The rest is missing, or reads as zeros, or the beginning does."""
    content, layout = message(KINDS[kind])
    whole = Scanner(content, layout)
    size = len(content)
    for cut in range(size):
        assert not whole.accepts(cut)
        for torn in (content[:cut].ljust(size, b"\0"), bytes(cut) + content[cut:]):
            assert torn == content or not Scanner(torn, layout).accepts(), f"cut at {cut}"


def expect_found(damaged: Log, path: str, content: bytes, what: str, *, reboot: bool = False) -> None:
    """A reader says that the file is not what was written, and has delivered nothing but what lies before."""
    got, why = delivered(damaged.with_file(path, content, reboot=reboot), damaged.shard)
    assert got == damaged.content[: len(got)], f"wrong records: {path}, {what}"
    assert why, f"undetected: {path}, {what}"


@pytest.mark.parametrize("kind", ["one record", "records with NULLs in two columns"])
def test_every_flipped_bit_of_a_sealed_file_stops_the_reader(kind):
    """Header, messages, padding, index, footer."""
    whole = log(kind)
    path = min(path for path in whole.files() if path.endswith(".arrow"))
    content = bytearray(whole.image.files()[path])
    step = 1 if kind == "one record" else 11
    for bit in range(0, 8 * len(content), step):
        content[bit >> 3] ^= 1 << (bit & 7)
        expect_found(whole, path, bytes(content), f"bit {bit}")
        content[bit >> 3] ^= 1 << (bit & 7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reboot", [False, True], ids=["", "after a reboot"])
def test_flipped_bits_of_the_active_file_stop_the_reader(kind, reboot, crash_seed):
    whole = log(kind)
    path = next(path for path in whole.files() if path.endswith(".arrows"))
    content = bytearray(whole.image.files()[path])
    for bit in random.Random(crash_seed).sample(range(8 * whole.files()[path]), 2000):
        content[bit >> 3] ^= 1 << (bit & 7)
        expect_found(whole, path, bytes(content), f"bit {bit}", reboot=reboot)
        content[bit >> 3] ^= 1 << (bit & 7)


def smeared(chance: random.Random, content: bytes, size: int) -> tuple[bytes, str]:
    """The content with a random change somewhere in its first `size` bytes."""
    start = chance.randrange(size)
    length = min(size - start, chance.choice((1, 2, 4, 8, 16, 64, 512, 4096)))
    kind = chance.choice(("noise", "zeros", "copy", "cut"))
    stop = start + length
    if kind == "cut":
        return content[:start], f"cut at {start}"
    if kind == "copy":  # from somewhere else in the file
        source = chance.randrange(size)
        written = content[source : source + length]
    else:
        written = bytes(length) if kind == "zeros" else chance.randbytes(length)
    return content[:start] + written + content[start + len(written) :], f"{kind} at {start} to {stop}"


def test_smears_runs_of_zeros_and_truncations_are_found(crash_seed, capsys):
    chance = random.Random(crash_seed)
    logs = [log(kind) for kind in KINDS]
    found = number = 0
    while found < SMEARS:
        number += 1
        whole = chance.choice(logs)
        path, size = chance.choice(sorted(whole.files().items()))
        content = whole.image.files()[path]
        torn, what = smeared(chance, content, size)
        if torn == content:
            continue  # zeros over zeros
        what = f"smear {number} of seed {crash_seed}: {what}"
        expect_found(whole, path, torn, what, reboot=chance.random() < 0.3)
        found += 1
    with capsys.disabled():
        print(f"\nsmears, runs of zeros, truncations: {found}, 0 undetected; seed {crash_seed}", end="")


def test_a_writer_refuses_a_damaged_log_and_changes_nothing(crash_seed):
    """What a writer reads when it opens a shard is the last segment; what it cannot vouch for it does not touch."""
    whole = log("records with NULLs in two columns")
    path = next(path for path in whole.files() if path.endswith(".arrows"))
    content = whole.image.files()[path]
    chance = random.Random(crash_seed)
    refused = 0
    for _ in range(1000):
        torn, _ = smeared(chance, content, whole.files()[path])
        image = whole.with_file(path, torn, reboot=True)
        if torn == content:
            continue
        disk = SimDisk(image)
        with pytest.raises(LogDamaged):
            ShardWriter.open(
                whole.shard._replace(disk=disk), wait_s=0, segment_bytes=SEGMENT_BYTES, threaded=False
            )
        refused += 1
        found = disk.crash().killed().files()
        lock = next(path for path in found if path.endswith("/lock") and "shardId" in path)
        assert {**found, lock: b""} == {**image.files(), lock: b""}
    assert refused > 900


@pytest.mark.parametrize("kind", KINDS)
def test_salvage_delivers_the_rest_and_names_exactly_what_is_missing(kind, crash_seed):
    whole = log(kind)
    chance = random.Random(crash_seed)
    lost = 0
    for number in range(500):
        path, size = chance.choice(sorted(whole.files().items()))
        content = whole.image.files()[path]
        torn, what = smeared(chance, content, size)
        got, gaps = salvaged(whole.with_file(path, torn), whole.shard)
        what = f"smear {number} of seed {crash_seed}: {path}, {what}"
        there = {record.offset: record for record in got}
        missing = {offset for gap in gaps for offset in range(gap.first_offset, gap.end_offset)}
        assert all(there.get(record.offset, record) == record for record in whole.content), what
        assert {record.offset for record in whole.content} == there.keys() | missing, what
        assert not there.keys() & missing, what
        assert all(gap.why == "damaged" for gap in gaps), what
        lost += len(missing)
    assert lost


def test_every_flipped_bit_of_a_cold_file_stops_the_reader():
    """What was compressed is checked before it is inflated."""
    whole = cold("records with NULLs in two columns")
    path = min(path for path in whole.files() if path.endswith(".arrow"))
    content = bytearray(whole.image.files()[path])
    assert b"".join(record.data for record in whole.content) not in content
    for bit in range(0, 8 * len(content), 3):
        content[bit >> 3] ^= 1 << (bit & 7)
        expect_found(whole, path, bytes(content), f"bit {bit}")
        content[bit >> 3] ^= 1 << (bit & 7)


@pytest.mark.parametrize("name", ["commit"])
def test_every_flipped_bit_of_what_surrounds_the_segments_loses_nothing(name, monkeypatch):
    """The log says the same again, or that it is damaged; a writer restores what it needs."""
    monkeypatch.setattr(commit, "_ATTEMPTS", 2)  # nobody is writing it: reading a torn one again does not help
    whole = log("one record")
    path = str(whole.shard.directory / name)
    content = bytearray(whole.image.files()[path])
    for bit in range(8 * len(content)):
        content[bit >> 3] ^= 1 << (bit & 7)
        image = whole.with_file(path, bytes(content))
        content[bit >> 3] ^= 1 << (bit & 7)
        got, why = delivered(image, whole.shard)
        assert got == whole.content[: len(got)]
        assert got == whole.content or why, f"bit {bit}"
        disk = SimDisk(image)
        try:
            ShardWriter.open(
                whole.shard._replace(disk=disk), wait_s=0, segment_bytes=SEGMENT_BYTES, threaded=False
            ).close()
        except LogError as error:
            pytest.fail(f"bit {bit}: {error}")
        assert delivered(disk.crash().killed(), whole.shard) == (whole.content, "")


def test_every_flipped_bit_of_the_ledger_is_found_or_changes_nothing():
    """Nobody takes what was trimmed for lost, or the other way round, or skips what is there."""
    whole = trimmed("one record")
    path = str(whole.shard.directory / gaps.FILE_NAME)
    content = bytearray(whole.image.files()[path])
    same = salvaged(whole.image, whole.shard)
    assert [gap.why for gap in same[1]] == [gaps.TRIMMED]
    found = 0
    for bit in range(8 * len(content)):
        content[bit >> 3] ^= 1 << (bit & 7)
        image = whole.with_file(path, bytes(content))
        content[bit >> 3] ^= 1 << (bit & 7)
        try:
            assert salvaged(image, whole.shard) == same, f"bit {bit}"
        except LogError:
            found += 1
    assert found > 4 * len(content)
