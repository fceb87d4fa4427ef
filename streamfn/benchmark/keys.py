"""Partition keys of generated records: how many there are, and how often each comes.

`uniform`: each as often as any other. `zipf:S`: the k-th most frequent key comes 1/k**S times as often as the most
frequent one (Zipf's law; S is 1 where none is said), as hot customers, devices and pages do.
"""

from __future__ import annotations

import random
from itertools import accumulate
from typing import NamedTuple

from streamfn.errors import RefusedError

KEYS_MAX = 10_000_000  # each is a text in memory
_S_MAX = 10.0


class Distribution(NamedTuple):
    """How often keys come: `s` is Zipf's exponent, 0 for uniform."""

    s: float

    def __str__(self) -> str:
        return f"zipf:{self.s:g}" if self.s else "uniform"

    @classmethod
    def parse(cls, text: str) -> Distribution:
        """Return the distribution that a user names: `uniform`, `zipf` or `zipf:S`.

        Raises:
            RefusedError: it is none, or S is not above 0 and at most 10.
        """
        name, colon, exponent = text.strip().lower().partition(":")
        if name == "uniform" and not colon:
            return cls(0.0)
        try:
            s = float(exponent) if colon else 1.0
        except ValueError:
            s = 0.0
        if name != "zipf" or not 0 < s <= _S_MAX:
            raise RefusedError(
                f"--key-distribution {text!r} is neither uniform nor zipf:S with an S above 0 and at most {_S_MAX:g}, "
                "such as zipf:1.2"
            )
        return cls(s)


UNIFORM = Distribution(0.0)


def check_keys(count: int) -> None:
    """Raise RefusedError for no keys, or more than KEYS_MAX."""
    if not 1 <= count <= KEYS_MAX:
        raise RefusedError(f"--keys {count} is not 1 to {KEYS_MAX}")


class Keys:
    """`count` keys, `key-0` the most frequent one."""

    def __init__(self, count: int, distribution: Distribution = UNIFORM) -> None:
        """Prepare them.

        Raises:
            RefusedError: there are none, or more than KEYS_MAX.
        """
        check_keys(count)
        self.names = [f"key-{number}" for number in range(count)]
        self._weights: list[float] | None = None
        if distribution.s:
            self._weights = list(accumulate((number + 1) ** -distribution.s for number in range(count)))

    def draw(self, records: int, source: random.Random) -> list[int]:
        """Return which key each of so many records has, as an index into `names`."""
        return source.choices(range(len(self.names)), cum_weights=self._weights, k=records)
