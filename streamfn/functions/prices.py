"""What AWS asks for running Lambda functions: the one table of rates, with its date, and what they come to.

An estimate: the first tier of each price, on demand, no free tier, no Savings Plan, nothing beside Lambda itself. An
event source mapping of Kinesis or DynamoDB Streams costs nothing of its own.
"""

from __future__ import annotations

import platform
from typing import NamedTuple

STORAGE_MB_FREE = 512  # ephemeral storage that is not charged for


class Rates(NamedTuple):
    """US dollars, as "AWS Lambda Pricing" has them; `as_of`: a day on which they held."""

    as_of: str
    region: str
    architecture: str
    gb_second: float
    request: float
    storage_gb_second: float


RATES = {
    "x86_64": Rates("2025-11-01", "us-east-1", "x86_64", 0.0000166667, 0.20 / 1e6, 0.0000000309),
    "arm64": Rates("2025-11-01", "us-east-1", "arm64", 0.0000133334, 0.20 / 1e6, 0.0000000309),
}


def rates() -> Rates:
    """The rates of functions on a processor such as this machine's."""
    return RATES["arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"]


def gb_seconds(billed_ms: int, memory_mb: int) -> float:
    """Lambda's unit of what is billed: memory times time, a GB being 1,024 MB."""
    return billed_ms / 1000 * memory_mb / 1024


def estimate_usd(rates: Rates, *, requests: int, billed_ms: int, memory_mb: int, storage_mb: int | None) -> float:
    """What so many invocations of so long together would have cost."""
    storage_mb_charged = max(0, (storage_mb or 0) - STORAGE_MB_FREE)
    return (
        requests * rates.request
        + gb_seconds(billed_ms, memory_mb) * rates.gb_second
        + gb_seconds(billed_ms, storage_mb_charged) * rates.storage_gb_second
    )
