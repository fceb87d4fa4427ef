"""What a life does: every short script, and random long ones."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import product

OPERATIONS = ("append", "sync", "roll", "seal", "checkpoint", "trim")
# What else a life may do, in long scripts only.
MORE = ("sourced", "captured")
# How a life may end in the middle of a long script; another one goes on from what is found.
ENDS = ("kill", "power")

Script = tuple[str, ...]


def short_scripts(longest: int = 4, operations: Sequence[str] = OPERATIONS) -> Iterator[Script]:
    """Every script of one to `longest` operations; an empty one stands for opening a new shard."""
    for length in range(longest + 1):
        yield from product(operations, repeat=length)


def long_script(chance: random.Random, operations: Sequence[str] = OPERATIONS) -> Script:
    """A script of 5 to 16 steps, appends and syncs more often than the rest."""
    weights = [4 if name in ("append", "sync") else 2 for name in operations] + [1] * len(MORE + ENDS)
    steps = []
    for name in chance.choices([*operations, *MORE, *ENDS], weights, k=chance.randint(5, 16)):
        steps.append(f"append:{chance.choice((1, 1, 2, 5, 12))}" if name == "append" else name)
    return tuple(steps)
