"""What was recorded of the processes that functions run in."""

from __future__ import annotations

from pathlib import Path

import pytest
from delivery_rig import deliver
from trio.testing import trio_test


@pytest.mark.conformance(
    "retries/fresh-process-after-a-timeout",
    source="recorded",
    rule="After an invocation that timed out the state of the process is gone; files that it wrote are there.",
)
@trio_test
async def test_a_retry_after_a_timeout_finds_a_fresh_process_and_the_old_files(tmp_path: Path) -> None:
    delivered = await deliver(
        tmp_path, "kinesis", "answering.times_out_once", ["a"], timeout=1, maximum_retry_attempts=1
    )
    assert [(event["process"], event["disk"]) for event in delivered.events] == [(1, 1), (1, 2)]
    assert delivered.invocations[0]["pid"] != delivered.invocations[1]["pid"]
    assert (delivered.result.errors, delivered.result.discarded) == (1, 0)
