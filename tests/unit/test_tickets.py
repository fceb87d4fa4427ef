"""Tickets: what a killed writer's note says of each put that has no answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard
from streamfn.log.producer.tickets import Ticket, Tickets
from streamfn.log.sharing.frames import Hello, Verdict

ALICE, BOB = b"a" * 16, b"b" * 16
UNKNOWN, NEVER = Verdict(False), Verdict(True)


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return DataDir.open(tmp_path / "data", create=True).create_stream("s").shards[0]


def killed(shard: Shard, epoch: int, *tickets: Ticket, end_offset: int = 0) -> Tickets:
    """A writer that noted a group and then was there no more."""
    left = Tickets(shard, epoch, end_offset)
    left.begin()
    if tickets:
        left.note(tickets)
    return left


def asked(tickets: Tickets, client: bytes, number: int, lost_epoch: int) -> Verdict:
    return tickets.verdict(Hello(client, lost_epoch, (number,)), number)


def test_what_the_log_holds_was_appended_and_what_it_does_not_was_not(shard: Shard) -> None:
    killed(shard, 5, Ticket(ALICE, 1, 100, 3), Ticket(BOB, 9, 103, 2))
    after = Tickets(shard, 6, end_offset=103)
    assert asked(after, ALICE, 1, 5) == Verdict(True, 100)
    assert asked(after, BOB, 9, 5) == NEVER


def test_what_is_not_in_the_note_was_never_appended(shard: Shard) -> None:
    killed(shard, 5, Ticket(ALICE, 1, 100, 3))
    after = Tickets(shard, 6, end_offset=500)
    assert asked(after, ALICE, 2, 5) == NEVER
    assert asked(after, BOB, 1, 5) == NEVER


def test_a_writer_that_noted_nothing_appended_nothing_of_others(shard: Shard) -> None:
    killed(shard, 5)
    assert asked(Tickets(shard, 6, 40), ALICE, 1, 5) == NEVER


def test_part_of_a_put_in_the_log_can_neither_be_acknowledged_nor_repeated(shard: Shard) -> None:
    killed(shard, 5, Ticket(ALICE, 1, 100, 3))
    assert asked(Tickets(shard, 6, end_offset=102), ALICE, 1, 5) == UNKNOWN


def test_a_note_is_over_the_one_before(shard: Shard) -> None:
    killed(shard, 5, Ticket(ALICE, 1, 100, 3)).note([Ticket(ALICE, 2, 103, 1)])
    after = Tickets(shard, 6, end_offset=104)
    assert asked(after, ALICE, 2, 5) == Verdict(True, 103)


def test_who_asks_only_after_the_next_writer_died_too_is_told(shard: Shard) -> None:
    killed(shard, 5, Ticket(ALICE, 1, 100, 3))
    killed(shard, 6, Ticket(BOB, 1, 103, 1), end_offset=103)
    after = Tickets(shard, 7, end_offset=103)
    assert asked(after, ALICE, 1, 5) == Verdict(True, 100)
    assert asked(after, BOB, 1, 6) == NEVER


def test_when_somebody_else_wrote_in_between_nobody_knows(shard: Shard) -> None:
    killed(shard, 5, Ticket(ALICE, 1, 100, 3))
    after = Tickets(shard, 7, end_offset=500)
    assert asked(after, ALICE, 1, 5) == UNKNOWN
    assert asked(after, ALICE, 2, 5) == UNKNOWN


def test_a_connection_that_broke_while_its_writer_lives_leaves_it_unknown(shard: Shard) -> None:
    alive = killed(shard, 5, Ticket(ALICE, 1, 100, 3))
    assert asked(alive, ALICE, 1, 5) == UNKNOWN


@pytest.mark.parametrize("at", [0, 9, 20, -60, -30, -1])
def test_a_damaged_note_says_nothing(shard: Shard, at: int) -> None:
    killed(shard, 5, Ticket(ALICE, 1, 100, 3))
    path = shard.directory.parent / "shardId-000000000000.tickets"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert asked(Tickets(shard, 6, end_offset=500), ALICE, 1, 5) == UNKNOWN


def test_an_orderly_end_leaves_nothing(shard: Shard) -> None:
    killed(shard, 5, Ticket(ALICE, 1, 100, 3)).close()
    assert sorted(entry.name for entry in shard.directory.parent.iterdir()) == ["shardId-000000000000", "stream.json"]
