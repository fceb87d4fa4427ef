"""A handler that imports boto3 and keeps a client, and measures at its Init what a bare fork of its process costs.

That is the zygote: what is measured here is the process that workers are forked from, with everything in it but a few
objects of its loop.
"""

import gc
import json
import os
import time

import boto3

CLIENT = boto3.client("kinesis", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
FORKS = 200


def handler(event, context):
    return len(event["Records"])


def bare_forks(count):
    """Nanoseconds each, from before `fork` until the child has rung an eventfd."""
    bell, times = os.eventfd(0), []
    for _ in range(count):
        began = time.monotonic_ns()
        pid = os.fork()
        if pid == 0:
            os.eventfd_write(bell, 1)
            os._exit(0)
        os.eventfd_read(bell)
        times.append(time.monotonic_ns() - began)
        os.waitpid(pid, 0)
    os.close(bell)
    return times


if os.environ.get("BENCH_FORKS"):
    gc.collect()
    gc.freeze()  # as the zygote does before it serves
    print(json.dumps(bare_forks(FORKS)))  # a sandbox has nowhere to write to
    gc.unfreeze()
