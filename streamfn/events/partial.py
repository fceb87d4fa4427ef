"""What a function with ReportBatchItemFailures said of its batch: all of it done, none, or the records before one.

    {"batchItemFailures": [{"itemIdentifier": "49590338271490256608559692538361571095921575989136588898"}]}

The forms that mean success for certain were recorded from the service (`""`, `[]`, null, `{}`, an empty or a null
list), and so were those that fail the whole batch: an identifier that is not of the batch, empty, null, not a text, or
under another name. Lambda's developer guide says that of several identifiers the lowest counts ("Configuring partial
batch response with Kinesis Data Streams and Lambda"). Nobody has recorded the rest, so it is decided here: an object
without `batchItemFailures` says that nothing failed, as an empty one does; an empty answer is a null one; whatever else
is not an object with a list, or is no JSON, fails the whole batch, because nothing in it says that a record was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

# What most handlers return, as `response.marshal` writes it: known without being parsed.
_PLAIN = frozenset([b"null", b"{}", b"[]", b'""', b"", b'{"batchItemFailures": []}', b'{"batchItemFailures": null}'])


class Whole(NamedTuple):
    """Every record of the batch is done."""


class Failed(NamedTuple):
    """No record of the batch is done; `reason` says what in the response says so."""

    reason: str


class Partly(NamedTuple):
    """The first `done` records of the batch, at least one, are done; the one behind them was reported as failed."""

    done: int


def is_whole(payload: bytes) -> bool:
    """Whether the response `payload` says that the whole batch is done, which needs no look at the batch."""
    return payload in _PLAIN or isinstance(judge(payload, ()), Whole)


def judge(payload: bytes, sequence_numbers: Sequence[str]) -> Whole | Failed | Partly:
    """Return what the response `payload` says of the batch.

    Args:
        payload: the bytes that the handler answered with; anything at all is allowed.
        sequence_numbers: those of the batch's records, in their order, which is that of the numbers.
    """
    if payload in _PLAIN:
        return Whole()
    try:
        response = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return Failed("the response is not JSON")
    return judge_response(response, sequence_numbers)


def judge_response(response: Any, sequence_numbers: Sequence[str]) -> Whole | Failed | Partly:
    """Do as `judge` does, of a response that has been parsed."""
    if response is None or (isinstance(response, str | list) and not response):
        return Whole()
    if not isinstance(response, dict):
        return Failed(f"the response is {_kind(response)}, not an object")
    failures = response.get("batchItemFailures")
    if failures is None or failures == []:
        return Whole()
    if not isinstance(failures, list):
        return Failed(f"batchItemFailures is {_kind(failures)}, not a list")
    return _lowest(failures, sequence_numbers)


def _lowest(failures: list[Any], sequence_numbers: Sequence[str]) -> Failed | Partly:
    """Return what a list with something in it says."""
    places = {number: place for place, number in reversed(list(enumerate(sequence_numbers)))}
    lowest = len(sequence_numbers)
    for failure in failures:
        if not isinstance(failure, dict) or "itemIdentifier" not in failure:
            return Failed("a batch item failure has no itemIdentifier")
        identifier = failure["itemIdentifier"]
        if not isinstance(identifier, str):
            return Failed(f"an itemIdentifier is {_kind(identifier)}, not a sequence number")
        if identifier not in places:
            return Failed(f"the itemIdentifier {identifier[:140]!r} is not of the batch")
        lowest = min(lowest, places[identifier])
    return Partly(lowest) if lowest else Failed("the batch's first record was reported")


def _kind(value: Any) -> str:
    """Name a JSON value's kind, as part of a sentence."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return "a text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"
