"""Pairs of handlers for comparisons: they say the same of every record that does not say otherwise."""

import base64
import os
import time


def texts(event):
    return [
        base64.b64decode(record["kinesis"]["data"]).decode() if "kinesis" in record else record["eventName"]
        for record in event["Records"]
    ]


def before(event, context):
    return {"lengths": [len(text) for text in texts(event)], "ok": True}


def after(event, context):
    """One more for a record that says `wrong`; raises for one that says `raise`."""
    found = texts(event)
    if any("raise" in text for text in found):
        raise ValueError("a new error")
    return {"ok": True, "lengths": [len(text) + ("wrong" in text) for text in found]}


def summed(event, context):
    return sum(map(len, texts(event)))


def summed_again(event, context):
    return sum(len(text) + ("wrong" in text) for text in texts(event))


def fails(event, context):
    raise ValueError(f"{len(texts(event))} records")


def crashes(event, context):
    found = texts(event)
    if any("crash" in text for text in found):
        os._exit(3)
    return {"lengths": [len(text) for text in found], "ok": True}


calls = 0


def counting(event, context):
    """Says how often this process was called: two of them agree only while nothing but the batches counts."""
    global calls
    calls += 1
    return 1 if calls <= 3 else 2


def steady(event, context):
    return 1


def slowly(event, context):
    time.sleep(0.001)
    return 1
