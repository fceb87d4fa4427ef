"""Request ids: a counter on a random base, in the shape of a version 4 UUID.

Runtime and worker compute the same id from the same two values, so an id never travels.
"""

from __future__ import annotations

import secrets

INVOCATIONS_MAX = 1 << 48


def new_base() -> str:
    """Draw the first 24 characters of every id of one pool: 74 random bits, version 4, RFC variant."""
    digits = secrets.token_hex(10)
    variant = "89ab"[secrets.randbelow(4)]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-"


def request_id(base: str, invocation: int) -> str:
    """Give the id of `invocation` (0 <= invocation < 2**48): 36 characters."""
    return f"{base}{invocation:012x}"
