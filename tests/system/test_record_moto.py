"""Recording from moto's server: what an emulator that is not ours answers is understood, as far as it goes.

moto shows neither a shard's end nor its children, and moves a closed shard's records into them; that part is in
`test_record_streams`.
"""

import time

import boto3
import pytest
from moto.server import ThreadedMotoServer
from record_rig import numbers, record, stored
from scripted_endpoint import SESSIONS

from streamfn.capture.reading import Beginning
from streamfn.errors import RefusedError
from streamfn.log.catalog.datadir import DataDir

REGION = "eu-west-1"


@pytest.fixture(scope="module")
def server():
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def aws(server, monkeypatch):
    """Clients of a fresh moto; closed at the end."""
    for name, value in {
        "AWS_ENDPOINT_URL": server, "AWS_DEFAULT_REGION": REGION, "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "Session", SESSIONS)
    session, made = boto3.Session(region_name=REGION), []

    def client(service):
        made.append(session.client(service))
        return made[-1]

    yield client
    for one in made:
        one.close()


@pytest.fixture
def kinesis(aws):
    client = aws("kinesis")
    client.create_stream(StreamName="orders", ShardCount=2)
    yield client
    client.delete_stream(StreamName="orders")


def put(kinesis, values):
    """Put records; what moto says where they went, by shard."""
    given = [{"Data": str(value).encode(), "PartitionKey": f"key-{value}"} for value in values]
    placed = {}
    for answer in kinesis.put_records(StreamName="orders", Records=given)["Records"]:
        placed.setdefault(answer["ShardId"], []).append(answer["SequenceNumber"])
    return placed


def test_a_stream_is_recorded_and_the_second_time_gone_on_with(server, kinesis, tmp_path):
    placed = put(kinesis, range(100))
    first = record(server, "kinesis://orders", tmp_path)
    assert first.result.records == 100
    for shard, more in put(kinesis, range(100, 150)).items():
        placed[shard] += more
    second = record(server, "kinesis://orders", tmp_path)
    assert (second.result.records, second.said) == (50, [])
    assert numbers(tmp_path, "orders") == placed
    described = kinesis.describe_stream(StreamName="orders")["StreamDescription"]
    stream = DataDir.open(tmp_path, create=False).stream("orders")
    assert stream.arn == described["StreamARN"]
    assert {s.id: (str(s.start_hash), str(s.end_hash)) for s in stream.shards} == {
        s["ShardId"]: (s["HashKeyRange"]["StartingHashKey"], s["HashKeyRange"]["EndingHashKey"])
        for s in described["Shards"]
    }
    found = [one for shard in stored(tmp_path, "orders").values() for one in shard]
    kept = {one.data: (one.partition_key, one.arrival_ms) for one in found}
    assert kept.keys() == {str(value).encode() for value in range(150)}
    assert all(key == f"key-{data.decode()}" for data, (key, _) in kept.items())
    assert all(abs(at - time.time() * 1000) < 60_000 for _, at in kept.values())


def test_by_arn_it_is_read_as_well(server, kinesis, tmp_path):
    put(kinesis, range(10))
    arn = kinesis.describe_stream(StreamName="orders")["StreamDescription"]["StreamARN"]
    assert record(server, arn, tmp_path, name="by-arn").result.records == 10


def test_latest_and_a_time_begin_where_they_say(server, kinesis, tmp_path):
    put(kinesis, range(20))
    time.sleep(1.1)  # a source says the time in seconds
    assert record(server, "kinesis://orders", tmp_path, name="latest", begin="LATEST").result.records == 0
    between_ms = time.time_ns() // 1_000_000
    put(kinesis, range(20, 30))
    begin = Beginning("AT_TIMESTAMP", between_ms)
    assert record(server, "kinesis://orders", tmp_path, name="timed", begin=begin).result.records == 10
    assert record(server, "kinesis://orders", tmp_path, name="latest").result.records == 10


def test_shards_that_were_split_and_merged_are_closed_and_their_children_read(server, kinesis, tmp_path):
    put(kinesis, range(40))
    assert record(server, "kinesis://orders", tmp_path).result.records == 40
    [low, high] = kinesis.describe_stream(StreamName="orders")["StreamDescription"]["Shards"]
    middle = (int(low["HashKeyRange"]["StartingHashKey"]) + int(low["HashKeyRange"]["EndingHashKey"])) // 2
    kinesis.split_shard(StreamName="orders", ShardToSplit=low["ShardId"], NewStartingHashKey=str(middle))
    kinesis.merge_shards(
        StreamName="orders", ShardToMerge="shardId-000000000003", AdjacentShardToMerge=high["ShardId"]
    )
    record(server, "kinesis://orders", tmp_path)
    shards = {shard.id: shard for shard in DataDir.open(tmp_path, create=False).stream("orders").shards}
    assert {id: (shard.parents, shard.open) for id, shard in shards.items()} == {
        "shardId-000000000000": ((), False),
        "shardId-000000000001": ((), False),
        "shardId-000000000002": (("shardId-000000000000",), True),
        "shardId-000000000003": (("shardId-000000000000",), False),
        "shardId-000000000004": (("shardId-000000000003", "shardId-000000000001"), True),
    }
    # moto has moved the parents' records: those of the merged ones come once more, as the child's own.
    found = stored(tmp_path, "orders")
    assert {one.data for shard in ("shardId-000000000000", "shardId-000000000001") for one in found[shard]} == {
        str(value).encode() for value in range(40)
    }
    assert len(found["shardId-000000000000"]) + len(found["shardId-000000000001"]) == 40


@pytest.fixture
def table(aws):
    client = aws("dynamodb")
    client.create_table(
        TableName="customers",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )
    yield client
    client.delete_table(TableName="customers")


def test_a_tables_stream_is_recorded_and_the_second_time_gone_on_with(server, table, tmp_path):
    def write(number, **attributes):
        table.put_item(TableName="customers", Item={"id": {"S": f"c{number}"}, **attributes})

    write(1, name={"S": "Ada"}, n={"N": "1.5"})
    write(1, name={"S": "Ada Lovelace"})
    assert record(server, "dynamodb-stream://customers", tmp_path).result.records == 2
    table.delete_item(TableName="customers", Key={"id": {"S": "c1"}})
    write(2)
    second = record(server, "dynamodb-stream://customers", tmp_path)
    assert (second.result.records, second.said) == (2, [])
    [found] = stored(tmp_path, "customers").values()
    assert [(one.event_name, one.new_image, one.old_image) for one in found] == [
        ("INSERT", b'{"id":{"S":"c1"},"name":{"S":"Ada"},"n":{"N":"1.5"}}', None),
        ("MODIFY", b'{"id":{"S":"c1"},"name":{"S":"Ada Lovelace"}}',
         b'{"id":{"S":"c1"},"name":{"S":"Ada"},"n":{"N":"1.5"}}'),
        ("REMOVE", None, b'{"id":{"S":"c1"},"name":{"S":"Ada Lovelace"}}'),
        ("INSERT", b'{"id":{"S":"c2"}}', None),
    ]  # fmt: skip
    arn = table.describe_table(TableName="customers")["Table"]["LatestStreamArn"]
    assert DataDir.open(tmp_path, create=False).stream("customers").arn == arn


def test_a_table_without_stream_is_refused_with_the_command_that_switches_it_on(server, aws, tmp_path):
    client = aws("dynamodb")
    client.create_table(
        TableName="quiet",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(RefusedError, match="table 'quiet' in region eu-west-1 has no stream: switch it on with aws"):
        record(server, "dynamodb-stream://quiet", tmp_path)
