"""Children after parents: the machine that says which shards may be delivered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfn.core.lineage import Lineage


def family(*shards: tuple[str, str, int | None, int]) -> Lineage:
    """Shards as (id, parents by blanks, end, offset)."""
    lineage = Lineage()
    for name, parents, end, offset in shards:
        lineage.add(name, parents.split(), end=end, offset=offset)
    return lineage


@pytest.mark.conformance(
    "shards/parents-first",
    source="documented",
    rule="A child shard is read only after its parents have been processed to their end.",
)
def test_a_child_waits_until_its_parent_is_finished() -> None:
    lineage = family(("a", "", 10, 0), ("b", "a", None, 0), ("c", "a", None, 0))
    assert lineage.take_ready() == ["a"]
    lineage.move("a", 9)
    assert lineage.take_ready() == []
    assert lineage.waiting() == {"b", "c"}
    lineage.move("a", 10)
    assert lineage.take_ready() == ["b", "c"]
    assert lineage.take_ready() == []
    assert lineage.waiting() == set()


def test_a_parent_that_is_open_holds_its_children_up_however_far_it_is() -> None:
    lineage = family(("a", "", None, 7), ("b", "a", None, 0))
    assert lineage.take_ready() == ["a"]
    assert lineage.within_reach() == {"a"}
    lineage.close("a", 7)
    assert lineage.take_ready() == ["b"]


def test_the_child_of_a_merge_waits_for_both() -> None:
    lineage = family(("a", "", 1, 0), ("b", "", 1, 0), ("c", "a b", None, 0))
    assert lineage.take_ready() == ["a", "b"]
    lineage.move("b", 1)
    assert lineage.take_ready() == []
    lineage.move("a", 1)
    assert lineage.take_ready() == ["c"]


def test_an_empty_parent_is_passed_and_several_generations_at_once() -> None:
    lineage = family(("a", "", 3, 3), ("b", "a", 0, 0), ("c", "b", 0, 0), ("d", "c", None, 5))
    assert lineage.take_ready() == ["d"]


def test_a_shard_without_records_does_not_let_its_children_pass_its_parents() -> None:
    lineage = family(("a", "", 3, 0), ("b", "a", 0, 0), ("c", "b", 0, 0), ("d", "c", None, 0))
    assert lineage.take_ready() == ["a"]
    assert not lineage.finished("b")
    lineage.move("a", 3)
    assert lineage.finished("c")
    assert lineage.take_ready() == ["d"]


def test_a_parent_that_nobody_knows_is_finished() -> None:
    assert family(("b", "gone", None, 0)).take_ready() == ["b"]


def test_what_cannot_be_finished_bars_all_that_comes_after_it_and_nothing_else() -> None:
    lineage = family(("a", "", 5, 0), ("b", "", 5, 0), ("c", "a", 1, 0), ("d", "b", 1, 0), ("e", "c d", None, 0))
    assert lineage.take_ready() == ["a", "b"]
    lineage.bar("a")
    lineage.move("b", 5)
    assert lineage.take_ready() == ["d"]
    lineage.move("d", 1)
    assert lineage.take_ready() == []
    assert lineage.waiting() == set()
    lineage.add("f", ["e"], end=None, offset=0)
    assert lineage.waiting() == set()


def test_within_reach_is_what_comes_up_though_nothing_more_is_closed() -> None:
    lineage = family(
        ("a", "", 5, 0), ("b", "a", 5, 0), ("c", "b", None, 0), ("d", "c", None, 0), ("done", "", 1, 1)
    )
    assert lineage.within_reach() == {"a", "b", "c"}


def test_a_checkpoint_never_moves_a_shard_back() -> None:
    lineage = family(("a", "", 5, 0))
    lineage.move("a", 5)
    lineage.move("a", 2)
    assert lineage.finished("a")


@given(st.data())
def test_in_any_order_of_events_a_child_is_ready_exactly_when_its_parents_are_finished(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    parents = {
        child: data.draw(st.sets(st.integers(0, child - 1), max_size=2)) if child else set() for child in range(count)
    }
    ends = {number: data.draw(st.none() | st.integers(0, 3)) for number in range(count)}
    lineage = Lineage()
    for number in range(count):
        lineage.add(str(number), [str(parent) for parent in sorted(parents[number])], end=None, offset=0)
    offsets = dict.fromkeys(range(count), 0)
    closed: set[int] = set()
    told: set[int] = set()

    def at_its_end(number: int) -> bool:
        return number in closed and offsets[number] >= (ends[number] or 0)

    def finished(number: int) -> bool:
        return at_its_end(number) and all(map(finished, parents[number]))

    def check() -> None:
        for name in lineage.take_ready():
            number = int(name)
            assert number not in told
            assert all(finished(parent) for parent in parents[number])
            told.add(number)
        for number in range(count):
            ready = all(finished(parent) for parent in parents[number])
            assert not ready or number in told or at_its_end(number)
            assert lineage.finished(str(number)) == finished(number)
        assert lineage.waiting() == {str(n) for n in range(count) if n not in told and not finished(n)}

    check()
    events = [number for number in range(count) for _ in range(4)]
    for number in data.draw(st.permutations(events)):
        end = ends[number]
        if number not in closed and end is not None and data.draw(st.booleans()):
            closed.add(number)
            lineage.close(str(number), end)
        elif end is None or offsets[number] < end:
            offsets[number] += 1
            lineage.move(str(number), offsets[number])
        check()
