"""`retention`, `trim` and `compact` as a user sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from streamfn.cli.app import run
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Retention, Stream
from streamfn.log.format.footer import ZSTD
from streamfn.log.shard import gaps
from streamfn.log.shard.chain import read_chain
from streamfn.log.shard.reader import ShardReader, horizon, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataDir:
    monkeypatch.setenv("STREAMFN_DATA_DIR", str(tmp_path / "data"))
    return DataDir.open(tmp_path / "data", create=True)


@pytest.fixture
def stream(data: DataDir) -> Stream:
    """Two shards; the first has three sealed segments of ten records each, and five records more."""
    stream = data.create_stream("orders", 2)
    with ShardWriter.open(stream.shards[0]) as writer:
        for _ in range(3):
            at = writer.end_offset
            writer.append([NewRecord(b"%d:" % i + bytes(500), "k", 1000 + i) for i in range(at, at + 10)])
            writer.roll()
        writer.append([NewRecord(b"last", "k")] * 5)
    return stream


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_retention_is_set_option_by_option_and_shown(
    data: DataDir, stream: Stream, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["retention", "orders"]) == 0
    assert capsys.readouterr().out == "orders: keeps everything\n"
    assert run(["retention", "orders", "--age", "24h", "--json"]) == 0
    assert told(capsys) == {"stream": "orders", "retention": {"age_s": 86400, "bytes": None}, "cold_after_s": None}
    assert run(["retention", "orders", "--bytes", "1.5GB", "--cold-after", "7d"]) == 0
    assert capsys.readouterr().out == (
        "orders: keeps what was appended in the last 24 h 0 min, keeps at least 1.4 GiB of each shard, compresses what "
        "was appended 7 d ago or earlier\n"
    )
    found = data.stream("orders")
    assert (found.retention, found.cold_after_s) == (Retention(86400, 1_500_000_000), 604_800)
    assert run(["retention", "orders", "--none"]) == 0
    assert data.stream("orders").retention == Retention()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["retention", "orders", "--none", "--age", "1h"], "--none goes with no other option"),
        (["retention", "orders", "--age", "soon"], "'soon' is not an age"),
        (["retention", "orders", "--bytes", "-1"], "'-1' is not a size"),
        (["retention", "other"], "unknown stream 'other'"),
        (["trim", "orders"], "streamfn retention orders --age 24h"),
        (["trim", "orders", "--before-offset", "5"], "choose one of 'orders' with --shard"),
        (["trim", "orders", "--shard", "shardId-000000000009"], "has no shard"),
        (["trim", "orders", "--older-than", "1h", "--keep-bytes", "5"], "give one of"),
        (["trim", "orders", "--before", "yesterday"], "--before takes a time"),
        (["trim", "orders", "--shard", "shardId-000000000000", "--before-sequence-number", "x"], "decimal digits"),
        (["compact", "orders", "--cold-after", "1h"], "--cold-after goes with --zstd"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    stream: Stream, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert run(arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert horizon(stream.shards[0]) == 0


@pytest.mark.parametrize(
    ("options", "left_from"),
    [
        (["--before-offset", "19"], 10),
        (["--before-offset", "20"], 20),
        (["--before-offset", "99"], 35),
        (["--before-offset", "0"], 0),
        (["--older-than", "1d"], 0),
        (["--before", "2001-01-01"], 0),
        (["--before", "3000-01-01"], 35),
        (["--keep-bytes", "1GB"], 0),
        (["--keep-bytes", "10kB"], 20),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_trim_removes_whole_segments_and_says_so(
    stream: Stream, capsys: pytest.CaptureFixture[str], options: list[str], left_from: int
) -> None:
    shard = stream.shards[0]
    assert run(["trim", "orders", "--shard", shard.id, *options, "--json"]) == 0
    said = told(capsys)
    assert (said["records"], said["shards"][0]["horizon"]) == (left_from, left_from)
    assert horizon(shard) == gaps.read(shard).horizon == left_from
    with ShardReader.open(shard, left_from) as reader:
        found = [r.offset for got in iter(lambda: reader.poll(1 << 30), []) for m in got for r in records(m)]
    assert found == list(range(left_from, 35))


def test_trim_by_sequence_number(stream: Stream) -> None:
    shard = stream.shards[0]
    number = f"{shard.sequence_base}{20:020d}"
    assert run(["trim", "orders", "--shard", shard.id, "--before-sequence-number", number]) == 0
    assert horizon(shard) == 20


def test_trim_applies_the_streams_retention(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["retention", "orders", "--bytes", "12kB"]) == 0
    assert run(["trim", "orders"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "orders: trimmed 20 records in 2 segments (16.0 KiB)",
        "  shardId-000000000000 begins at offset 20",
    ]


def test_compact_says_what_it_did_and_what_it_wrote(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compact", "orders", "--zstd", "--json"]) == 0
    said = told(capsys)
    assert (said["merged"], said["compressed"]) == (4, 1)
    assert said["bytes_written"] > 0
    assert said["bytes_after"] < said["bytes_before"]
    links = read_chain(stream.shards[0]).links
    assert [link.footer.codec for link in links if link.footer] == [ZSTD]
    assert run(["compact", "orders"]) == 0
    assert capsys.readouterr().out.startswith("orders: 3 segments became 3 (0 merged, 0 compressed): ")
    assert run(["verify", "orders"]) == 0


def test_the_first_arrival_is_not_known_where_it_is_compressed(
    stream: Stream, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", "orders", "--json"]) == 0
    before = told(capsys)["shards"][0]
    assert before["first_arrival"] == "1970-01-01T00:00:01.000Z"
    assert run(["compact", "orders", "--zstd"]) == 0
    capsys.readouterr()
    assert run(["inspect", "orders", "--json"]) == 0
    after = told(capsys)["shards"][0]
    assert (after["first_arrival"], after["last_arrival"]) == (None, before["last_arrival"])
