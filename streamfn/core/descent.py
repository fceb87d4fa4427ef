"""A family of shards in the order in which it is drawn: each child below its parent, a merged one below the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_FORK, _LAST, _DOWN, _NOTHING = "├─ ", "└─ ", "│  ", "   "


class Line(NamedTuple):
    """One line of the drawing: what stands before the shard's id, and whether it is only named there.

    A shard that has two parents is drawn below the one that it names first, and named below the other.
    """

    prefix: str
    shard: str
    named_only: bool


def draw(family: Sequence[tuple[str, Sequence[str]]]) -> list[Line]:
    """Return the lines for shards, each with its parents' ids; parents that are not among them are left out."""
    known = {shard for shard, _ in family}
    children: dict[str, list[tuple[str, bool]]] = {shard: [] for shard, _ in family}
    roots: list[str] = []
    for shard, parents in family:
        present = [parent for parent in parents if parent in known]
        if not present:
            roots.append(shard)
        for place, parent in enumerate(present):
            children[parent].append((shard, place > 0))
    lines: list[Line] = []
    for root in roots:
        # What is still to be drawn, the next one last: shard, what it is named by, what stands before its children.
        waiting = [(Line("", root, False), "")]
        while waiting:
            line, indent = waiting.pop()
            lines.append(line)
            below = [] if line.named_only else children[line.shard]
            for place, (child, named_only) in enumerate(reversed(below)):
                prefix, more = (_LAST, _NOTHING) if place == 0 else (_FORK, _DOWN)
                waiting.append((Line(indent + prefix, child, named_only), indent + more))
    return lines


def generations(family: Sequence[tuple[str, Sequence[str]]]) -> dict[str, int]:
    """Return how many generations each shard is away from those without parents; parents come first in `family`."""
    found: dict[str, int] = {}
    for shard, parents in family:
        found[shard] = max((found[parent] + 1 for parent in parents if parent in found), default=0)
    return found
