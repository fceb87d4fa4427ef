"""`streamfn verify` by its command line: what it prints, and how it exits."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Stream
from streamfn.log.segment.segment import list_segments
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord


def streamfn(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamfn", *arguments, "--data-dir", str(data)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def make(data: Path, name: str = "orders", shards: int = 2) -> Stream:
    stream = DataDir.open(data, create=True).create_stream(name, shards)
    for shard in stream.shards:
        with ShardWriter.open(shard, segment_bytes=16 * 1024) as writer:
            for i in range(40):
                writer.append([NewRecord(b"%d" % i + bytes(1000), f"key {i}", i)])
    return stream


def damage(stream: Stream) -> Path:
    path = list_segments(stream.shards[1])[0].path
    with open(path, "r+b") as file:
        file.seek(os.stat(path).st_size // 2)
        file.write(b"\xff\xff")
    return path


def test_a_sound_data_directory(data: Path) -> None:
    make(data)
    make(data, "clicks")
    done = streamfn(data, "verify", "--deep")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("2 streams, 4 shards, ")
    assert "160 records" in done.stdout
    assert done.stdout.endswith("everything is as it was written\n")


def test_damage_is_named_on_a_line_of_its_own_and_the_exit_code_is_1(data: Path) -> None:
    stream = make(data)
    path = damage(stream)
    done = streamfn(data, "verify", "orders")
    assert (done.returncode, done.stderr) == (1, "")
    line, summary = done.stdout.splitlines()
    assert line.startswith(f"orders shardId-000000000001: {path}, byte ")
    assert "offsets 0 to " in line
    assert stream.shards[1].sequence_base in line
    assert "; repair: " in line
    assert summary.endswith("1 finding")


def test_the_same_as_json(data: Path) -> None:
    path = damage(make(data))
    done = streamfn(data, "verify", "--json", "--deep")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    (finding,) = report["findings"]
    assert (finding["stream"], finding["shard_id"]) == ("orders", "shardId-000000000001")
    assert (finding["path"], finding["first_offset"]) == (str(path), 0)
    assert finding["end_offset"] > 0
    assert report["records"] == 80 - finding["end_offset"]
    assert [note["note"] for note in report["notes"]] == ["not looked into, because of what was found"]


def test_nothing_is_changed_by_verifying(data: Path) -> None:
    damage(make(data))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in data.rglob("*") if path.is_file()}
    streamfn(data, "verify", "--deep")
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in data.rglob("*") if path.is_file()}
    assert after == before


def test_a_damaged_description_is_a_finding_and_stops_nobody(data: Path) -> None:
    make(data, "clicks")
    (make(data).directory / "stream.json").write_text("{")
    done = streamfn(data, "verify")
    assert done.returncode == 1
    assert "stream.json" in done.stdout
    assert "1 stream, 2 shards" in done.stdout


def test_a_stream_without_its_description_is_a_finding(data: Path) -> None:
    make(data, "sound")
    lost = make(data).directory
    (lost / "stream.json").unlink()
    done = streamfn(data, "verify")
    assert (done.returncode, done.stderr) == (1, "")
    assert f"{lost} has no stream.json" in done.stdout
    assert "1 stream," in done.stdout
    done = streamfn(data, "repair", "--yes")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith(f"data directory: left: {lost} has no stream.json")


def test_a_shard_whose_directory_is_gone_is_a_finding_and_the_others_are_looked_at(data: Path) -> None:
    stream = make(data)
    shutil.rmtree(stream.shards[0].directory)
    damage(stream)
    done = streamfn(data, "verify")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (1, "", 3), done
    assert f"orders shardId-000000000000: {stream.shards[0].directory} is gone" in done.stdout
    assert "2 findings" in done.stdout
    assert streamfn(data, "repair", "--yes").returncode == 1
    assert "1 finding" in streamfn(data, "verify").stdout
    assert streamfn(data, "delete", "orders", "--yes").returncode == 0
    assert streamfn(data, "verify").returncode == 0


def test_a_damaged_description_does_not_keep_other_streams_from_being_repaired(data: Path) -> None:
    damage(make(data))
    (make(data, "clicks").directory / "stream.json").write_text("{")
    done = streamfn(data, "repair", "--yes", "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, len(said["repaired"]), len(said["left"])) == (1, 1, 1)
    assert said["repaired"][0]["left"] == []
    assert "stream.json" in said["left"][0]["why"]
    assert streamfn(data, "verify", "orders").returncode == 0


def test_a_checkpoint_beyond_the_end_of_its_shard_is_a_finding(data: Path) -> None:
    make(data)
    (data / "handler.py").write_text("def handler(event, context):\n    pass\n")
    command = [sys.executable, "-m", "streamfn", "run", "handler.handler", "--stream", "orders"]
    options = ["--until-caught-up", "--workers", "1", "--data-dir", str(data)]
    subprocess.run([*command, *options], cwd=data, check=True, capture_output=True)
    assert streamfn(data, "verify").returncode == 0
    with sqlite3.connect(data / "state.db") as connection:
        connection.execute("UPDATE checkpoints SET offset = 99 WHERE shard_id LIKE '%0'")
    done = streamfn(data, "verify")
    assert done.returncode == 1
    assert "'handler.handler@orders' has its checkpoint at offset 99, and the shard ends at 40" in done.stdout


def test_what_cannot_be_verified(data: Path) -> None:
    done = streamfn(data, "verify")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no streamfn data directory" in done.stderr
    make(data)
    done = streamfn(data, "verify", "none")
    assert done.returncode == 2
    assert "unknown stream 'none'" in done.stderr
