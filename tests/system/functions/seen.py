"""Handlers that write down what they see before they do anything else: the witnesses of the system tests.

One line an invocation: shard, first sequence number, then every sequence number, by one O_APPEND write.
"""

import base64
import os
import time


def _write(event):
    records = event["Records"]
    shard = records[0]["eventID"].split(":")[0]
    numbers = " ".join(record["kinesis"]["sequenceNumber"] for record in records)
    line = f"{shard} {os.getpid()} {numbers}\n".encode()
    descriptor = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    assert os.write(descriptor, line) == len(line)
    os.close(descriptor)


def handler(event, context):
    _write(event)


def slow(event, context):
    _write(event)
    time.sleep(0.02)


def poison(event, context):
    """Fails the first three times that it sees a batch with the word in it."""
    _write(event)
    if any(b"poison" in base64.b64decode(record["kinesis"]["data"]) for record in event["Records"]):
        marker = os.environ["SEEN"] + ".poison"
        with open(marker, "a+") as file:
            file.write("x")
            file.seek(0)
            if len(file.read()) <= 3:
                raise RuntimeError("poisoned")


def printer(event, context):
    _write(event)
    print(f"{len(event['Records'])} records of {context.function_name}")


def held(event, context):
    """Returns only when a file `go` lies beside the notes."""
    _write(event)
    while not os.path.exists(os.path.join(os.environ["NOTES"], "go")):
        time.sleep(0.005)
