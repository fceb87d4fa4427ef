"""MiniStack: a server of its own, a stream of 4 shards, a function, and a Kinesis event source mapping between them.

    one poller    its event source mappings are all polled by one thread, batch after batch, whatever they ask for

All records are in the stream before the mapping is made; its log is kept to errors.
"""

import base64
import contextlib
import io
import os
import sys
import time
import zipfile

import boto3
from botocore.config import Config
from orjson import loads

from bench import handlers
from bench.peers.job import LATENCY, answer, free_ports, job, spawn, trips, wait_for

SHARDS = 4
AT_ONCE = 400  # records a PutRecords call
GIVE_UP_S = 120  # without a further record
NAME = "bench"
ROLE = "arn:aws:iam::000000000000:role/lambda-role"


def start(files):
    """Start a server; return what makes clients of it."""
    (port,) = free_ports(1)
    environment = {**os.environ, "GATEWAY_PORT": str(port), "LOG_LEVEL": "ERROR", "SERVICES": "lambda,kinesis,iam"}
    spawn([sys.executable, "-m", "ministack"], files, environment)
    wait_for(port)
    session = boto3.Session("test", "test", region_name="us-east-1")
    config = Config(retries={"max_attempts": 0}, read_timeout=60)
    return lambda service: session.client(service, endpoint_url=f"http://127.0.0.1:{port}", config=config)


def make_function(awslambda, handler):
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("app.py", f"from bench.handlers import {handler} as handler\n")
    awslambda.create_function(
        FunctionName=NAME,
        Runtime=f"python{sys.version_info.major}.{sys.version_info.minor}",
        Role=ROLE,
        Handler="app.handler",
        Code={"ZipFile": code.getvalue()},
        Timeout=60,
        MemorySize=3008,
        Environment={"Variables": {"BENCH_WITNESS": os.environ["BENCH_WITNESS"], "PYTHONPATH": os.getcwd()}},
    )
    awslambda.get_waiter("function_active_v2").wait(FunctionName=NAME, WaiterConfig={"Delay": 1})


def put(kinesis, lines):
    """Put the data of ready-made records, over all shards."""
    for first in range(0, len(lines), AT_ONCE):
        records = [loads(line)["kinesis"] for line in lines[first : first + AT_ONCE]]
        entries = [{"Data": base64.b64decode(each["data"]), "PartitionKey": each["partitionKey"]} for each in records]
        while entries:
            answered = kinesis.put_records(StreamName=NAME, Records=entries)["Records"]
            entries = [entry for entry, one in zip(entries, answered, strict=True) if "ErrorCode" in one]
            if entries:
                time.sleep(0.1)


def mapped(make_client, asked):
    """Run all records through an event source mapping."""
    kinesis = make_client("kinesis")
    kinesis.create_stream(StreamName=NAME, ShardCount=SHARDS)
    kinesis.get_waiter("stream_exists").wait(StreamName=NAME, WaiterConfig={"Delay": 1})
    put(kinesis, asked.lines())
    stream = kinesis.describe_stream_summary(StreamName=NAME)["StreamDescriptionSummary"]["StreamARN"]
    make_client("lambda").create_event_source_mapping(
        FunctionName=NAME, EventSourceArn=stream, StartingPosition="TRIM_HORIZON", BatchSize=asked.batch
    )
    seen, since = 0, time.monotonic()
    while seen < asked.records:
        time.sleep(0.2)
        now = handlers.read_witnesses(os.environ["BENCH_WITNESS"])[0]
        if now > seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > GIVE_UP_S:
            sys.exit(f"after {seen} of {asked.records} records nothing more is delivered")


def main():
    asked = job()
    times = None
    with contextlib.ExitStack() as files:
        make_client = start(files)
        awslambda = make_client("lambda")
        make_function(awslambda, asked.handler)
        awslambda.invoke(FunctionName=NAME, Payload=b'{"Records": []}')
        if asked.way == LATENCY:
            times = trips(lambda event: awslambda.invoke(FunctionName=NAME, Payload=event), asked.events()[:220])
        else:
            mapped(make_client, asked)
    answer("ministack", times_ns=times)


if __name__ == "__main__":
    main()
