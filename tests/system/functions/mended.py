"""A handler that is mended between two runs: what it fails on stands in a file."""

import base64
import json
import os
import re
import time


def _read(name):
    try:
        with open(os.path.join(os.environ["NOTES"], name)) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def handler(event, context):
    """Raises for batches with a record that the pattern is found in; notes the others.

    The pattern stands in the file `bad`, or in the environment.

    Takes as many seconds as the file `takes` says.
    """
    contents, keys = [], []
    for record in event["Records"]:
        contents.append(base64.b64decode(record["kinesis"]["data"]).decode())
        keys.append(record["kinesis"]["partitionKey"])
    time.sleep(float(_read("takes") or 0))
    bad = _read("bad") or os.environ.get("BAD")
    if bad and any(re.search(bad, content) for content in contents):
        raise ValueError("bad")
    more = {name: event[name] for name in ("window", "state", "isFinalInvokeForWindow") if name in event}
    shard = event["Records"][0]["eventID"].split(":")[0] if event["Records"] else event["shardId"]
    line = json.dumps({"contents": contents, "keys": keys, "shard": shard, **more}) + "\n"
    descriptor = os.open(os.path.join(os.environ["NOTES"], "noted"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)
    return {"state": {"seen": event.get("state", {}).get("seen", []) + contents}} if "window" in event else None


def changes(event, context):
    """The same for changes, which are called as their items are."""
    names = [record["dynamodb"]["Keys"]["id"]["S"] for record in event["Records"]]
    bad = _read("bad")
    if bad and any(re.search(bad, name) for name in names):
        raise ValueError("bad")
    with open(os.path.join(os.environ["NOTES"], "noted"), "a") as file:
        file.write(json.dumps({"contents": names}) + "\n")
