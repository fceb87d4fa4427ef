"""Handlers that note the event they were given, and then answer as a test wants them to."""

import base64
import json
import os
import time


def note(event, context):
    line = json.dumps({"event": event, "began": time.monotonic(), "pid": os.getpid(), "id": context.aws_request_id})
    descriptor = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode() + b"\n")
    os.close(descriptor)


def answers(event, context):
    """Answers what the environment says."""
    note(event, context)
    return json.loads(os.environ["ANSWER"])


def posts_nothing(event, context):
    """An empty body, as a custom runtime may post."""
    note(event, context)
    return b""


def raises(event, context):
    note(event, context)
    raise RuntimeError("as it was told")


def naps(event, context):
    note(event, context)
    time.sleep(0.05)


def number_of(record):
    if "kinesis" in record:
        return record["kinesis"]["sequenceNumber"]
    return record["dynamodb"]["SequenceNumber"]


def data_of(record):
    if "kinesis" in record:
        return base64.b64decode(record["kinesis"]["data"]).decode()
    return record["dynamodb"]["NewImage"]["data"]["S"]


def reports(event, context):
    """Reports the records whose data the environment names, the last one first."""
    note(event, context)
    failed = [record for record in event["Records"] if data_of(record) in json.loads(os.environ["FAILING"])]
    return {"batchItemFailures": [{"itemIdentifier": number_of(record)} for record in reversed(failed)]}


invocations = 0


def times_out_once(event, context):
    """Counts its invocations in the process and on the disk; sleeps past the timeout the first time."""
    global invocations
    invocations += 1
    path = os.environ["SEEN"] + ".count"
    with open(path, "a+") as file:
        file.write("x")
        file.seek(0)
        on_disk = len(file.read())
    note({"process": invocations, "disk": on_disk, "Records": event["Records"]}, context)
    if on_disk == 1:
        time.sleep(60)
