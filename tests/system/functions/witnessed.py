"""Handlers that write down when an invocation begins and how it ends: what the checker judges kill rounds by.

Two lines of JSON an invocation, each by one O_APPEND write. What the runtime believes does not occur in them.
"""

import base64
import json
import os
import time


def _write(**told):
    told["run"] = int(os.environ["RUN"])
    descriptor = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    line = json.dumps(told).encode() + b"\n"
    assert os.write(descriptor, line) == len(line)
    os.close(descriptor)


def poison(event, context):
    """Takes a while, and then raises if a record says poison."""
    records = event["Records"]
    invocation = context.aws_request_id
    numbers = [record["kinesis"]["sequenceNumber"] for record in records]
    _write(seen=invocation, shard=records[0]["eventID"].split(":")[0], numbers=numbers)
    time.sleep(float(os.environ.get("TAKES", "0")))
    bad = any(b"poison" in base64.b64decode(record["kinesis"]["data"]) for record in records)
    _write(ended=invocation, ok=not bad)
    if bad:
        raise ValueError("poisoned")


def marked(event, context):
    """Raises if the record with the number in the file MARK is there; a line of (key, number) pairs for the rest."""
    contents = [base64.b64decode(record["kinesis"]["data"]) for record in event["Records"]]
    with open(os.environ["MARK"], "rb") as file:
        mark = file.read()
    if mark in contents:
        raise ValueError("marked")
    pairs = [
        f"{record['kinesis']['partitionKey']} {content.decode()}"
        for record, content in zip(event["Records"], contents, strict=True)
    ]
    descriptor = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, ("\n".join(pairs) + "\n").encode())
    os.close(descriptor)
