"""On-failure records that only their destination knows: what they speak of is found again in the log, or left alone."""

import json

import pytest
from redrive_rig import HANDLER, NAME, Mended
from run_rig import FUNCTIONS

from streamfn.cli.app import run
from streamfn.errors import RefusedError
from streamfn.log.producer.producer import Producer
from streamfn.types import NewRecord

SHARD = "shardId-000000000000"


@pytest.fixture
def mended(place, monkeypatch):
    monkeypatch.setenv("NOTES", str(place.notes))
    return Mended(place)


def keyed(place, contents):
    """One shard with records under four keys in turn."""
    with Producer(place.stream()) as producer:
        producer.submit([NewRecord(text.encode(), f"key-{at % 4}") for at, text in enumerate(contents)]).result()


def forget(session, **options):
    """Delete the mapping with all it knew, and have one of its name that begins behind everything."""
    session.delete_mapping(NAME)
    options = {"starting_position": "LATEST", "code_dir": FUNCTIONS, "workers": 1, **options}
    assert session.run_until_caught_up(HANDLER, "s", **options).records == 0


@pytest.mark.parametrize("kind", ["", "file:"])
def test_what_a_deleted_mapping_discarded_is_redriven_from_where_it_was_told(mended, place, kind):
    keyed(place, ["a", "bad 1", "b", "bad 2", "bad 3"])
    destination = f"{kind}{place.root / 'failed'}" if kind else "failed"
    with mended.session() as session:
        mended.fail(session, "bad", on_failure=destination)
        forget(session, on_failure=destination)
        assert session.redrive(NAME).records == 0
        dry = session.redrive(NAME, source=destination, dry_run=True)
        assert (dry.records, dry.on_failure_records, mended.handled) == (3, 3, [])
        done = session.redrive(NAME, source=destination)
        assert (done.records, done.on_failure_records, done.gone, done.unresolved) == (3, 3, 0, 0)
        assert mended.handled == ["bad 1", "bad 2", "bad 3"]
        again = session.redrive(NAME, source=destination)
        assert (again.records, again.on_failure_records) == (0, 0)
        told = [one.discard.failure for one in mended.discards()]
        assert [failure.destination for failure in told] == [destination] * 3
        assert all(not one.pending for one in mended.discards())


@pytest.mark.parametrize("kind", ["", "s3:"])
def test_a_batch_with_others_between_is_told_by_its_lane_and_the_filters_or_by_its_event(mended, place, kind):
    contents = [json.dumps({"n": number, "kind": "ab"[number % 3 == 0], "bad": number < 24}) for number in range(40)]
    keyed(place, contents)
    options = {
        "parallelization_factor": 3,
        "batch_size": 4,
        "bisect_batch_on_function_error": False,
        "filter_criteria": {"Filters": [{"Pattern": '{"data": {"kind": ["a"]}}'}]},
    }
    destination = f"{kind}{place.root / 'failed'}" if kind else "failed"
    with mended.session() as session:
        failed = mended.fail(session, '"bad": true', on_failure=destination, **options)
        spread = [one.discard.failure for one in mended.discards()]
        assert failed.discarded >= 16
        assert any(failure.offsets is not None for failure in spread)  # records of other lanes lie between theirs
        wanted = [contents[at] for one in mended.discards() for at in offsets(one.discard)]
        forget(session, on_failure=destination, **options)
        done = session.redrive(NAME, source=destination)
        assert (done.records, done.filtered, done.unresolved) == (len(wanted), 0, 0)
        assert sorted(mended.handled) == sorted(wanted)


def offsets(discard):
    return discard.failure.offsets or range(discard.first_offset, discard.end_offset)


def told(place, session, **changes):
    """An on-failure record as the destination has it, changed, under another request id."""
    record = json.loads(next(iter(session.records("failed"))).data)
    record["requestContext"] |= {"requestId": f"another {len(changes)}", **changes.pop("request", {})}
    record["KinesisBatchInfo"] |= changes.pop("info", {})
    session.put("failed", json.dumps(record | changes).encode())


def test_what_cannot_be_told_or_is_of_others_is_left_alone_and_counted(mended, place):
    keyed(place, ["bad 1", "b", "c"])
    with mended.session() as session:
        mended.fail(session, "bad", on_failure="failed")
        forget(session)
        session.put("failed", b"no record at all")
        session.put("failed", b'{"requestContext": {}}')
        told(place, session, info={"streamArn": "arn:aws:kinesis:eu-west-1:1:stream/other"})
        ours, theirs = "000000000000", "123456789012"
        told(place, session, request={"functionArn": f"arn:aws:lambda:us-east-1:{ours}:function:another"}, x=1)
        told(place, session, info={"batchSize": 7}, x=1, y=1)  # more than there are
        dry = place.run("redrive", NAME, "--dry-run", "--source", "failed")
        assert f"{NAME}: 1 record of 1 on-failure record to redrive" in dry.out
        assert f"left alone: which records the record at offset 5 of {SHARD} in failed speaks of cannot be" in dry.out
        assert "2 on-failure records of other streams or functions left alone" in dry.out
        assert "2 things in the source are no on-failure records" in dry.out
        told(place, session, request={"functionArn": f"arn:aws:lambda:us-east-1:{theirs}:function:x"}, x=1, y=1, z=1)
        done = session.redrive(NAME, source="failed")  # a function of AWS's is called as it likes
        assert (done.records, done.on_failure_records, done.unresolved) == (1, 2, 1)
        assert mended.handled == ["bad 1"]


def test_records_that_are_gone_are_counted_once(mended, place):
    place.stream(contents=["bad 1", "bad 2"])
    with mended.session() as session:
        mended.fail(session, "bad", on_failure="failed", bisect_batch_on_function_error=False)
        forget(session)
    for command in (["compact", "s"], ["trim", "s", "--before-offset", "2"]):
        assert run([*command, "--data-dir", str(place.data)]) == 0
    with mended.session() as session:
        done = session.redrive(NAME, source="failed")
        assert (done.records, done.on_failure_records, done.gone) == (0, 1, 2)
        again = session.redrive(NAME, source="failed")
        assert (again.on_failure_records, again.gone) == (0, 0)


def test_a_source_that_is_not_there_is_refused(mended, place):
    place.stream(contents=["bad"])
    with mended.session() as session:
        mended.fail(session, "bad")
        with pytest.raises(RefusedError, match="unknown stream 'nowhere'"):
            session.redrive(NAME, source="nowhere")
        with pytest.raises(RefusedError, match="there is no directory /nowhere to read on-failure records from"):
            session.redrive(NAME, source="file:/nowhere")
        with pytest.raises(RefusedError, match="FIFO"):
            session.redrive(NAME, source="arn:aws:sqs:us-east-1:000000000000:q.fifo")
        assert session.redrive(NAME).records == 1
