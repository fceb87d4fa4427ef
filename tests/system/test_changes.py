"""DynamoDB change records from end to end: put on the command line and in a program, shown, and delivered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import trio

import streamfn
from streamfn.errors import RefusedError
from streamfn.events.dynamodb import DynamoDBSource, dynamodb_event
from streamfn.limits import EVENT_BYTES_MAX
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Stream
from streamfn.log.shard.reader import ShardReader, changes
from streamfn.types import Change

COMMAND = [sys.executable, "-c", "import sys; from streamfn.cli import main; sys.exit(main())"]
HANDLER = """
import json, os

def handler(event, context):
    with open(os.environ["SEEN"], "a") as file:
        file.write(json.dumps(event) + "\\n")

def fails_once(event, context):
    handler(event, context)
    if not os.path.exists(os.environ["SEEN"] + ".failed"):
        open(os.environ["SEEN"] + ".failed", "w").close()
        raise RuntimeError("once")
"""

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    (tmp_path / "app.py").write_text(HANDLER)
    environment = {
        **os.environ,
        "STREAMFN_DATA_DIR": str(tmp_path / "data"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "SEEN": str(tmp_path / "seen"),
        "COLUMNS": "200",
    }

    def run(*arguments: str, stdin: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *arguments], input=stdin, capture_output=True, cwd=tmp_path, env=environment, timeout=60,
            check=False, text=True,
        )  # fmt: skip
        assert "Traceback" not in done.stderr or "RuntimeError: once" in done.stderr
        assert done.returncode == code, done.stderr
        return done

    return run


def item(number: int, **attributes: object) -> dict[str, object]:
    return {"id": {"N": str(number)}, **attributes}


def change(number: int, new: object = None, old: object = None) -> dict[str, object]:
    images = {name: image for name, image in (("NewImage", new), ("OldImage", old)) if image is not None}
    return {"Keys": {"id": {"N": str(number)}}, **images}


def some_changes(count: int) -> str:
    lines = []
    for i in range(count):
        new = item(i % 7, text={"S": f'é/"{i}'}, numbers={"NS": ["1.50", "-2E+3"]}, image={"B": "Zm9vYmFy"})
        old = item(i % 7, text={"S": f"{i - 7}"})
        which = i % 3
        lines.append(json.dumps(change(i % 7, new if which < 2 else None, old if which else None)))
    return "\n".join(lines) + "\n"


def stored(stream: Stream) -> dict[str, list[Change]]:
    found: dict[str, list[Change]] = {}
    for shard in stream.shards:
        with ShardReader.open(shard, 0) as reader:
            found[shard.id] = [
                one for batch in iter(lambda: reader.poll(1 << 20), []) for message in batch for one in changes(message)
            ]
    return found


def test_a_run_delivers_exact_events(cli: Cli, tmp_path: Path) -> None:
    put = cli("put-change", "orders", "--shards", "2", stdin=some_changes(60)).stdout.splitlines()
    assert len(put) == 60
    ran = cli("run", "app.handler", "--stream", "orders", "--until-caught-up", "--batch-size", "7", "--json")
    assert json.loads(ran.stdout)["records"] == 60
    stream = DataDir.open(tmp_path / "data", create=False).stream("orders")
    assert stream.kind == "dynamodb"
    assert stream.arn.startswith("arn:aws:dynamodb:us-east-1:000000000000:table/orders/stream/20")
    source = DynamoDBSource(stream.arn, "us-east-1")
    wanted = {
        shard_id: dynamodb_event(source, of_shard)["Records"] for shard_id, of_shard in stored(stream).items()
    }
    assert all(wanted.values())
    assert sum(map(len, wanted.values())) == 60
    events = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert all(len(event["Records"]) <= 7 for event in events)
    for records in wanted.values():
        first = {record["eventID"] for record in records}
        seen = [record for event in events for record in event["Records"] if record["eventID"] in first]
        assert [json.dumps(record) for record in seen] == [json.dumps(record) for record in records]
    record = events[0]["Records"][0]
    assert list(record) == [
        "eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "dynamodb", "eventSourceARN",
    ]  # fmt: skip
    assert (len(record["eventID"]), record["eventVersion"], record["eventSource"]) == (32, "1.1", "aws:dynamodb")
    again = cli("run", "app.handler", "--stream", "orders", "--until-caught-up", "--json")
    assert json.loads(again.stdout)["records"] == 0


def test_a_failed_invocation_is_repeated_with_the_same_event(cli: Cli, tmp_path: Path) -> None:
    cli("put-change", "t", stdin=some_changes(5))
    cli("run", "app.fails_once", "--stream", "t", "--until-caught-up")
    one, two = (tmp_path / "seen").read_text().splitlines()
    assert one == two
    assert len(json.loads(one)["Records"]) == 5


def test_an_event_has_as_many_changes_as_six_megabytes_hold(cli: Cli, tmp_path: Path) -> None:
    # What is stored is longer than what an event has of it: "\\/" and "\\u00e9" are read and written as one character.
    line = '{"Keys": {"id": {"N": "%d"}}, "NewImage": {"id": {"N": "%d"}, "text": {"S": "%s"}}}'
    lines = [
        line % (i, i, spelled * 60_000)
        for i, spelled in enumerate(["\\/\\u00e9 a", "plain text", "\\\\u00e9\\\"x\\n"] * 9)
    ]
    cli("put-change", "t", stdin="\n".join(lines))
    cli("run", "app.handler", "--stream", "t", "--until-caught-up")
    events = [orjson.loads(line) for line in (tmp_path / "seen").read_bytes().splitlines()]
    assert len(events) > 1
    assert [record["dynamodb"]["Keys"]["id"]["N"] for event in events for record in event["Records"]] == [
        str(i) for i in range(27)
    ]
    sizes = [len(orjson.dumps(event)) for event in events]
    assert all(size <= EVENT_BYTES_MAX for size in sizes)
    for size, following in zip(sizes, events[1:], strict=False):
        assert size + len(b"," + orjson.dumps(following["Records"][0])) > EVENT_BYTES_MAX


def test_an_items_changes_go_to_one_shard_in_order(cli: Cli, tmp_path: Path) -> None:
    lines = [json.dumps(change(i % 5, item(i % 5, turn={"N": str(i)}))) for i in range(50)]
    cli("put-change", "t", "--shards", "4", stdin="\n".join(lines))
    shards = stored(DataDir.open(tmp_path / "data", create=False).stream("t"))
    where: dict[bytes, set[str]] = {}
    turns: dict[bytes, list[int]] = {}
    for shard_id, of_shard in shards.items():
        for one in of_shard:
            where.setdefault(one.keys, set()).add(shard_id)
            turns.setdefault(one.keys, []).append(int(orjson.loads(one.new_image or b"")["turn"]["N"]))
    assert [len(found) for found in where.values()] == [1] * 5
    assert len(set.union(*where.values())) > 1
    assert all(numbers == sorted(numbers) for numbers in turns.values())


def test_tail_shows_what_get_records_would_answer(cli: Cli) -> None:
    cli("put-change", "t", json.dumps(change(1, item(1, a={"S": "x"}))), json.dumps(change(1, None, item(1))))
    first, second = (json.loads(line) for line in cli("tail", "t", "--json").stdout.splitlines())
    assert list(first) == ["eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "dynamodb", "ShardId"]
    assert (first["eventName"], second["eventName"]) == ("INSERT", "REMOVE")
    assert first["dynamodb"]["NewImage"] == item(1, a={"S": "x"})
    assert first["dynamodb"]["SizeBytes"] == len("id") + 2 + len("id") + 2 + len("a") + len("x")
    assert list(second["dynamodb"]) == [
        "ApproximateCreationDateTime", "Keys", "OldImage", "SequenceNumber", "SizeBytes", "StreamViewType",
    ]  # fmt: skip
    text = cli("tail", "t").stdout.splitlines()
    assert 'shardId-000000000000  INSERT  {"id":{"N":"1"}}  {"id":{"N":"1"},"a":{"S":"x"}}' in text[0]
    assert cli("put-change", "again", stdin=cli("tail", "t", "--json").stdout).stdout.count("\n") == 2
    listed = json.loads(cli("list", "--json").stdout.splitlines()[0])
    assert "t" in json.dumps(listed)
    assert "table/t/stream/" in cli("inspect", "t").stdout


def test_a_view_drops_images_and_what_changes_nothing_makes_no_record(cli: Cli, tmp_path: Path) -> None:
    same = change(1, item(1, n={"N": "1"}), item(1, n={"N": "1.0"}))
    moved = change(1, item(1, n={"N": "2"}), item(1, n={"N": "1"}))
    done = cli("put-change", "t", json.dumps(same), json.dumps(moved), "--view-type", "NEW_IMAGE")
    assert done.stdout.count("\n") == 1
    assert "1 change that changes nothing makes no record" in done.stderr
    ((one,),) = stored(DataDir.open(tmp_path / "data", create=False).stream("t")).values()
    assert (one.event_name, one.old_image, one.stream_view_type) == ("MODIFY", None, "NEW_IMAGE")
    assert one.size_bytes == 4 + 4 + 3
    assert one.new_image == b'{"id":{"N":"1"},"n":{"N":"2"}}'


def test_the_two_kinds_of_streams_do_not_mix(cli: Cli) -> None:
    cli("put", "records", "x")
    cli("put-change", "changes", json.dumps(change(1, item(1))))
    refused = cli("put-change", "records", json.dumps(change(1, item(1))), code=2).stderr
    assert "stream 'records' is of kind kinesis: it takes records (put), not DynamoDB change records" in refused
    refused = cli("put", "changes", "x", code=2).stderr
    assert "stream 'changes' is of kind dynamodb: it takes DynamoDB change records (put-change), not records" in refused


def test_what_is_no_change_is_refused_before_anything_is_made(cli: Cli, tmp_path: Path) -> None:
    good = json.dumps(change(1, item(1)))
    refused = cli("put-change", "t", good, '{"Keys": {"id": {"N": 1}}, "NewImage": {}}', code=2).stderr
    assert 'change 2 of 2: this is no DynamoDB change: Keys.id.N is a JSON string, such as {"N": "4.5"}' in refused
    assert not (tmp_path / "data").exists()
    refused = cli("put-change", "t", stdin=f"{good}\n{{\n", code=2).stderr
    assert "standard input, line 2: this is no DynamoDB change: it is not JSON" in refused
    assert "one of 'KEYS_ONLY'" in cli("put-change", "t", good, "--view-type", "ALL", code=2).stderr


def test_a_program_puts_and_reads_changes(tmp_path: Path) -> None:
    async def main() -> None:
        async with streamfn.open(tmp_path / "data") as session:
            placed = await session.put_change("t", change(1, item(1, a={"S": "é"})))
            assert placed is not None
            assert placed.shard_id == "shardId-000000000000"
            text = '{"Keys": {"id": {"N": "1"}}, "OldImage": {"id": {"N": "1"}, "a": {"S": "\\u00e9"}}}'
            await session.put_change("t", text, view_type="KEYS_ONLY")
            assert await session.put_change("t", change(1, item(1), item(1))) is None
            found = [one async for one in session.changes("t")]
            assert [one.event_name for one in found] == ["INSERT", "REMOVE"]
            assert found[0].new_image == '{"id":{"N":"1"},"a":{"S":"é"}}'.encode()
            assert (found[1].old_image, found[1].stream_view_type, found[1].offset) == (None, "KEYS_ONLY", 1)
            await session.put_change("t", change(2, item(2, b={"B": b"foobar"}, s={"BS": [b"\0"]})))
            last = [one async for one in session.changes("t")][-1]
            assert last.new_image == b'{"id":{"N":"2"},"b":{"B":"Zm9vYmFy"},"s":{"BS":["AA=="]}}'
            with pytest.raises(RefusedError, match="cannot be written as JSON"):
                await session.put_change("t", change(2, item(2, n={"N": {1, 2}})))
            with pytest.raises(RefusedError, match="is of kind dynamodb: read it with `changes`"):
                await session.records("t").open()
            with pytest.raises(RefusedError, match="is of kind dynamodb: it takes DynamoDB change records"):
                await session.put("t", b"x")
            with pytest.raises(RefusedError, match="this is no DynamoDB change: it has no \"Keys\""):
                await session.put_change("t", {"NewImage": item(1)})

            result = await session.run_until_caught_up(lambda event, context: None, "t")
            assert result.records == 3

    trio.run(main)
    with streamfn.open_sync(tmp_path / "data") as session:
        session.create_stream("wide", shards=3, kind="dynamodb")
        assert session.put_change("wide", change(1, item(1))) is not None
        with pytest.raises(RefusedError, match="is of kind dynamodb: it takes DynamoDB change records"):
            session.create_stream("wide", shards=3)
        assert session.put_change("t", change(2, item(2))) is not None
        assert [one.keys for one in session.changes("t")] == [b'{"id":{"N":"1"}}'] * 2 + [b'{"id":{"N":"2"}}'] * 2
