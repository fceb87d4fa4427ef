"""Handlers that fail on records by what is in them; a line of the file `noted` for every invocation."""

import base64
import json
import os
import time


def contents(event):
    return [base64.b64decode(record["kinesis"]["data"]).decode() for record in event["Records"]]


def note(event, **more):
    row = {"contents": contents(event), "shard": event["Records"][0]["eventID"].split(":")[0], **more}
    descriptor = os.open(os.path.join(os.environ["NOTES"], "noted"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, json.dumps(row).encode() + b"\n")
    os.close(descriptor)


def poison(event, context):
    """Raises for every batch with a record that says poison."""
    note(event)
    if any("poison" in content for content in contents(event)):
        raise ValueError("poisoned")


def reports(event, context):
    """Reports the records that say poison, every one of them."""
    note(event)
    failures = [
        record["kinesis"]["sequenceNumber"]
        for record, content in zip(event["Records"], contents(event), strict=True)
        if "poison" in content
    ]
    return {"batchItemFailures": [{"itemIdentifier": number} for number in failures]}


def answers(event, context):
    """Returns what its first record says, as JSON."""
    note(event)
    return json.loads(contents(event)[0])


def keyed(event, context):
    """Raises for records that say poison; notes the keys."""
    note(event, keys=[record["kinesis"]["partitionKey"] for record in event["Records"]])
    if any("poison" in content for content in contents(event)):
        raise ValueError("poisoned")


def exits(event, context):
    note(event)
    if "poison" in contents(event):
        os._exit(3)


def hangs(event, context):
    note(event)
    while "poison" in contents(event):
        time.sleep(1)


def fails_late(event, context):
    note(event)
    time.sleep(0.3)
    raise ValueError("after some time")


def items(event, context):
    """Notes the item and the number of every change."""
    changes = [record["dynamodb"] for record in event["Records"]]
    rows = [(change["Keys"]["pk"]["S"], int(change["NewImage"]["n"]["N"])) for change in changes]
    descriptor = os.open(os.path.join(os.environ["NOTES"], "noted"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, json.dumps({"items": rows}).encode() + b"\n")
    os.close(descriptor)
