"""Handlers of the benchmark's tests; their records are generated ones, with a `seq`."""

import base64
import json
import os
import time


def _sequence(event):
    return [json.loads(base64.b64decode(record["kinesis"]["data"]))["seq"] for record in event["Records"]]


def noop(event, context):
    pass


def naps(event, context):
    """A millisecond for each batch."""
    time.sleep(0.001)


def stalls(event, context):
    """Some time for each record, and a long one, once, for the batch with the record STALL_AT."""
    time.sleep(0.0001 * len(event["Records"]))
    if int(os.environ["STALL_AT"]) in _sequence(event):
        time.sleep(float(os.environ["STALL_S"]))


def marks(event, context):
    """Leave a file behind that says that it was called."""
    open(os.path.join(os.environ["NOTES"], "marked"), "a").close()


def fails(event, context):
    raise ValueError("it always does")
