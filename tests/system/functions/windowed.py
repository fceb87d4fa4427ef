"""Handlers of tumbling windows; a line of the file `noted` for every invocation, before anything else is done."""

import base64
import json
import os
import time


def content_of(record):
    if "kinesis" in record:
        return base64.b64decode(record["kinesis"]["data"]).decode()
    return record["dynamodb"]["Keys"]["id"]["S"]


def note(event):
    row = {"keys": list(event), "contents": [content_of(record) for record in event["Records"]]}
    row |= {key: value for key, value in event.items() if key != "Records"}
    if len(json.dumps(row["state"])) > 1000:
        row["state"] = {"bytes": len(json.dumps(row["state"]))}
    descriptor = os.open(os.path.join(os.environ["NOTES"], "noted"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, json.dumps(row).encode() + b"\n")
    os.close(descriptor)


def calls(name):
    """How often that was asked, this time included, whatever process asks."""
    path = os.path.join(os.environ["NOTES"], name)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, b".")
    size = os.fstat(descriptor).st_size
    os.close(descriptor)
    return size


def collect(event, context):
    """The state lists the contents that it has seen; some contents make it do something else, once or always."""
    note(event)
    state = {"seen": [*event["state"].get("seen", []), *(content_of(record) for record in event["Records"])]}
    if event["isFinalInvokeForWindow"] and calls("finals") <= int(os.environ.get("FAILING_FINALS", "0")):
        raise RuntimeError("this final invocation fails")
    for record in event["Records"]:
        content = content_of(record)
        if content.startswith("big"):
            state["padding"] = "x" * 1_048_576
        elif content == "stateless" and calls("stateless") == 1:
            return None
        elif content.startswith("poison"):
            raise ValueError("poisoned")
        elif content.startswith("slow"):
            time.sleep(float(content[4:]))
    return {"state": state}


def reports(event, context):
    """Counts up to the first record that says poison, and reports that one, the first two times."""
    note(event)
    seen = list(event["state"].get("seen", []))
    for record in event["Records"]:
        if content_of(record).startswith("poison") and calls("reports") <= 2:
            number = record["kinesis"]["sequenceNumber"]
            return {"state": {"seen": seen}, "batchItemFailures": [{"itemIdentifier": number}]}
        seen.append(content_of(record))
    return {"state": {"seen": seen}}


def dies(event, context):
    """Ends its process in the middle of the second window's batch, and in its final invocation, once each."""
    note(event)
    if event["window"]["start"].endswith("01:00Z") and calls(f"dies-{event['isFinalInvokeForWindow']}") == 1:
        os._exit(7)
    return {"state": {"seen": [*event["state"].get("seen", []), *(content_of(record) for record in event["Records"])]}}


def counts(event, context):
    """Notes how many records it has, and not what they say."""
    with open(os.path.join(os.environ["NOTES"], "noted"), "a") as file:
        file.write(json.dumps({"records": len(event["Records"])}) + "\n")
    return {"state": {}}
