"""Imports of captured and delivered files, from file to stream: what is kept, what is skipped, what is said."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from streamfn.doors.importing import ImportReport, ImportRequest, run_import
from streamfn.errors import FailedError, RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.columns import scan
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord

DATA = Path(__file__).parent.parent / "data"
FIRST = 49590338271490256608559692538361571095921575989136588898


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "d"


def load(data_dir: Path, *files: Path, stream: str = "s", **options: Any) -> ImportReport:
    return run_import(data_dir, ImportRequest(files=tuple(map(str, files)), stream=stream, **options))


def column(data_dir: Path, name: str, stream: str = "s") -> list[Any]:
    found = DataDir.open(data_dir, create=False).stream(stream)
    return [value for batch in scan(found) for value in batch.column(name).to_pylist()]


def capture(path: Path, *numbers: int, **more: Any) -> Path:
    """Write get-records output of records whose data is their number."""
    records = [
        {
            "SequenceNumber": str(number),
            "ApproximateArrivalTimestamp": 1.5,
            "Data": base64.b64encode(str(number).encode()).decode(),
            "PartitionKey": "k",
            **more,
        }
        for number in numbers
    ]
    path.write_text(json.dumps({"Records": records}))
    return path


def test_captures_that_overlap_make_one_stream_and_may_be_imported_again(data_dir: Path) -> None:
    first, second = DATA / "kinesis-get-records-v1.json", DATA / "kinesis-get-records-v2.json"
    assert load(data_dir, first).records == 4
    report = load(data_dir, first, second)
    assert (report.records, report.already_there, report.files) == (2, 6, 2)
    assert column(data_dir, "sequence_number") == [str(FIRST + i * 3) for i in range(6)]
    assert column(data_dir, "data")[1:4] == [b"\xff\x00\xfe", b"", "Grüße".encode()]


def test_a_lambda_event_makes_a_stream_of_its_arn_and_shards_and_a_log_goes_on_with_it(data_dir: Path) -> None:
    assert load(data_dir, DATA / "lambda-kinesis-event.json").records == 2
    report = load(data_dir, DATA / "lambda-log.txt", format="lambda-event")
    assert (report.records, report.already_there, report.shards) == (3, 2, 2)
    stream = DataDir.open(data_dir, create=False).stream("s")
    assert stream.arn == "arn:aws:kinesis:us-east-2:123456789012:stream/lambda-stream"
    assert [shard.id for shard in stream.shards] == ["shardId-000000000006", "shardId-000000000007"]


def test_changes_make_a_dynamodb_stream(data_dir: Path) -> None:
    shard = "shardId-00000001733418659000-abcdef01"
    load(data_dir, DATA / "dynamodb-get-records.json", shard_id=shard)
    report = load(data_dir, DATA / "lambda-dynamodb-event.json", stream="t", shard_id=shard)
    stream = DataDir.open(data_dir, create=False).stream("t")
    assert (report.records, stream.kind, stream.shards[0].id) == (3, "dynamodb", shard)
    for name in ("keys", "new_image", "old_image", "user_identity", "event_id", "approximate_creation_date_time"):
        assert column(data_dir, name) == column(data_dir, name, "t"), "both say the same"


def test_a_directory_of_delivered_files_is_read_in_order_gzip_or_not(data_dir: Path) -> None:
    report = load(data_dir, DATA / "firehose", format="firehose", partition_key="id")
    assert (report.records, report.files) == (5, 2)
    assert [json.loads(data)["id"] for data in column(data_dir, "data")] == [0, 1, 2, 3, 4]
    assert column(data_dir, "partition_key") == list("01234")


def test_aggregated_records_are_taken_apart_and_routed_by_their_own_keys(data_dir: Path, tmp_path: Path) -> None:
    aggregator = pytest.importorskip("aws_kinesis_agg.aggregator", reason="it makes the record of this test")
    made = aggregator.RecordAggregator()
    for number in range(20):
        made.add_user_record(f"key-{number}", b"%d" % number)
    path = capture(tmp_path / "kpl.json", 7, Data=base64.b64encode(made.clear_and_get().get_contents()[2]).decode())
    report = load(data_dir, path, deaggregate=True, shards=2)
    assert (report.records, report.shards) == (20, 2)
    assert set(column(data_dir, "source_sequence_number")) == {"7"}
    assert sorted(column(data_dir, "source_subsequence_number")) == list(range(20))
    places = dict(zip(column(data_dir, "partition_key"), column(data_dir, "source_subsequence_number"), strict=True))
    assert places == {f"key-{number}": number for number in range(20)}
    assert all(len(number) == 56 for number in column(data_dir, "sequence_number")), "they were given here"
    assert load(data_dir, path, stream="whole").records == 1, "Lambda delivers it undivided"


def test_new_numbers_are_given_where_they_are_asked_for(data_dir: Path) -> None:
    for _ in range(2):
        load(data_dir, DATA / "kinesis-get-records-v1.json", new_sequence_numbers=True, shards=3)
    assert len(set(column(data_dir, "sequence_number"))) == 8
    assert sorted(set(column(data_dir, "partition_key"))) == ["Bjørn", "alice"]


def test_what_is_put_behind_captured_records_has_higher_numbers(data_dir: Path, tmp_path: Path) -> None:
    load(data_dir, capture(tmp_path / "a.json", 10**60))
    shard = DataDir.open(data_dir, create=False).stream("s").shards[0]
    with ShardWriter.open(shard) as writer:
        writer.append([NewRecord(b"later", "k")])
    captured, given = map(int, column(data_dir, "sequence_number"))
    assert given > captured


# ---- what must not be taken ----


def test_a_number_that_falls_is_named_with_its_place_and_what_is_before_it_is_durable(
    data_dir: Path, tmp_path: Path
) -> None:
    path = capture(tmp_path / "a.json", 10, 20, 15, 30)
    with pytest.raises(FailedError) as raised:
        load(data_dir, path)
    text = str(raised.value)
    assert f"{path}: record 3 is bad: its sequence number 15 is not above 20" in text
    assert "records up to record 2 are durable" in text
    assert column(data_dir, "sequence_number") == ["10", "20"]
    report = load(data_dir, path, skip_bad=True)
    assert (report.records, report.already_there, report.bad) == (1, 2, 1)


def test_a_bad_record_of_the_second_file_leaves_the_first_whole(data_dir: Path, tmp_path: Path) -> None:
    good, bad = capture(tmp_path / "a.json", 1, 2), capture(tmp_path / "b.json", 3, 4, PartitionKey="")
    with pytest.raises(FailedError, match=r"b\.json: record 1 .*in the document at byte 0.* the files before it"):
        load(data_dir, good, bad)
    assert column(data_dir, "sequence_number") == ["1", "2"]


def test_a_file_that_was_cut_is_imported_up_to_there(data_dir: Path, tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b'{"n":%d}\n' % n for n in range(200_000)))
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(whole[: len(whole) - 100])
    with pytest.raises(FailedError, match=r"cut\.jsonl\.gz is not whole: its gzip data .* records up to line \d+"):
        load(data_dir, path)
    stored = column(data_dir, "data")
    assert stored == [b'{"n":%d}' % n for n in range(len(stored))]
    assert len(stored) > 100_000


def test_records_of_another_stream_or_kind_are_refused(data_dir: Path, tmp_path: Path) -> None:
    load(data_dir, DATA / "lambda-kinesis-event.json")
    event = json.loads((DATA / "lambda-kinesis-event.json").read_text())
    event["Records"][0]["eventSourceARN"] += "-other"
    path = tmp_path / "other.json"
    path.write_text(json.dumps(event))
    with pytest.raises(RefusedError, match="-other, and stream 's' is"):
        load(data_dir, path)
    with pytest.raises(RefusedError, match="of kind kinesis: it takes records"):
        load(data_dir, DATA / "dynamodb-get-records.json")
    load(data_dir, DATA / "dynamodb-get-records.json", stream="t")
    with pytest.raises(RefusedError, match="of kind dynamodb: it takes"):
        load(data_dir, DATA / "firehose", format="firehose", stream="t")


@pytest.mark.parametrize(
    ("files", "options", "reason"),
    [
        (("kinesis-get-records-v1.json",), {"shards": 2}, "keep their shards"),
        (("kinesis-get-records-v1.json",), {"partition_key": "id"}, "keys and times of their own"),
        (("kinesis-get-records-v1.json",), {"time_field": "id"}, "keys and times of their own"),
        (("firehose",), {}, "it is a directory"),
        (("firehose",), {"format": "csv"}, "it is a directory"),
        (("firehose",), {"format": "firehose", "deaggregate": True}, "--deaggregate takes captured"),
        (("nosuch",), {}, "cannot read"),
    ],
)
def test_what_does_not_fit_is_refused_and_makes_nothing(
    data_dir: Path, files: tuple[str, ...], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RefusedError, match=reason):
        load(data_dir, *(DATA / file for file in files), **options)
    assert not data_dir.exists()


def test_captured_and_other_files_do_not_go_together(data_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "a.jsonl"
    other.write_text("{}\n")
    with pytest.raises(FailedError, match=r"a\.jsonl: it holds captured records, or the files before do"):
        load(data_dir, DATA / "kinesis-get-records-v1.json", other)


def test_an_empty_directory_is_refused(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RefusedError, match="no files"):
        load(data_dir, tmp_path / "empty", format="firehose")


def test_a_capture_of_nothing_makes_an_empty_stream(data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"Records": [], "MillisBehindLatest": 0}')
    assert load(data_dir, path).records == 0
    assert column(data_dir, "data") == []


def test_a_segment_of_a_log_is_imported_as_it_stands(data_dir: Path, tmp_path: Path) -> None:
    stream = DataDir.open(data_dir, create=True).create_stream("s", 2)
    shard = stream.shards[1]
    with ShardWriter.open(shard) as writer:
        writer.append([NewRecord(b"a", "k", 5), NewRecord(b"b", "k", 3)])
    (active,) = shard.directory.glob("*.arrows")
    copy = tmp_path / "taken.arrows"
    shutil.copy(active, copy)
    assert load(data_dir, copy, stream="t").records == 2
    for name in ("sequence_number", "partition_key", "approximate_arrival_timestamp", "data"):
        assert column(data_dir, name, "t") == column(data_dir, name)
    assert DataDir.open(data_dir, create=False).stream("t").shards[0].id == shard.id, "its header says the shard"


def test_columns_without_numbers_are_routed_in_bulk(data_dir: Path, tmp_path: Path) -> None:
    table = pa.table({"partition_key": [f"k{n}" for n in range(100)], "data": [f"{n}" for n in range(100)]})
    path = tmp_path / "t.arrow"
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    report = load(data_dir, path, shards=4)
    assert (report.records, report.shards) == (100, 4)
    assert sorted(map(int, column(data_dir, "data"))) == list(range(100))
    with pytest.raises(RefusedError, match="do not go with it"):
        load(data_dir, path, partition_key="data")
