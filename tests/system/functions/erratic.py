"""A handler that notes what it was given and then succeeds, reports a record, raises or ends its process: by chance."""

import base64
import json
import os
import random


def record(each):
    """(key, number, sequence number)"""
    if "kinesis" in each:
        inner = each["kinesis"]
        return inner["partitionKey"], json.loads(base64.b64decode(inner["data"]))["n"], inner["sequenceNumber"]
    inner = each["dynamodb"]
    return inner["Keys"]["id"]["S"], int(inner["NewImage"]["n"]["N"]), inner["SequenceNumber"]


def handler(event, context):
    rows = [record(each) for each in event["Records"]]
    descriptor = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, json.dumps([(key, number) for key, number, _ in rows]).encode() + b"\n")
    os.close(descriptor)
    chance = random.Random(f"{os.environ['SEED']} {context.aws_request_id[-12:]}").random()
    if chance < 0.05:
        raise RuntimeError("by chance")
    if chance < 0.07:
        os._exit(3)
    if chance < 0.25:
        return {"batchItemFailures": [{"itemIdentifier": rows[int(chance * 1000) % len(rows)][2]}]}
    return {"batchItemFailures": []}
