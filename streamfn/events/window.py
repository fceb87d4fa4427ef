"""Tumbling windows in events and responses: what stands beside `Records`, and what a response says of the state.

The keys and their order are those of Lambda's developer guide ("Implementing stateful Kinesis Data Streams processing
in Lambda", and the same for DynamoDB):

    {"Records": [...], "window": {"start": "2020-12-09T07:04:00Z", "end": "2020-12-09T07:06:00Z"},
     "state": {"1": 282}, "shardId": "shardId-000000000006", "eventSourceARN": "arn:aws:...",
     "isFinalInvokeForWindow": false, "isWindowTerminatedEarly": false}

A state is carried as the text that came back, from response to event, and parsed by the worker as Lambda's Python
client parses events: numbers of any size, key order and NaN come through.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from streamfn.events.partial import Failed, Partly, Whole, judge_response
from streamfn.limits import EVENT_BYTES_MAX, WINDOW_STATE_BYTES_MAX
from streamfn.types import Envelope

_SPACE = " \t\n\r"
_scan: Any = json.JSONDecoder().raw_decode  # a value and where it ends, at the speed of C

# A state that has outgrown the limit is handed back once more, to the invocation that terminates its window early: a
# Lambda event, so 6 MB with what else is in it (the names in it have at most some hundred characters).
_STATE_BYTES_MOST = EVENT_BYTES_MAX - 1024


def document(envelope: Envelope, shard_id: str, arn: str) -> bytes:
    """Return the JSON of what stands beside `Records`, as an object."""
    head = {"window": {"start": bound_text(envelope.start_ms), "end": bound_text(envelope.end_ms)}}
    tail = {
        "shardId": shard_id,
        "eventSourceARN": arn,
        "isFinalInvokeForWindow": envelope.is_final,
        "isWindowTerminatedEarly": envelope.is_terminated_early,
    }
    compact = (",", ":")
    first, last = json.dumps(head, separators=compact), json.dumps(tail, separators=compact)
    return b"".join([first[:-1].encode(), b',"state":', envelope.state, b",", last[1:].encode()])


def room(shard_id: str, arn: str) -> int:
    """Return the bytes of an event's JSON that are kept for what stands beside `Records`, with the largest state."""
    sample = Envelope(0, 0, b"", is_final=False, is_terminated_early=False)
    return len(document(sample, shard_id, arn)) + WINDOW_STATE_BYTES_MAX


def judge(payload: bytes, sequence_numbers: Sequence[str] | None) -> tuple[Whole | Failed | Partly, bytes]:
    """Return what the response `payload` says of its batch, and the state it returns (of no use if it failed).

    `sequence_numbers` are those of the batch's records, in order; None where the mapping does not ask for
    `batchItemFailures`, which mean nothing then.  A response without an object `state` is a failure.
    """
    try:
        state, failures = _members(payload.decode())
    except (ValueError, RecursionError):
        return Failed("the response is not a JSON object"), b""
    if state is None:
        return Failed("the response has no state, which every invocation of a tumbling window returns"), b""
    if not state.startswith("{"):
        return Failed("the state in the response is not an object"), b""
    carried = state.encode()
    if len(carried) > _STATE_BYTES_MOST:
        return Failed(f"the state in the response has {len(carried)} bytes and cannot be handed on"), b""
    if sequence_numbers is None:
        return Whole(), carried
    return judge_response({"batchItemFailures": failures}, sequence_numbers), carried


def _members(text: str) -> tuple[str | None, object]:
    """Return the text of the member `state`, None if there is none, and the value of `batchItemFailures`.

    Raises ValueError if this is not the JSON of an object.
    """
    state: str | None = None
    failures: object = None
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise ValueError("not an object")
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        at += 1
    else:
        more = True
        while more:
            if text[at : at + 1] != '"':
                raise ValueError("a key is expected")
            key, at = _scan(text, at)
            at = _skip(text, at)
            if text[at : at + 1] != ":":
                raise ValueError("a colon is expected")
            begin = _skip(text, at + 1)
            value, end = _scan(text, begin)
            if key == "state":
                state = text[begin:end]
            elif key == "batchItemFailures":
                failures = value
            at = _skip(text, end)
            more = text[at : at + 1] == ","
            if not more and text[at : at + 1] != "}":
                raise ValueError("a comma or the end is expected")
            at = _skip(text, at + 1)
    if _skip(text, at) != len(text):
        raise ValueError("something follows the object")
    return state, failures


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in _SPACE:
        at += 1
    return at


def bound_text(unix_ms: int) -> str:
    """Return a window's bound as events have it."""
    return datetime.fromtimestamp(unix_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
