"""A live stream as AWS describes it, in memory: shards and their lineage, iterators that expire, read limits, trimming.

It is a second implementation of the other side, made to be strict: whoever asks too often, too much or with an old
iterator is refused.  Time comes from outside.  Tests drive it directly, or through HTTP (`scripted_endpoint`).
"""

from __future__ import annotations

import base64
import json
from bisect import bisect_left
from collections import defaultdict, deque

REGION, ACCOUNT = "eu-west-1", "123456789012"
HASH_KEYS = 2**128
CALLS_PER_S = 5
KINESIS_BYTES_PER_S = 2 * 1024 * 1024
KINESIS = {"records": 10_000, "bytes": 10 * 1024 * 1024, "iterator_s": 300}
DYNAMODB = {"records": 1_000, "bytes": 1024 * 1024, "iterator_s": 900}


class Refusal(Exception):
    """An answer with an error code."""

    def __init__(self, code, message="", status=400):
        super().__init__(message or code)
        self.code, self.status = code, status


class LiveShard:
    def __init__(self, id, number, parents=(), start=0, end=HASH_KEYS - 1):
        self.id, self.number, self.parents, self.start, self.end = id, number, tuple(parents), start, end
        self.records = []  # dicts: seq, key, data, at_ms, size
        self.horizon = 0  # index of the oldest record that is still there
        self.closed = False
        self.ending = None

    def index_of(self, seq):
        return bisect_left(self.records, seq, key=lambda record: record["seq"])


class LiveStream:
    """`now` returns seconds since 1970; `faults` are (operation, code) of the next refusals, `calls` what was asked."""

    def __init__(self, now, *, kind="kinesis", name="orders", shards=1, retention_s=86_400):
        self.now, self.kind, self.name, self.retention_s = now, kind, name, retention_s
        self.limits = KINESIS if kind == "kinesis" else DYNAMODB
        self.created = now()
        self.status = "ACTIVE" if kind == "kinesis" else "ENABLED"
        self.shards = {}
        self.faults = deque()
        self.calls = []  # (seconds, operation, shard id)
        self.empty_answers = 0  # so many answers are empty although there is something
        self.tells_children = True  # in the last answer of a shard
        self.page_records = None  # a smaller page than the limit
        self.calls_per_s = CALLS_PER_S
        self.bytes_per_s = KINESIS_BYTES_PER_S if kind == "kinesis" else None
        self.refused = []  # what was asked too often, or too much
        self._seq = 49590338271490256608559692538361571095921575989136588898 if kind == "kinesis" else 10**20
        self._recent = defaultdict(deque)
        self._blocked_until = {}
        self._tokens = 0
        width = HASH_KEYS // shards
        for number in range(shards):
            end = HASH_KEYS - 1 if number == shards - 1 else (number + 1) * width - 1
            self._add((), number * width, end)

    @property
    def arn(self):
        if self.kind == "kinesis":
            return f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/{self.name}"
        return f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{self.name}/stream/2024-05-06T07:08:09.123"

    def _add(self, parents, start, end):
        number = len(self.shards)
        shard_id = f"shardId-{number:012d}"
        if self.kind == "dynamodb":
            shard_id = f"shardId-{number + 1541626099:020d}-{number:08x}"
        self.shards[shard_id] = LiveShard(shard_id, number, parents, start, end)
        return shard_id

    # ---- the producer's side

    def put(self, shard_id, *contents, key="k"):
        """Add records; for DynamoDB a content is the text of the NewImage.  Returns their sequence numbers."""
        shard = self.shards[shard_id]
        assert not shard.closed
        numbers = []
        for content in contents:
            self._seq += 1 + self._seq % 3
            data = content if isinstance(content, bytes) else str(content).encode()
            record = {"seq": self._seq, "key": key, "data": data, "at_ms": int(self.now() * 1000)}
            shard.records.append({**record, "size": len(data) + len(key)})
            numbers.append(str(self._seq))
        return numbers

    def close(self, shard_id):
        shard = self.shards[shard_id]
        shard.closed = True
        self._seq += 1
        # DynamoDB names the last record, Kinesis a number above it.
        shard.ending = shard.records[-1]["seq"] if self.kind == "dynamodb" and shard.records else self._seq

    def split(self, shard_id):
        shard = self.shards[shard_id]
        self.close(shard_id)
        middle = (shard.start + shard.end) // 2
        return self._add((shard_id,), shard.start, middle), self._add((shard_id,), middle + 1, shard.end)

    def merge(self, one, other):
        self.close(one), self.close(other)
        low, high = sorted((self.shards[one], self.shards[other]), key=lambda shard: shard.start)
        return self._add((one, other), low.start, high.end)

    def roll(self, shard_id):
        """As DynamoDB does every few hours: close a shard, with one child."""
        self.close(shard_id)
        return self._add((shard_id,), None, None)

    def trim(self, shard_id, count):
        """Forget the oldest `count` records."""
        shard = self.shards[shard_id]
        shard.horizon = min(len(shard.records), shard.horizon + count)

    def forget(self, shard_id):
        """A closed shard is not even listed any more."""
        del self.shards[shard_id]

    def numbers(self, shard_id):
        return [str(record["seq"]) for record in self.shards[shard_id].records]

    # ---- the reader's side

    def _called(self, operation, shard_id):
        now = self.now()
        self.calls.append((now, operation, shard_id))
        if self.faults and self.faults[0][0] in (operation, "*"):
            _, code = self.faults.popleft()
            raise Refusal(code, status=500 if code.startswith("Internal") else 400)
        if shard_id is None:
            return
        if shard_id not in self.shards:
            raise Refusal("ResourceNotFoundException", f"Shard {shard_id} in stream {self.name} does not exist")
        recent = self._recent[operation, shard_id]
        while recent and recent[0] <= now - 1:
            recent.popleft()
        recent.append(now)
        if len(recent) > self.calls_per_s:
            raise self._throttle(operation, shard_id)

    def _throttle(self, operation, shard_id):
        self.refused.append((operation, shard_id))
        code = "ProvisionedThroughputExceededException" if self.kind == "kinesis" else "LimitExceededException"
        return Refusal(code, f"Rate exceeded for shard {shard_id}")

    def listed(self):
        return list(self.shards.values())

    def list_shards(self):
        self._called("list", None)
        return self.listed()

    def iterator(self, shard_id, type, seq=None, at_ms=None):
        self._called("iterator", shard_id)
        shard = self.shards[shard_id]
        match type:
            case "TRIM_HORIZON":
                index = shard.horizon
            case "LATEST":
                index = len(shard.records)
            case "AT_TIMESTAMP":
                assert at_ms <= self.now() * 1000, "a time in the future"
                index = next((i for i, r in enumerate(shard.records) if r["at_ms"] >= at_ms), len(shard.records))
            case "AT_SEQUENCE_NUMBER":
                index = shard.index_of(seq)
            case "AFTER_SEQUENCE_NUMBER":
                index = shard.index_of(seq + 1)
        if self.kind == "dynamodb" and seq is not None and index < shard.horizon:
            raise Refusal("TrimmedDataAccessException", f"{seq} is older than the trim horizon")
        return self._token(shard_id, max(index, shard.horizon))

    def _token(self, shard_id, index):
        self._tokens += 1
        return f"{shard_id}/{index}/{self.now()}/{self._tokens}"

    def records(self, token):
        """(shard, records, next token or None, ms behind the newest)"""
        shard_id, index, issued, _ = token.split("/")
        self._called("records", shard_id)
        now, shard, index = self.now(), self.shards[shard_id], int(index)
        if now - float(issued) > self.limits["iterator_s"]:
            raise Refusal("ExpiredIteratorException", "Iterator expired")
        if now < self._blocked_until.get(shard_id, 0):
            raise self._throttle("records", shard_id)
        if index < shard.horizon:
            if self.kind == "dynamodb":
                raise Refusal("TrimmedDataAccessException", "trimmed")
            index = shard.horizon
        page, size = [], 0
        if self.empty_answers and index < len(shard.records):
            self.empty_answers -= 1
        else:
            most = self.page_records or self.limits["records"]
            for record in shard.records[index : index + most]:
                if size + record["size"] > self.limits["bytes"] and page:
                    break
                page.append(record)
                size += record["size"]
        if self.bytes_per_s is not None:
            self._blocked_until[shard_id] = now + size / self.bytes_per_s
        index += len(page)
        at_end = index == len(shard.records)
        behind = 0 if at_end else max(1, int(now * 1000) - shard.records[index]["at_ms"])
        token = None if shard.closed and at_end else self._token(shard_id, index)
        return shard, page, token, behind

    def children_of(self, shard_id):
        return [shard for shard in self.shards.values() if shard_id in shard.parents]

    # ---- as JSON on the wire

    def kinesis_shard(self, shard):
        numbers = {"StartingSequenceNumber": str(self._seq - 10**6)}
        if shard.closed:
            numbers["EndingSequenceNumber"] = str(shard.ending)
        described = {
            "ShardId": shard.id,
            "HashKeyRange": {"StartingHashKey": str(shard.start), "EndingHashKey": str(shard.end)},
            "SequenceNumberRange": numbers,
        }
        names = ("ParentShardId", "AdjacentParentShardId")
        return {**described, **dict(zip(names, shard.parents, strict=False))}

    def child_shard(self, shard):
        hashes = {"StartingHashKey": str(shard.start), "EndingHashKey": str(shard.end)}
        return {"ShardId": shard.id, "ParentShards": list(shard.parents), "HashKeyRange": hashes}

    def dynamodb_shard(self, shard):
        numbers = {"StartingSequenceNumber": str(10**20)}
        if shard.closed:
            numbers["EndingSequenceNumber"] = str(shard.ending)
        described = {"ShardId": shard.id, "SequenceNumberRange": numbers}
        return described | ({"ParentShardId": shard.parents[0]} if shard.parents else {})

    def kinesis_record(self, record):
        return {
            "SequenceNumber": str(record["seq"]),
            "ApproximateArrivalTimestamp": record["at_ms"] / 1000,
            "Data": base64.b64encode(record["data"]).decode(),
            "PartitionKey": record["key"],
        }

    def dynamodb_record(self, record):
        """JSON text: the image is what was put, character by character."""
        image = record["data"].decode()
        return (
            f'{{"eventID":"{record["seq"]:032x}","eventName":"INSERT","eventVersion":"1.1","eventSource":"aws:dynamodb",'
            f'"awsRegion":"{REGION}","dynamodb":{{"ApproximateCreationDateTime":{record["at_ms"] // 1000},'
            f'"Keys":{{"id":{{"S":{json.dumps(record["key"])}}}}},"NewImage":{image},'
            f'"SequenceNumber":"{record["seq"]}","SizeBytes":{record["size"]},"StreamViewType":"NEW_IMAGE"}}}}'
        )
