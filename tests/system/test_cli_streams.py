"""The commands that make, fill, show and delete streams, as processes: good input and bad."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import pytest

from streamfn.cli.app import COMMANDS
from streamfn.cli.mapping import mapping
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.reader import ShardReader
from streamfn.log.shard.writer import ShardWriter
from streamfn.state.owner import Ownership
from streamfn.state.store import Store
from streamfn.types import NewRecord

COMMAND = [sys.executable, "-c", "import sys; from streamfn.cli import main; sys.exit(main())"]
DEADLINE_S = 20.0


class Cli:
    """Runs `streamfn` on one data directory."""

    def __init__(self, cwd: Path, data_dir: Path) -> None:
        self.cwd = cwd
        self.data_dir = data_dir
        self.started: list[subprocess.Popen[bytes]] = []
        root = Path(__file__).parents[2]
        self.environment = {
            **os.environ,
            "STREAMFN_DATA_DIR": str(data_dir),
            "PYTHONPATH": str(root),
            "PYTHONWARNINGS": "error",
        }

    def __call__(self, *arguments: str, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]:
        content = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=content,
            capture_output=True,
            cwd=self.cwd,
            env=self.environment,
            timeout=60,
            check=False,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def ok(self, *arguments: str, stdin: str | bytes = b"") -> str:
        done = self(*arguments, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def refused(self, code: int, *arguments: str, stdin: str | bytes = b"") -> str:
        """Run what must fail with one line and that exit code; return the line."""
        done = self(*arguments, stdin=stdin)
        assert done.returncode == code, done.stderr
        assert done.stdout == ""
        match = re.fullmatch(r"streamfn: error: (.*)\n", done.stderr)
        assert match, done.stderr
        return match[1]

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.cwd,
            env=self.environment,
        )
        self.started.append(process)
        return process

    def close(self) -> None:
        """End what was started and is still there."""
        for process in self.started:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def records(self, stream: str) -> list[dict[str, Any]]:
        lines = self.ok("tail", stream, "--from", "TRIM_HORIZON", "--json").splitlines()
        return [{**json.loads(line), "Data": base64.b64decode(json.loads(line)["Data"])} for line in lines]

    def file(self, name: str, content: str | bytes) -> str:
        path = self.cwd / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return name


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with closing(Cli(tmp_path, tmp_path / "data")) as made:
        yield made


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stored(cli: Cli, name: str) -> int:
    """How many durable records a stream has; 0 where there is none, or no data directory."""
    if not (cli.data_dir / "format").exists():
        return 0
    found = [stream for stream in DataDir.open(cli.data_dir, create=False).streams() if stream.name == name]
    total = 0
    for shard in found[0].shards if found else ():
        with ShardReader.open(shard, 0) as reader:
            total += reader.committed().end_offset
    return total


def read_until(stream: IO[bytes] | None, wanted: bytes) -> bytes:
    """Read what a process writes until it holds `wanted`."""
    assert stream is not None
    content = b""
    deadline = time.monotonic() + DEADLINE_S
    while wanted not in content:
        assert select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0], content
        part = os.read(stream.fileno(), 65536)
        assert part, content
        content += part
    return content


# ---- good input ----


def test_an_imported_file_is_there_in_its_order_by_shard(cli: Cli) -> None:
    lines = [
        json.dumps({"id": i, "customer": {"id": f"c{i % 7}"}, "at": 1_700_000_000 + i}) for i in range(500)
    ]
    name = cli.file("orders.jsonl", "\n".join(lines) + "\n")
    fields = ("--partition-key", "customer.id", "--time-field", "at")
    report = json.loads(cli.ok("import", name, "--stream", "orders", "--shards", "3", *fields, "--json"))
    assert (report["records"], report["skipped"], report["shards"]) == (500, 0, 3)
    found = cli.records("orders")
    assert sorted(record["Data"].decode() for record in found) == sorted(lines)
    by_shard: dict[str, list[int]] = {}
    for record in found:
        value = json.loads(record["Data"])
        assert record["PartitionKey"] == value["customer"]["id"]
        assert record["ApproximateArrivalTimestamp"] == value["at"]
        by_shard.setdefault(record["ShardId"], []).append(value["id"])
    assert len(by_shard) > 1
    assert all(ids == sorted(ids) for ids in by_shard.values())


def test_the_last_ten_are_shown_unless_asked_otherwise(cli: Cli) -> None:
    cli.ok("put", "s", "--shards", "4", stdin="".join(f"{i}\n" for i in range(30)))
    assert len(cli.ok("tail", "s").splitlines()) == 10
    assert [line.split()[-1] for line in cli.ok("tail", "s", "-n", "2").splitlines()] <= ["28", "29"]
    assert len(cli.ok("tail", "s", "--from", "TRIM_HORIZON").splitlines()) == 30
    assert len(cli.ok("tail", "s", "--from", "TRIM_HORIZON", "-n", "3").splitlines()) == 3
    assert cli.ok("tail", "s", "--from", "LATEST") == ""
    assert cli.ok("tail", "s", "--from", "2100-01-01") == ""


def test_a_put_tells_where_each_record_went(cli: Cli) -> None:
    placed = [json.loads(line) for line in cli.ok("put", "s", "a", "b", "--json").splitlines()]
    found = cli.records("s")
    assert [(one["ShardId"], one["SequenceNumber"]) for one in placed] == [
        (one["ShardId"], one["SequenceNumber"]) for one in found
    ]
    assert [record["Data"] for record in found] == [b"a", b"b"]
    shard_id, number = cli.ok("put", "s", "--partition-key", "k", "--", "-c").split()
    assert (
        cli.records("s")[-1] | {"Data": b"-c", "PartitionKey": "k", "SequenceNumber": number}
        == cli.records("s")[-1]
    )
    assert shard_id == "shardId-000000000000"


def test_data_that_is_no_text_is_put_and_shown_on_one_line(cli: Cli) -> None:
    cli.ok("put", "s", stdin=b"\xff\x1b[31m\tx\r\n")
    assert cli.records("s")[0]["Data"] == b"\xff\x1b[31m\tx\r"
    assert cli.ok("tail", "s").endswith("\\xff\\x1b[31m\\tx\\r\n")


def test_a_slow_producers_lines_are_durable_as_they_come(cli: Cli) -> None:
    for command in (("put", "s"), ("import", "-", "--stream", "s")):
        process = cli.start(*command, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(b'"one"\n')
        process.stdin.flush()
        until(lambda: stored(cli, "s") == 1)
        process.stdin.write(b'"two"')
        _, err = process.communicate()
        assert (process.returncode, err) == (0, b"")
        assert [record["Data"] for record in cli.records("s")] == [b'"one"', b'"two"']
        cli.ok("delete", "s", "--yes")


def test_a_follower_shows_what_comes_and_ctrl_c_ends_it(cli: Cli) -> None:
    cli.ok("put", "s", "first", "--shards", "2")
    process = cli.start("tail", "s", "--follow")
    read_until(process.stdout, b"first")
    cli.ok("put", "s", "second", "third")
    content = read_until(process.stdout, b"third")
    assert b"first" not in content
    process.send_signal(signal.SIGINT)
    assert process.communicate() == (b"", b"")
    assert process.returncode == 130


def test_a_follower_goes_on_in_the_children_of_a_split(cli: Cli) -> None:
    cli.ok("put", "s", "first")
    process = cli.start("tail", "s", "--follow")
    read_until(process.stdout, b"first")
    cli.ok("split-shard", "s", "--shard-to-split", "shardId-000000000000")
    cli.ok("put", "s", *(f"then {number}" for number in range(8)))
    content = b""
    while content.count(b"then") < 8:
        content += read_until(process.stdout, b"then")
    assert b"shardId-000000000001" in content
    assert b"shardId-000000000002" in content
    process.send_signal(signal.SIGINT)
    process.communicate()


def test_a_process_that_goes_on_putting_gives_way_to_a_split_and_follows_it(cli: Cli) -> None:
    process = cli.start("put", "s", "--partition-key", "k", stdin=subprocess.PIPE)
    assert process.stdin is not None

    def put(*numbers: int) -> None:
        assert process.stdin is not None
        process.stdin.write(b"".join(b"%d\n" % number for number in numbers))
        process.stdin.flush()
        assert process.stdout is not None
        for _ in numbers:  # it answers each with a line
            assert process.stdout.readline()

    put(1, 2)
    shard = "shardId-000000000000"
    for number in range(3, 6):
        before = time.monotonic()
        shard = json.loads(cli.ok("split-shard", "s", "--shard-to-split", shard, "--json"))["Shards"][0]["ShardId"]
        assert time.monotonic() - before < 4, "it was waited for"
        put(number)
        shard = cli.records("s")[-1]["ShardId"]
    process.stdin.close()
    assert process.wait(DEADLINE_S) == 0
    records = cli.records("s")
    assert [record["Data"] for record in records] == [b"1", b"2", b"3", b"4", b"5"]
    assert len({record["ShardId"] for record in records}) == 4


def test_a_reader_that_has_seen_enough_ends_it_silently(cli: Cli) -> None:
    cli.ok("import", "-", "--stream", "s", "--format", "lines", stdin=b"x" * 99 + b"\n" + b"y\n" * 20_000)
    for options in (("--from", "TRIM_HORIZON"), ("--follow",)):
        process = cli.start("tail", "s", *options)
        read_until(process.stdout, b"\n")
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait(DEADLINE_S)) == (b"", 0)


def test_list_and_inspect_tell_what_there_is(cli: Cli) -> None:
    assert json.loads(cli.ok("list", "--json")) == {"streams": []}
    assert "no streams" in cli.ok("list")
    cli.ok("put", "b", "1", "2", "--shards", "2")
    cli.ok("put", "a", stdin="")
    listed = json.loads(cli.ok("list", "--json"))["streams"]
    assert [(one["name"], one["shards"], one["records"]) for one in listed] == [("a", 1, 0), ("b", 2, 2)]
    described = json.loads(cli.ok("inspect", "b", "--json"))
    assert described["arn"] == "arn:aws:kinesis:us-east-1:000000000000:stream/b"
    assert [shard["start_hash"] for shard in described["shards"]] == ["0", str(2**127)]
    assert sum(segment["records"] for shard in described["shards"] for segment in shard["segments"]) == 2
    assert "no mapping reads it" in cli.ok("inspect", "b")
    assert re.search(r"^a +1 +0 ", cli.ok("list"), re.MULTILINE)


def bind(cli: Cli, stream: str, offset: int) -> str:
    """Bind a mapping to a stream, as far as `offset` in its first shard; return its uuid."""
    data_dir = DataDir.open(cli.data_dir, create=False)
    found = data_dir.stream(stream)
    with Store.open(data_dir.state_path, create=True) as store:
        bound = store.bind(
            "m", stream_id=found.id, stream_name=stream, handler="a.b", code_dir="/", options={},
            starts={shard.id: offset for shard in found.shards},
        )  # fmt: skip
        return bound.mapping.uuid


def test_inspect_draws_the_lineage_as_list_shards_tells_it(cli: Cli) -> None:
    cli.ok("put", "s", "a", "b", "c", "--shards", "2")
    cli.ok("split-shard", "s", "--shard-to-split", "shardId-000000000000")
    cli.ok("merge-shards", "s", "--shard-to-merge", "shardId-000000000003",
           "--adjacent-shard-to-merge", "shardId-000000000001")  # fmt: skip
    cli.ok("put", "s", "d", "e")
    tree = [line.rstrip() for line in cli.ok("inspect", "s").splitlines() if "shardId" in line]
    found = [re.match(r"(.*shardId-0{8}\d{4}) +(\S+ \S+ ?\S*)", line) for line in tree]
    assert [match.groups() for match in found if match] == [
        ("shardId-000000000000", "0000 - 7fff"),
        ("├─ shardId-000000000002", "0000 - 3fff"),
        ("└─ shardId-000000000003", "4000 - 7fff"),
        ("   └─ shardId-000000000004", "4000 - ffff"),
        ("shardId-000000000001", "8000 - ffff"),
        ("└─ shardId-000000000004", "see above"),
    ]
    shards = json.loads(cli.ok("inspect", "s", "--json"))["shards"]
    assert [shard["ShardId"] for shard in shards] == [f"shardId-{number:012d}" for number in range(5)]
    merged = shards[4]
    assert (merged["ParentShardId"], merged["AdjacentParentShardId"]) == (shards[3]["ShardId"], shards[1]["ShardId"])
    assert merged["HashKeyRange"] == {"StartingHashKey": str(2**126), "EndingHashKey": str(2**128 - 1)}
    assert [shard["closed_at"] is None for shard in shards] == [False, False, True, False, True]
    closed = ["EndingSequenceNumber" in shard["SequenceNumberRange"] for shard in shards]
    assert closed == [True, True, False, True, False]
    assert [shard["generation"] for shard in shards] == [0, 0, 1, 1, 2]
    assert sum(shard["records"] for shard in shards) == 5
    listed = json.loads(cli.ok("list", "--json"))["streams"][0]
    assert (listed["shards"], listed["closed_shards"], listed["records"]) == (2, 3, 5)


def test_resharding_names_the_stream_as_its_argument_or_as_the_aws_command_line_does(cli: Cli) -> None:
    cli.ok("put", "s", "a")
    said = cli.ok("split-shard", "--stream-name", "s", "--shard-to-split", "shardId-000000000000",
                  "--new-starting-hash-key", "1000")  # fmt: skip
    assert said == (
        "shardId-000000000000 closed; shardId-000000000001, shardId-000000000002 open; s has 2 now\n"
    )
    told = json.loads(cli.ok("update-shard-count", "s", "--target-shard-count", "1", "--json"))
    assert (told["CurrentShardCount"], told["TargetShardCount"]) == (2, 1)
    assert [shard["ParentShardId"] for shard in told["Shards"]] == ["shardId-000000000001"]
    assert cli.ok("update-shard-count", "s", "--target-shard-count", "1") == "s has 1 open shard already\n"
    split = ("split-shard", "--shard-to-split", "shardId-000000000003")
    assert "name the stream" in cli(*split).stderr
    assert "named twice" in cli(*split, "s", "--stream-name", "s").stderr
    assert "unknown stream 't'" in cli.refused(2, *split, "t")
    assert "already been merged or split" in cli.refused(2, *split[:2], "shardId-000000000000", "s")
    assert "scale up over double" in cli.refused(2, "update-shard-count", "s", "--target-shard-count", "3")


def test_inspect_tells_the_lag_of_mappings(cli: Cli) -> None:
    cli.ok("import", "-", "--stream", "s", "--time-field", "t", stdin='{"t":1}\n{"t":2}\n{"t":3}\n')
    bind(cli, "s", 1)
    (mapping,) = json.loads(cli.ok("inspect", "s", "--json"))["mappings"]
    assert (mapping["name"], mapping["handler"], mapping["lag_records"]) == ("m", "a.b", 2)
    assert abs(mapping["lag_ms"] - (time.time() * 1000 - 2000)) < 60_000
    assert re.search(r"^m +a\.b +2 +\d+ d ", cli.ok("inspect", "s"), re.MULTILINE)


def test_a_stream_is_deleted_when_nobody_uses_it(cli: Cli) -> None:
    cli.ok("put", "s", "x")
    assert cli("delete", "s").returncode == 2
    uuid = bind(cli, "s", 0)
    data_dir = DataDir.open(cli.data_dir, create=False)
    with Ownership.acquire(data_dir.locks_path / uuid):
        text = cli.refused(1, "delete", "s", "--yes")
        assert f"mapping 'm' is already running in process {os.getpid()}" in text
    with ShardWriter.open(data_dir.stream("s").shards[0]):
        assert str(os.getpid()) in cli.refused(1, "delete", "s", "--yes")
    assert cli.ok("delete", "s", "--yes") == "deleted s\n"
    assert cli.refused(2, "inspect", "s") == f"unknown stream 's' in {cli.data_dir}: there is none yet"


# ---- bad input ----


@pytest.mark.parametrize(
    "command", [("tail", "nosuch"), ("inspect", "nosuch"), ("delete", "nosuch", "--yes")]
)
def test_an_unknown_stream_is_named_with_the_ones_there_are(cli: Cli, command: tuple[str, ...]) -> None:
    assert "no streamfn data directory" in cli.refused(2, *command)
    cli.ok("put", "orders", "x")
    assert cli.refused(2, *command).endswith("there is orders")
    assert not (cli.cwd / ".streamfn").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("import", "good.jsonl", "--stream", "../x"),
        ("import", "good.jsonl", "--stream", "x", "--shards", "0"),
        ("import", "good.jsonl", "--stream", "x", "--shards", "1025"),
        ("import", "missing.jsonl", "--stream", "x"),
        ("import", ".", "--stream", "x", "--format", "lines"),
        ("import", "good.jsonl", "--stream", "x", "--format", "parquet"),
        ("import", "data.json", "--stream", "x"),
        ("import", "-", "--stream", "x", "--format", "parquet"),
        ("import", "-", "--stream", "x", "--format", "csv"),
        ("import", "good.jsonl", "--stream", "x", "--format", "lines", "--time-field", "t"),
        ("import", "good.jsonl", "-", "--stream", "x"),
        ("import", ".", "--stream", "x", "--format", "csv"),
        ("import", "good.jsonl", "--stream", "x", "--deaggregate"),
        ("import", "good.jsonl", "--stream", "x", "--format", "lambda-event", "--partition-key", "k"),
        ("import", "good.jsonl", "--stream", "x", "--format", "kinesis-get-records", "--shards", "2"),
        ("put", "../x", "data"),
        ("put", "x", "data", "--partition-key", ""),
        ("put", "x", "data", "--partition-key", "k" * 257),
        ("put", "x", "data", "--shards", "-1"),
    ],
)
def test_what_is_refused_makes_nothing(cli: Cli, command: tuple[str, ...]) -> None:
    cli.file("good.jsonl", "{}\n")
    cli.file("data.json", "text\n")
    cli.refused(2, *command)
    assert not cli.data_dir.exists()


@pytest.mark.parametrize(
    "command",
    [("import", "f.jsonl"), ("nosuch",), ("import", "f", "--stream", "x", "--format", "xml"), ("tail",)],
)
def test_wrong_usage_exits_2(cli: Cli, command: tuple[str, ...]) -> None:
    done = cli(*command)
    assert done.returncode == 2
    assert "Usage: streamfn" in done.stderr


def test_another_number_of_shards_for_an_existing_stream_is_refused(cli: Cli) -> None:
    cli.ok("put", "s", "x", "--shards", "2")
    name = cli.file("f.jsonl", "{}\n")
    for command in (("import", name, "--stream", "s"), ("put", "s", "y")):
        assert "has 2 open shards, not 3" in cli.refused(2, *command, "--shards", "3")
    assert len(cli.records("s")) == 1


def test_a_bad_line_keeps_what_was_before_it_and_says_how_to_go_on(cli: Cli) -> None:
    name = cli.file("f.jsonl", '{"n":1}\n{"n":2}\n{"n":}\n{"n":3}\n')
    text = cli.refused(1, "import", name, "--stream", "s")
    assert text == (
        "f.jsonl: line 3 is bad: it is not JSON: unexpected character, expected a JSON value at column 6; "
        "records up to line 2 are durable, --skip-lines 2 goes on from there "
        "(--skip-lines 3 leaves the bad line out)"
    )
    assert [record["Data"] for record in cli.records("s")] == [b'{"n":1}', b'{"n":2}']
    cli.ok("import", name, "--stream", "s", "--skip-lines", "3")
    assert len(cli.records("s")) == 3
    report = json.loads(cli.ok("import", name, "--stream", "t", "--skip-bad", "--json"))
    assert (report["records"], report["skipped"]) == (3, 1)


def test_a_bad_first_line_makes_nothing(cli: Cli) -> None:
    text = cli.refused(1, "import", "-", "--stream", "s", stdin="nonsense\n")
    assert text.startswith("standard input: line 1 is bad")
    assert "nothing of it was stored" in text
    assert not cli.data_dir.exists()


def test_a_field_that_is_missing_or_no_time_is_a_bad_line(cli: Cli) -> None:
    fields = ("--partition-key", "k", "--time-field", "t")
    for line, reason in (
        ('{"t":1}', "it has no field 'k'"),
        ('{"k":"a"}', "field 't': it has no field 't'"),
        ('{"k":"a","t":"soon"}', "field 't': 'soon' is not a time"),
        ('["a"]', "it is not an object"),
    ):
        assert reason in cli.refused(1, "import", "-", "--stream", "s", *fields, stdin=line)


def test_a_busy_writer_is_named(cli: Cli) -> None:
    cli.ok("put", "s", "x")
    with ShardWriter.open(DataDir.open(cli.data_dir, create=False).stream("s").shards[0]):
        text = cli.refused(1, "import", "-", "--stream", "s", stdin="{}\n")
    assert str(os.getpid()) in text
    assert len(cli.records("s")) == 1


def test_a_data_directory_of_a_newer_format_is_refused(cli: Cli) -> None:
    cli.ok("put", "s", "x")
    (cli.data_dir / "format").write_text('{"streamfn": 3}\n')
    for command in (("list",), ("tail", "s"), ("put", "s", "y"), ("inspect", "s"), ("delete", "s", "--yes")):
        text = cli.refused(1, *command)
        assert "format 3" in text
        assert "upgrade streamfn" in text


def test_a_damaged_segment_is_named(cli: Cli) -> None:
    cli.ok("put", "s", "x" * 1000)
    (segment,) = cli.data_dir.rglob("*.arrows")
    content = segment.read_bytes()
    with open(segment, "r+b") as file:
        file.seek(content.index(b"xxxx"))
        file.write(b"y")
    assert segment.name in cli.refused(1, "tail", "s")


def test_a_directory_that_is_something_else_is_left_alone(cli: Cli) -> None:
    cli.data_dir.mkdir()
    (cli.data_dir / "precious").write_text("mine")
    assert "is not a streamfn data directory" in cli.refused(2, "put", "s", "x")
    assert os.listdir(cli.data_dir) == ["precious"]


def test_an_interrupted_import_says_up_to_where_it_is_durable(cli: Cli) -> None:
    process = cli.start("import", "-", "--stream", "s", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"1\n2\n")
    process.stdin.flush()
    until(lambda: stored(cli, "s") == 2)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    text = process.stderr.read().decode().strip()
    assert process.wait(DEADLINE_S) == 130
    assert (
        text == "streamfn: interrupted; records up to line 2 are durable, --skip-lines 2 goes on from there"
    )


# ---- disks ----


def mount(*arguments: str) -> None:
    program = shutil.which("mount")
    if program is None or subprocess.run([program, *arguments], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path))
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_in_the_middle_of_an_import_leaves_a_known_last_line(
    tmp_path: Path, small_disk: Path, request: pytest.FixtureRequest
) -> None:
    cli = Cli(tmp_path, small_disk / "data")
    request.addfinalizer(cli.close)
    process = cli.start(
        "import", "-", "--stream", "s", "--shards", "2", "--format", "lines", stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    # Quiet in between, so that the first half is a group of its own.
    half = b"".join(b"%07d%s\n" % (i, b"x" * 1000) for i in range(8_000))
    process.stdin.write(half)
    process.stdin.flush()
    until(lambda: stored(cli, "s") == 8_000)
    _, err = process.communicate(half + half)
    assert process.returncode == 1
    match = re.fullmatch(
        r"streamfn: error: no space left in .*; records up to line (\d+) are durable, "
        r"--skip-lines \1 goes on from there\n",
        err.decode(),
    )
    assert match, err
    assert len(cli.records("s")) == int(match[1]) >= 8_000


def test_a_read_only_directory_is_shown_and_not_written(tmp_path: Path, cli: Cli) -> None:
    cli.ok("put", "s", "x", "--shards", "2")
    cli.ok("import", cli.file("f.jsonl", "{}\n"), "--stream", "s")
    bind(cli, "s", 0)
    # A read-only mount, because permissions do not hold for root.
    mount("--bind", str(cli.data_dir), str(cli.data_dir))
    try:
        mount("-o", "remount,bind,ro", str(cli.data_dir))
        assert len(cli.records("s")) == 2
        assert json.loads(cli.ok("inspect", "s", "--json"))["mappings"][0]["lag_records"] == 2
        assert "s" in cli.ok("list")
        assert len(cli("export", "s", "--full").stdout.splitlines()) == 2
        for command in (
            ("put", "s", "y"),
            ("put", "new", "y"),
            ("import", "f.jsonl", "--stream", "s"),
            ("import", "f.jsonl", "--stream", "new"),
            ("delete", "s", "--yes"),
        ):
            assert f"{cli.data_dir} is not writable for uid {os.geteuid()}" in cli.refused(1, *command)
    finally:
        subprocess.run(["umount", str(cli.data_dir)], check=True)


# ---- the root ----


def test_version_and_help_load_neither_pyarrow_trio_nor_rich() -> None:
    script = (
        "import sys; from streamfn.cli.app import run; code = run([sys.argv[1]])\n"
        "assert code == 0 and not {'pyarrow', 'trio', 'rich'} & set(sys.modules), sorted(sys.modules)"
    )
    for option in ("--version", "--help", "-h"):
        done = subprocess.run([sys.executable, "-c", script, option], capture_output=True, check=True)
        assert b"streamfn" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(cli: Cli, command: str) -> None:
    text = cli.ok(command, "-h")
    assert "Examples:" in text
    assert "--data-dir" in text
    assert "--json" in text


@pytest.mark.parametrize("command", mapping.commands)
def test_every_command_on_mappings_has_help_and_the_options_of_all(cli: Cli, command: str) -> None:
    text = cli.ok("mapping", command, "-h")
    assert "--data-dir" in text
    assert "--json" in text


def test_the_data_directory_is_given_before_or_after_the_command(cli: Cli) -> None:
    del cli.environment["STREAMFN_DATA_DIR"]
    cli.ok("--data-dir", "one", "put", "s", "x")
    cli.ok("put", "s", "x", "--data-dir", "two")
    cli.ok("put", "s", "x")
    assert [(cli.cwd / name / "format").exists() for name in ("one", "two", ".streamfn")] == [True] * 3


def test_batch_sizes_out_of_range_are_refused_in_lambdas_words(cli: Cli) -> None:
    cli.ok("put", "s", "x")
    for size, rule in (("0", "greater than or equal to 1"), ("10001", "less than or equal to 10000")):
        assert cli.refused(2, "run", "app.handler", "--stream", "s", "--batch-size", size) == (
            f"1 validation error detected: Value '{size}' at 'batchSize' failed to satisfy constraint: "
            f"Member must have value {rule}"
        )
    for option, reason in (
        (("--env", "_HANDLER=x"), "reserved keys"),
        (("--env", "X"), "--env takes K=V, not 'X'"),
        (("--starting-position", "NOW"), "enum value set: \\[LATEST, AT_TIMESTAMP, TRIM_HORIZON\\]"),
        (("--starting-position-timestamp", "soon"), "is not a time"),
        (("--debug", "--timeout", "5"), "one worker and no timeout"),
        (("--debug",), "needs a terminal"),
    ):
        assert re.search(reason, cli.refused(2, "run", "app.handler", "--stream", "s", *option))


def test_a_record_of_ten_mebibytes_goes_through(cli: Cli) -> None:
    data_dir = DataDir.open(cli.data_dir, create=True)
    with ShardWriter.open(data_dir.create_stream("s", 1).shards[0]) as writer:
        writer.append([NewRecord(b"before", "k")])
    line = b"x" * (10 * 1024 * 1024)
    cli.ok("import", "-", "--stream", "s", "--format", "lines", stdin=line + b"\n")
    assert [len(record["Data"]) for record in cli.records("s")] == [6, len(line)]
    text = cli.refused(1, "import", "-", "--stream", "s", "--format", "lines", stdin=line + b"x\n")
    assert "more than 10485760 bytes" in text


def test_a_torn_tail_is_cut_and_said_by_the_command_that_finds_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = [sys.executable, "-m", "streamfn", "put", "s", "--data-dir", str(data)]
    subprocess.run([*command, "whole"], check=True, capture_output=True)
    [segment] = data.rglob("*.arrows")
    with open(segment, "r+b") as file:
        end = max(index for index, byte in enumerate(file.read(64 * 1024)) if byte) + 1
        torn = (end + 7) // 8 * 8 + 64
        file.seek(torn)
        file.write(b"half a message")
    done = subprocess.run([*command, "next"], check=True, capture_output=True, text=True)
    [line] = done.stderr.splitlines()
    assert line.startswith("streamfn: ")
    assert segment.name in line
    assert "half-written" in line
    again = subprocess.run([*command, "last"], check=True, capture_output=True, text=True)
    assert again.stderr == ""
