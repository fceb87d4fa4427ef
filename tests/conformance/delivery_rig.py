"""Records put, a mapping run over them until it is through, and what its handler saw: all of it real but the waits."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamfn
from streamfn.mapping.result import RunResult

FUNCTIONS = Path(__file__).parent / "functions"
KINDS = ("kinesis", "dynamodb")


@dataclass
class Delivered:
    """`invocations` is what the handler noted, in order: event, began (monotonic seconds), pid, id."""

    result: RunResult
    invocations: list[dict[str, Any]]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [one["event"] for one in self.invocations]

    @property
    def batches(self) -> list[list[str]]:
        """The data of the records of each invocation."""
        return [[data_of(record) for record in event["Records"]] for event in self.events]


def data_of(record: dict[str, Any]) -> str:
    if "kinesis" in record:
        return base64.b64decode(record["kinesis"]["data"]).decode()
    return str(record["dynamodb"]["NewImage"]["data"]["S"])


async def put(session: streamfn.Session, kind: str, data: Sequence[str], stream: str = "s") -> None:
    """Append a record, or the insertion of an item, for each of `data`."""
    if kind == "kinesis":
        await session.put_many(stream, [streamfn.NewRecord(each.encode(), "key") for each in data])
        return
    for number, each in enumerate(data):
        key = {"id": {"S": f"item-{number}"}}
        await session.put_change(stream, {"Keys": key, "NewImage": {**key, "data": {"S": each}}})


async def deliver(
    tmp_path: Path,
    kind: str,
    handler: str,
    data: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    code_dir: Path = FUNCTIONS,
    **options: Any,
) -> Delivered:
    """Run a handler of functions/ over the `data` until it has caught up.  Retries do not wait."""
    seen = tmp_path / "seen"
    async with streamfn.open(tmp_path / "data", log=Log()) as session:
        session._runtime.random = lambda: 0.0
        await put(session, kind, data)
        variables = {"SEEN": str(seen), **(environment or {})}
        wanted = {"workers": 1, "code_dir": code_dir, "environment": variables, **options}
        async with session.mapping(handler, "s", **wanted) as mapping:
            result = await mapping.run_until_caught_up()
    lines = seen.read_text().splitlines() if seen.exists() else []
    return Delivered(result, [json.loads(line) for line in lines])


class Log:
    """A log that keeps what it is given."""

    text = ""

    def write(self, text: str) -> None:
        self.text += text
