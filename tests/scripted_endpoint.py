"""Kinesis and DynamoDB Streams over HTTP, for what an emulator does not show: `LiveStream` behind AWS's JSON protocol.

    with Endpoint() as endpoint:
        live = endpoint.kinesis("orders", shards=2)
        ... live.put(...), live.split(...), live.faults.append(("records", "ExpiredIteratorException"))

`endpoint.environment` points the SDK at it.  Requests are served one at a time, under `endpoint.lock`, which a test
holds when it changes several things at once.  `delay_s` makes every answer late; `page_shards` pages the lists.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from live_stream import REGION, LiveStream, Refusal

# The SDK reads its descriptions of services once a session, which takes longer than most tests that need one.
SESSIONS = functools.cache(boto3.Session)


class Endpoint:
    def __init__(self):
        self.streams = {}  # by name and by ARN
        self.lock = threading.RLock()
        self.requests = []  # (operation, parameters)
        self.page_shards = 1000
        self.delay_s = 0.0
        self.broken_answers = 0  # so many answers end in the middle
        self._tokens = {}
        self.reads = 0  # answers to GetRecords
        self._read = threading.Condition(self.lock)
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self):
        return {
            "AWS_ENDPOINT_URL": self.url, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }  # fmt: skip

    def kinesis(self, name="orders", **options):
        return self._add(LiveStream(time.time, kind="kinesis", name=name, **options))

    def dynamodb(self, name="customers", **options):
        return self._add(LiveStream(time.time, kind="dynamodb", name=name, **options))

    def _add(self, live):
        self.streams[live.name] = self.streams[live.arn] = live
        return live

    def delete(self, live):
        del self.streams[live.name], self.streams[live.arn]

    def wait_for_reads(self, count, seconds=20):
        """Wait until GetRecords was called so many times more."""
        with self.lock:
            end = self.reads + count
            assert self._read.wait_for(lambda: self.reads >= end, seconds), f"{end - self.reads} reads too few"

    # ---- operations

    def answer(self, operation, parameters):
        """The JSON text of an answer."""
        self.requests.append((operation, parameters))
        if operation.endswith(".GetRecords"):
            self.reads += 1
            self._read.notify_all()
        service, name = operation.split(".")
        return getattr(self, f"{'d' if service.startswith('Dynamo') else 'k'}_{name}")(parameters)

    def _stream(self, parameters, *keys):
        for key in keys:
            if key in parameters:
                if parameters[key] not in self.streams:
                    raise Refusal("ResourceNotFoundException", f"Stream {parameters[key]} not found")
                return self.streams[parameters[key]]
        raise Refusal("InvalidArgumentException", f"one of {keys} is needed")

    def k_DescribeStreamSummary(self, parameters):
        live = self._stream(parameters, "StreamARN", "StreamName")
        live._called("describe", None)
        summary = {
            "StreamName": live.name, "StreamARN": live.arn, "StreamStatus": live.status,
            "RetentionPeriodHours": live.retention_s // 3600, "StreamCreationTimestamp": live.created,
            "EnhancedMonitoring": [], "OpenShardCount": 1,
        }  # fmt: skip
        return json.dumps({"StreamDescriptionSummary": summary})

    def k_ListShards(self, parameters):
        if "NextToken" in parameters:
            if "StreamName" in parameters or "StreamARN" in parameters:
                raise Refusal("InvalidArgumentException", "NextToken and StreamName cannot be provided together.")
            live, start = self._tokens.pop(parameters["NextToken"])
        else:
            live, start = self._stream(parameters, "StreamARN", "StreamName"), 0
        found = live.list_shards()
        answer = {"Shards": [live.kinesis_shard(shard) for shard in found[start : start + self.page_shards]]}
        if start + self.page_shards < len(found):
            answer["NextToken"] = f"token-{len(self.requests)}"
            self._tokens[answer["NextToken"]] = live, start + self.page_shards
        return json.dumps(answer)

    def k_GetShardIterator(self, parameters):
        live = self._stream(parameters, "StreamARN", "StreamName")
        seq, at = parameters.get("StartingSequenceNumber"), parameters.get("Timestamp")
        iterator = live.iterator(
            parameters["ShardId"], parameters["ShardIteratorType"],
            int(seq) if seq else None, round(at * 1000) if at is not None else None,
        )  # fmt: skip
        return json.dumps({"ShardIterator": f"{live.name}|{iterator}"})

    def k_GetRecords(self, parameters):
        name, token = parameters["ShardIterator"].split("|")
        live = self._stream({"n": name}, "n")
        shard, page, next_token, behind = live.records(token)
        answer = {"Records": [live.kinesis_record(record) for record in page], "MillisBehindLatest": behind}
        if next_token is not None:
            answer["NextShardIterator"] = f"{name}|{next_token}"
        elif live.tells_children:
            answer["ChildShards"] = [live.child_shard(child) for child in live.children_of(shard.id)]
        return json.dumps(answer)

    def d_ListStreams(self, parameters):
        streams = {live for live in self.streams.values() if live.name == parameters["TableName"]}
        return json.dumps({"Streams": [{"StreamArn": live.arn, "TableName": live.name} for live in streams]})

    def d_DescribeStream(self, parameters):
        live = self._stream(parameters, "StreamArn")
        found = live.list_shards()
        after = parameters.get("ExclusiveStartShardId")
        start = 1 + [shard.id for shard in found].index(after) if after else 0
        page = found[start : start + min(self.page_shards, parameters.get("Limit", 100))]
        described = {
            "StreamArn": live.arn, "StreamLabel": live.arn.rpartition("/")[2], "StreamStatus": live.status,
            "StreamViewType": "NEW_IMAGE", "TableName": live.name, "CreationRequestDateTime": live.created,
            "Shards": [live.dynamodb_shard(shard) for shard in page],
        }  # fmt: skip
        if start + len(page) < len(found):
            described["LastEvaluatedShardId"] = page[-1].id
        return json.dumps({"StreamDescription": described})

    def d_DescribeTable(self, parameters):
        raise Refusal("ResourceNotFoundException", f"Requested resource not found: Table: {parameters['TableName']}")

    def d_GetShardIterator(self, parameters):
        live = self._stream(parameters, "StreamArn")
        assert parameters["ShardIteratorType"] != "AT_TIMESTAMP"
        seq = parameters.get("SequenceNumber")
        token = live.iterator(parameters["ShardId"], parameters["ShardIteratorType"], int(seq) if seq else None)
        return json.dumps({"ShardIterator": f"{live.arn}|{token}"})

    def d_GetRecords(self, parameters):
        arn, token = parameters["ShardIterator"].split("|")
        live = self._stream({"n": arn}, "n")
        _, page, next_token, _ = live.records(token)
        texts = ",".join(live.dynamodb_record(record) for record in page)
        follows = "" if next_token is None else f',"NextShardIterator":{json.dumps(f"{arn}|{next_token}")}'
        return f'{{"Records":[{texts}]{follows}}}'


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Whoever asked may have been killed."""


def _handler(endpoint):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            parameters = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
            if endpoint.delay_s:
                time.sleep(endpoint.delay_s)
            status, cut = 200, False
            with endpoint.lock:
                try:
                    body = endpoint.answer(self.headers["X-Amz-Target"], parameters)
                except Refusal as refusal:
                    status = refusal.status
                    body = json.dumps({"__type": refusal.code, "message": str(refusal)})
                if endpoint.broken_answers and "GetRecords" in self.headers["X-Amz-Target"]:
                    endpoint.broken_answers -= 1
                    cut = True
            content = body.encode()
            with suppress(BrokenPipeError, ConnectionResetError):  # whoever asked has been killed
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if cut else content)
                self.close_connection = self.close_connection or cut

        def log_message(self, *arguments):
            pass

    return Handler
