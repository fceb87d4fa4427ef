"""`run_mapping` and a real run of the same records with the same options deliver the same, and give up the same."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

import streamfn
from streamfn.testing import record, run_mapping

RECORDS = [("poison" if number in (7, 20, 21) else f"record {number}", f"key {number % 5}") for number in range(40)]

PATTERN = '{"partitionKey": ["key 0", "key 2"]}'
OPTIONS = [
    {"batch_size": 7},
    {"batch_size": 16, "maximum_retry_attempts": 0},
    {"batch_size": 16, "maximum_retry_attempts": 1, "bisect_batch_on_function_error": True},
    {"batch_size": 10, "maximum_retry_attempts": 1, "function_response_types": ("ReportBatchItemFailures",)},
    {
        "batch_size": 5,
        "maximum_retry_attempts": 0,
        "filter_criteria": {"Filters": [{"Pattern": PATTERN}]},
    },
    {"batch_size": 5, "maximum_retry_attempts": 0, "parallelization_factor": 3},
]


def texts(event: Any) -> list[str]:
    return [base64.b64decode(each["kinesis"]["data"]).decode() for each in event["Records"]]


def judge(event: Any, options: dict[str, Any]) -> Any:
    """What the handler does: nothing succeeds that has poison in it."""
    bad = [each for each in event["Records"] if each["kinesis"]["data"] == base64.b64encode(b"poison").decode()]
    if "function_response_types" in options:
        return {"batchItemFailures": [{"itemIdentifier": each["kinesis"]["sequenceNumber"]} for each in bad]}
    if bad and "maximum_retry_attempts" in options:
        raise ValueError("poison")
    return None


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_virtual_and_the_real_mapping_deliver_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    virtual = run_mapping(lambda event, context: judge(event, options), [record(*each) for each in RECORDS], **options)
    seen = tmp_path / "seen"

    def handler(event: Any, context: Any) -> Any:
        with seen.open("a") as file:
            file.write(json.dumps(texts(event)) + "\n")
        return judge(event, options)

    with streamfn.open_sync(tmp_path / "data") as session:
        session.put_many("stream", [streamfn.NewRecord(text.encode(), key) for text, key in RECORDS])
        result = session.run_until_caught_up(handler, "stream", workers=1, **options)
    real = [json.loads(line) for line in seen.read_text().splitlines()]
    expected = [texts(batch.event) for batch in virtual.batches]
    if options.get("parallelization_factor", 1) > 1:  # which lane is first is nobody's business
        real, expected = sorted(real), sorted(expected)
    assert real == expected
    assert result.discarded == sum(len(each.sequence_numbers) for each in virtual.discarded)
