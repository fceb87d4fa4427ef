"""`streamfn bench`: tables, documents and files, what exits with what, and whose checkpoints are left alone."""

import json
import re
import signal

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from run_rig import Place, error_line, until

from streamfn.measure.counts import Counts
from streamfn.measure.result import FORMAT, Result, Row, Sample, load

QUICK = ["--duration", "0.4s", "--warmup", "0.1s", "--workers", "1"]
FEW = ["--workers", "1", "--batch-size", "10"]


@pytest.fixture
def place(tmp_path):
    found = Place(tmp_path)
    found.environment |= {"COLUMNS": "80", "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    return found


def is_clean(place):
    """Nothing was left of the records that were made, and no data directory was made."""
    return not list((place.root / "tmp").iterdir()) and not place.data.exists()


def test_a_sweep_is_one_document_with_a_row_for_each_setting_and_files_that_other_tools_read(place):
    done = place.run(
        "bench", "benched.noop", "--records", 3000, "--record-size", "64,1k", "--batch-size", "10,100",
        "--workers", "1", "--threshold", "p99<1m", "--threshold", "rate>100M", "--json",
        "--hgrm", place.root / "x.hgrm", "--hlog", place.root / "x.hlog", "--html", place.root / "x.html",
    )  # fmt: skip
    assert done.code == 4, done.err
    document = done.summary
    assert document["format"] == FORMAT
    assert (document["mode"], document["rate_offered"], document["source"]["kind"]) == ("closed", None, "generated")
    rows = document["rows"]
    assert [(row["record_size"], row["batch_size"]) for row in rows] == [(64, 10), (64, 100), (1024, 10), (1024, 100)]
    for row in rows:
        assert row["records"] == 3000
        assert HdrHistogram.decode(row["histograms"]["latency"]).get_total_count() == 3000
        assert row["rate_achieved"] == pytest.approx(row["records"] / row["seconds"])
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p99"] <= row["latency_ms"]["max"]
        assert row["cold_starts"]["count"] == 1
    best = rows[document["best"]]
    assert best["rate_achieved"] == max(row["rate_achieved"] for row in rows) == document["rate_achieved"]
    assert [(each["text"], each["met"]) for each in document["thresholds"]] == [("p99<1m", True), ("rate>100M", False)]
    assert document["environment"]["streamfn"]
    assert "stolen" in document["noise"]
    (place.root / "x.json").write_text(done.out)
    assert load(place.root / "x.json")[0].document()["latency_ms"] == document["latency_ms"]
    # The files hold the best row.
    latency = HdrHistogram.decode(best["histograms"]["latency"])
    assert re.search(rf"TotalCount +=  *{latency.get_total_count()}\.000", (place.root / "x.hgrm").read_text())
    reader = HistogramLogReader(str(place.root / "x.hlog"), HdrHistogram(1, 2**42, 3))
    total = 0
    while (interval := reader.get_next_interval_histogram()) is not None:
        total += interval.get_total_count()
    reader.close()
    assert total == latency.get_total_count() > 0
    assert (place.root / "x.html").read_text().startswith("<!doctype html>")
    assert is_clean(place)


def test_a_given_rate_is_offered_and_what_is_said_of_it_fits_80_columns(place):
    done = place.run("bench", "benched.noop", "--rate", "2k", "--threshold", "rate>1", *QUICK)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    table = next(line for line in lines if re.match(r"\s+2,000\s", line))
    assert 0 < float(table.split()[1].replace(",", "")) < 4000
    assert "closed loop" not in done.out
    for said in ("until its batch was due", "the handler", "until that was durable", "CPU ", "cold start", "kept  "):
        assert said in done.out
    assert is_clean(place)


def earlier_result(place, kind):
    """A file with a result, of these few records from such a source."""
    found = Row(
        handler="h", source={"kind": kind}, mode="closed", rate_offered=None, records=200, batches=20, errors=0,
        discarded=0, seconds=1.0, batch_size=10, workers=1, record_size=3, latency=Counts({1000: 200}),
        samples=[Sample(200, 1.0, Counts({1000: 200}))],
    )  # fmt: skip
    path = place.root / "earlier.json"
    path.write_text(json.dumps(Result([found]).document()))
    return path


def test_the_records_of_a_stream_are_measured_and_its_mappings_left_alone(place):
    place.stream(contents=range(300), shards=2)
    assert place.caught_up("seen.handler", "--limit", "100").code == 0
    checkpoints, log = place.checkpoints("seen.handler@s"), place.log()
    store = (place.data / "state.db").read_bytes()
    told = ["--stream", "s", "--records", "200", "--baseline", earlier_result(place, "stream"), "--json", *FEW]
    done = place.run("bench", "seen.handler", *told)
    assert done.code in (0, 5), done.err  # what is compared is not of this machine
    assert done.summary["source"] == {"kind": "stream", "stream": "s"}
    assert done.summary["records"] == 200
    assert done.summary["record_size"] in (2, 3)
    assert done.summary["comparison"]["cases"]
    assert (place.checkpoints("seen.handler@s"), place.log()) == (checkpoints, log)
    assert (place.data / "state.db").read_bytes() == store


def test_the_records_of_a_file_are_measured_and_everything_is_said_before_a_baseline_is_refused(place):
    file = place.root / "orders.jsonl"
    file.write_text("".join(f'{{"seq": {number}, "customer": "c{number % 7}"}}\n' for number in range(100, 600)))
    told = ["--input", file, "--partition-key", "customer", "--baseline", earlier_result(place, "stream"), *QUICK]
    done = place.run("bench", "benched.noop", *told)
    assert done.code == 2
    assert "nothing to compare" in error_line(done)
    assert "benched.noop · closed loop · batch size 100 · 1 worker · records of 30 B" in done.out
    assert re.search(r"closed loop: .* A\s+stall\s+is\s+seen\s+by\s+the\s+few", done.out, re.S)
    assert is_clean(place)


def test_a_signal_ends_it_with_what_there_is(place):
    process = place.start("bench", "benched.marks", "--rate", "200", "--duration", "30s", "--warmup", "0s", "--json")
    until((place.notes / "marked").exists, "the handler to be called")
    process.signal(signal.SIGINT)
    assert process.wait() == 130
    assert process.summary["records"] > 0
    assert "it was ended early" in process.summary["notes"][0][0]
    assert is_clean(place)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["benched.noop", "--stream", "s", "--input", "f"], "--stream and --input both say which records"),
        (["benched.noop", "--stream", "s", "--record-size", "1k"], "--record-size is for generated records"),
        (["benched.noop", "--partition-key", "k"], "--partition-key is for --input"),
        (["benched.noop", "--stream", "s", "--shards", "2"], "--shards is for generated records and --input"),
        (["benched.noop", "--records", "0"], "--records 0 must be 1 or more"),
        (["benched.noop", "--keys", "0"], "--keys 0 is not 1 to"),
        (["benched.noop", "--record-size", "11m"], "--record-size 11534336 is not 1 to 10485760 bytes"),
        (["benched.noop", "--batch-size", "10,20000"], "Value '20000' at 'batchSize'"),
        (["benched.noop", "--threshold", "p99"], "threshold 'p99' is not FIGURE<VALUE"),
        (["benched.noop", "--html", "/nowhere/x.html"], "--html: cannot write /nowhere/x.html"),
        (["benched.noop", "--template", "{{what}}"], "{{what}} is no field"),
        (["benched.noop", "--runs", "3", "--find-max", "--latency-p99", "1ms"], "--runs does not go with --find-max"),
    ],
)
def test_what_is_refused_is_named_and_nothing_is_made(tmp_path, monkeypatch, capsys, arguments, said):
    from streamfn.cli.app import run

    monkeypatch.chdir(tmp_path)
    assert run(["bench", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_handler_that_cannot_be_imported_fails(place):
    done = place.run("bench", "benched.absent", "--records", "10", *FEW)
    assert done.code == 1
    assert "absent" in error_line(done)
    assert is_clean(place)


@pytest.mark.soak
def test_the_highest_rate_is_found_where_it_is_known(place):
    """A millisecond for each record, one worker: no more than a thousand a second, and most of that within 50 ms."""
    done = place.start(
        "bench", "benched.naps", "--batch-size", "1", "--workers", "1", "--find-max", "--latency-p99", "50ms", "--json",
        "--duration", "1s",
    )  # fmt: skip
    assert done.wait(120) == 0, done.err
    assert 500 < done.summary["rate_offered"] <= 1000
    assert done.summary["latency_ms"]["p99"] <= 50
    assert len(re.findall(r"trial \d+: ", done.err)) > 3
