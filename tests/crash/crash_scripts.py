"""What a life does: every short script, and random long ones."""

from __future__ import annotations

import random
from itertools import product

OPERATIONS = ("append", "sync", "roll", "seal", "checkpoint", "trim")
# What else a life may do, in long scripts only.
MORE = ("sourced", "captured", "straight", "compact", "fault", "fault")
# How a life may end in the middle of a long script; another one goes on from what is found.
ENDS = ("kill", "power")

Script = tuple[str, ...]


def short_scripts(longest: int) -> list[Script]:
    """Every script of up to `longest` operations; the empty one stands for opening a new shard."""
    return [script for length in range(longest + 1) for script in product(OPERATIONS, repeat=length)]


def long_script(chance: random.Random) -> Script:
    """A script of 4 to 16 steps, most of them short, with more appends and syncs than anything else."""
    weights = [4 if name in ("append", "sync") else 2 for name in OPERATIONS] + [1] * len(MORE + ENDS)
    steps = []
    for name in chance.choices([*OPERATIONS, *MORE, *ENDS], weights, k=chance.randint(4, chance.choice((6, 9, 16)))):
        if name == "append":
            name = f"append:{chance.choice((1, 1, 2, 5, 12))}"
        elif name == "fault":
            name = f"fault:{chance.randint(1, 12)}"
        steps.append(name)
    return tuple(steps)
