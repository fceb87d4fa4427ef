"""Families of shards as they are drawn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamfn.core.descent import draw, generations

FAMILY = [
    ("0", []), ("1", []), ("2", ["0"]), ("3", ["0"]), ("4", ["3", "1"]), ("5", ["4"]), ("6", ["4"]), ("7", ["gone"]),
]  # fmt: skip


def test_children_stand_below_their_parents_and_a_merged_one_below_the_first() -> None:
    assert [line.prefix + line.shard + ("*" if line.named_only else "") for line in draw(FAMILY)] == [
        "0",
        "├─ 2",
        "└─ 3",
        "   └─ 4",
        "      ├─ 5",
        "      └─ 6",
        "1",
        "└─ 4*",
        "7",
    ]


def test_generations_count_from_the_oldest_that_is_known() -> None:
    assert generations(FAMILY) == {"0": 0, "1": 0, "2": 1, "3": 1, "4": 2, "5": 3, "6": 3, "7": 0}


@given(st.data())
def test_every_shard_is_drawn_once_and_named_once_for_each_further_parent(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 30))
    family = [
        (str(n), [str(p) for p in sorted(data.draw(st.sets(st.integers(0, n - 1), max_size=2)))] if n else [])
        for n in range(count)
    ]
    lines = draw(family)
    assert sorted(int(line.shard) for line in lines if not line.named_only) == list(range(count))
    assert sum(line.named_only for line in lines) == sum(max(0, len(parents) - 1) for _, parents in family)
    assert all(len(line.prefix) % 3 == 0 for line in lines)


def test_a_line_of_many_generations_is_no_problem() -> None:
    family = [(str(n), [str(n - 1)] if n else []) for n in range(3000)]
    assert len(draw(family)) == 3000
