"""Import and export in the library: the same options by name, reports, refusals, cancellation."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import streamfn

DATA = Path(__file__).parents[1] / "data"


def test_files_go_in_and_out_of_a_synchronous_session(tmp_path: Path) -> None:
    with streamfn.open_sync(tmp_path / "d") as session:
        report = session.import_file(DATA / "lambda-kinesis-event.json", "a")
        assert (report.records, report.already_there) == (2, 0)
        session.put("a", b"later")  # the import let the shard go
        exported = session.export("a", tmp_path / "a.parquet", partition_keys=["alice"])
        assert (exported.records, exported.format, exported.lost) == (2, "parquet", ())
        assert session.import_file(tmp_path / "a.parquet", "b").records == 2
        assert [record.data for record in session.records("b")] == [
            b"Hello, this is a test 0.",
            b"Hello, this is a test 1.",
        ]


def test_what_is_wrong_is_refused_and_makes_nothing(tmp_path: Path) -> None:
    with streamfn.open_sync(tmp_path / "d") as session:
        event = DATA / "lambda-kinesis-event.json"
        for options in ({"shardz": 2}, {"shards": "2"}, {"skip_bad": 1}, {"format": "xml"}):
            with pytest.raises(streamfn.RefusedError):
                session.import_file(event, "a", **options)
        with pytest.raises(streamfn.RefusedError, match="cannot read"):
            session.import_file(tmp_path / "nosuch", "a")
        assert session.streams() == []
        session.put("a", b"x")
        for options in ({"until": 5}, {"shard_ids": "shard"}, {"format": "xml"}, {"compression": "gzip"}):
            with pytest.raises(streamfn.RefusedError):
                session.export("a", tmp_path / "a.parquet", **options)
        with pytest.raises(streamfn.RefusedError, match="unknown stream"):
            session.export("nosuch", tmp_path / "a.parquet")
        assert not (tmp_path / "a.parquet").exists()


def test_a_cancelled_import_ends_and_has_stored_what_it_read(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    with open(path, "wb") as file:
        for start in range(0, 400_000, 1000):
            file.write(b"".join(b'{"n":%d,"filler":"%s"}\n' % (n, b"x" * 100) for n in range(start, start + 1000)))

    async def main() -> list[bytes]:
        async with streamfn.open(tmp_path / "d") as session:
            with trio.move_on_after(0.3) as scope:
                await session.import_file(path, "a")
            assert scope.cancelled_caught, "it was not done yet"
            if "a" not in await session.streams():
                return []
            return [record.data async for record in session.records("a")]

    stored = trio.run(main)
    assert all(data.startswith(b'{"n":%d,' % n) for n, data in enumerate(stored))
    assert len(stored) < 400_000


def test_a_cancelled_export_leaves_no_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with streamfn.open(tmp_path / "d") as session:
            for _ in range(3):
                await session.put("a", b"x")
            with trio.CancelScope() as scope:
                scope.cancel()
                await session.export("a", tmp_path / "a.parquet")
            assert scope.cancelled_caught

    trio.run(main)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
