"""The demo: its data, its handler, its table."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from streamfn.cli import demo_data
from streamfn.cli.demo_data import ensure_flights, flights_path, read_flights
from streamfn.cli.demo_handler import handler
from streamfn.cli.demo_report import DelayTable, DemoSummary, bar, render
from streamfn.errors import RefusedError
from streamfn.formats.rows import Rows
from streamfn.log.catalog.datadir import DataDir

Flight = dict[str, Any]


def flight(route: str = "JFK-LAX", delay: int | None = 0, *, cancelled: bool = False) -> Flight:
    origin, dest = route.split("-")
    return {"origin": origin, "dest": dest, "arr_delay": delay, "dep_time": None if cancelled else 517}


def answer(flights: Sequence[Flight]) -> bytes:
    records = [{"kinesis": {"data": base64.b64encode(json.dumps(one).encode()).decode()}} for one in flights]
    return orjson.dumps(handler({"Records": records}, None))


FLIGHTS = st.builds(
    flight,
    st.sampled_from(["JFK-LAX", "EWR-SFO", "LGA-ORD"]),
    st.none() | st.integers(-90, 1300),
    cancelled=st.booleans(),
)


@given(st.lists(st.lists(FLIGHTS, min_size=1), max_size=6))
def test_merged_batches_equal_one_batch_of_everything(batches: list[list[Flight]]) -> None:
    table, whole = DelayTable("s"), DelayTable("s")
    offset = 0
    for batch in batches:
        table.merge("shard", offset, len(batch), answer(batch))
        offset += len(batch)
    if offset:
        whole.merge("shard", 0, offset, answer([one for batch in batches for one in batch]))
    assert table.routes == whole.routes
    assert table.is_at({"shard": offset, "other": 0})


def test_a_repeated_batch_adds_nothing_and_a_missing_one_is_noticed() -> None:
    table = DelayTable("s")
    table.merge("a", 0, 1, answer([flight(delay=10)]))
    table.merge("a", 0, 1, answer([flight(delay=10)]))
    assert [(route.flights, route.delay_sum) for route in table.routes] == [(1, 10)]
    with pytest.raises(ValueError, match=r"offset 2, 1 was expected"):
        table.merge("a", 2, 1, answer([flight()]))


def test_a_saved_table_is_of_its_stream_only(tmp_path: Path) -> None:
    table = DelayTable("s")
    table.merge("a", 0, 1, answer([flight(delay=None, cancelled=True)]))
    path = tmp_path / "demo" / "delays.json"
    table.save(path)
    loaded = DelayTable.load(path, "s")
    assert loaded is not None
    assert loaded.routes == table.routes
    assert loaded.is_at({"a": 1})
    assert not loaded.is_at({"a": 2})
    assert DelayTable.load(path, "other") is None
    path.write_text("{")
    assert DelayTable.load(path, "s") is None


def test_bars_have_an_eighth_of_a_columns_precision() -> None:
    assert bar(4, 4, 8) == "█" * 8
    assert bar(1, 16, 8) == "▌"
    assert bar(0, 4, 8) == bar(-1, 4, 8) == bar(1, 0, 8) == ""


def summary(table: DelayTable, **changes: Any) -> DemoSummary:
    values: dict[str, Any] = {
        "table": table,
        "records": 200,
        "batches": 2,
        "seconds": 0.5,
        "records_per_second": 400.0,
        "workers": 2,
        "latency_ms": {"p50": 0.51, "p90": 1.0, "p99": 2.0, "max": 3.0},
        "data_dir": Path(".streamfn"),
    }
    return DemoSummary(**{**values, **changes})


def shown(demo: DemoSummary) -> str:
    console = Console(file=io.StringIO(), width=110, record=True)
    render(demo, console)
    return console.export_text()


def table_of(flights: Sequence[Flight]) -> DelayTable:
    table = DelayTable("s")
    table.merge("a", 0, len(flights), answer(flights))
    return table


def test_the_result_shows_the_worst_routes_the_speed_and_what_to_try_next() -> None:
    table = table_of([flight("EWR-CAE", 60)] * 100 + [flight("JFK-LAX", -5)] * 100 + [flight("LGA-ORD", 999)])
    text = shown(summary(table))
    assert "EWR → CAE" in text
    assert "LGA → ORD" not in text  # one flight says nothing about a route
    assert "p50 0.5 ms" in text
    assert "400 records/s" in text
    assert "streamfn tail flights -n 3\n" in text


def test_a_second_run_says_that_nothing_is_left_to_do() -> None:
    table = table_of([flight("EWR-CAE", 60)] * 100)
    text = shown(summary(table, records=0, batches=0, data_dir=Path("/d")))
    assert "nothing left to do" in text
    assert "EWR → CAE" in text
    assert "--data-dir /d" in text


def test_the_json_has_records_and_records_per_second() -> None:
    described = summary(table_of([flight(delay=None)])).to_json()
    assert (described["records"], described["records_per_second"]) == (200, 400)


def test_the_flights_are_all_there_and_typed() -> None:
    records, keys = 0, set()
    for rows in read_flights(flights_path()):
        if not records:
            first = json.loads(rows.data[0])
            assert rows.arrivals is not None
            assert rows.arrivals[0] == 1_357_034_400_000
        records += len(rows.data)
        keys.update(rows.keys)
    assert records == demo_data.FLIGHTS
    assert len(keys) == 16
    assert (first["arr_delay"], first["carrier"], first["dep_time"]) == (11, "UA", 517)


def few_flights(path: Path) -> list[Rows]:
    return [Rows([b"{}", b"[]"], ["UA", "AA"], [0, 1], 3, 0)]


def test_the_flights_are_imported_once_and_half_an_import_is_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_data, "read_flights", few_flights)
    data_dir = DataDir.open(tmp_path / "d", create=True)

    def interrupted(read: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_flights(data_dir, interrupted)
    assert len(data_dir.streams()) == 1
    read: list[int] = []
    stream = ensure_flights(data_dir, read.append)
    assert read == [2]
    assert len(stream.shards) == 4
    assert ensure_flights(data_dir, read.append).id == stream.id
    assert read == [2]


def test_a_users_own_stream_of_that_name_is_left_alone(tmp_path: Path) -> None:
    data_dir = DataDir.open(tmp_path / "d", create=True)
    data_dir.create_stream("flights", 1)
    with pytest.raises(RefusedError, match="not the demo's"):
        ensure_flights(data_dir, lambda read: None)
    assert len(data_dir.stream("flights").shards) == 1
