"""The records: 1 KiB of JSON each, a value that a handler can add up, a key that spreads over the shards."""

import orjson

from streamfn.events.kinesis import KinesisSource, kinesis_event
from streamfn.types import Record

SOURCE = KinesisSource(
    "arn:aws:kinesis:us-east-1:000000000000:stream/bench",
    "us-east-1",
    "shardId-000000000000",
    "arn:aws:iam::000000000000:role/lambda-role",
)


def payload(index, size=1024):
    body = orjson.dumps({"value": index % 97, "id": index, "text": ""})
    return body[:-2] + b"x" * (size - len(body)) + b'"}'


def checksum(count):
    return sum(index % 97 for index in range(count))


def ready_events(count, batch, size=1024):
    """The same records as ready-made JSON events."""
    events = []
    for first in range(0, count, batch):
        rows = [
            Record(index, f"{index:056d}", f"key-{index % 1000}", 1_700_000_000_123 + index, payload(index, size))
            for index in range(first, min(count, first + batch))
        ]
        events.append(orjson.dumps(kinesis_event(SOURCE, rows)))
    return events


def ready_records(count):
    """The same records, each as ready-made JSON of its own."""
    for event in ready_events(count, 1):
        yield event[len(b'{"Records":[') : -len(b"]}")]
