"""Redriving: exactly what was discarded comes again, once, in order, and nobody's checkpoint moves but its own."""

import json
import random
import threading
import time
from functools import partial

import pytest
from redrive_rig import HANDLER, NAME, Mended
from run_rig import FUNCTIONS, error_line, until
from test_kill import wait_until_gone
from test_run_damage import flip

from streamfn.cli.app import run
from streamfn.errors import FailedError, HandlerImportError, LogDamaged, RefusedError
from streamfn.log.producer.producer import Producer
from streamfn.mapping import wanted
from streamfn.state.store import Store
from streamfn.types import NewRecord

SHARD = "shardId-000000000000"


@pytest.fixture
def command(place, capsys):
    """`streamfn ARGUMENTS` in this process: its code, standard output and standard error."""

    def command(*arguments):
        capsys.readouterr()
        code = run([*arguments, "--data-dir", str(place.data)])
        return (code, *capsys.readouterr())

    return command


@pytest.fixture
def mended(place, monkeypatch):
    monkeypatch.setenv("NOTES", str(place.notes))
    return Mended(place)


def planted(place, records, bad, *, shards=2, keys=13):
    """A stream of records `N` under a few keys, those in `bad` called `bad N`; returns the contents by key."""
    place.stream(shards=shards)
    by_key = {}
    with Producer(place.opened()) as producer:
        for first in range(0, records, 100):
            batch = []
            for number in range(first, min(records, first + 100)):
                content, key = f"bad {number}" if number in bad else str(number), f"key-{number * 7 % keys}"
                by_key.setdefault(key, []).append(content)
                batch.append(NewRecord(content.encode(), key))
            producer.submit(batch).result()
    return by_key


def by_key(invocations):
    found = {}
    for one in invocations:
        for content, key in zip(one["contents"], one["keys"], strict=True):
            found.setdefault(key, []).append(content)
    return found


@pytest.mark.parametrize("factor", [1, 4])
def test_thirty_seven_planted_failures_are_delivered_once_and_in_order(mended, place, factor):
    chosen = set(random.Random(20_261_126).sample(range(2000), 37))
    contents = planted(place, 2000, chosen)
    with mended.session() as session:
        failed = mended.fail(session, "bad", parallelization_factor=factor, on_failure="failed")
        assert (failed.records, failed.discarded) == (2000 - 37, 37)
        before = mended.checkpoints()
        dry = session.redrive(NAME, dry_run=True)
        assert (dry.records, dry.on_failure_records, dry.why, mended.handled) == (37, 37, "dry run", [])
        done = session.redrive(NAME, workers=2)
        assert (done.records, done.discarded, done.errors, done.on_failure_records) == (37, 0, 0, 37)
        assert (done.gone, done.remaining, done.filtered, done.why) == (0, 0, 0, "caught up")
        wanted = {key: bad for key, texts in contents.items() if (bad := [text for text in texts if "bad" in text])}
        assert by_key(mended.invocations) == wanted
        assert len(mended.invocations) < 37  # they are batched, though they lie apart
        again = session.redrive(NAME)
        assert (again.records, again.on_failure_records, len(mended.handled)) == (0, 0, 37)
    assert mended.checkpoints() == before
    assert all(one.redriven_ms is not None for one in mended.discards())


def test_what_fails_again_has_a_new_on_failure_record_and_is_left_for_the_next_redrive(mended, place):
    place.stream(contents=["bad 1", "worse", "bad 2", "fine"])
    with mended.session() as session:
        mended.fail(session, "bad|worse", on_failure="failed")
        mended.bad("worse")
        done = session.redrive(NAME)
        assert (done.records, done.discarded, done.on_failure_pending) == (2, 1, 0)
        assert mended.handled == ["bad 1", "bad 2"]
        told = [json.loads(record.data) for record in session.records("failed")]
        first, last = told[0], told[-1]
        assert len(told) == 4
        assert last["KinesisBatchInfo"] == told[1]["KinesisBatchInfo"]
        assert last["requestContext"]["requestId"] != told[1]["requestContext"]["requestId"]
        assert last["requestContext"]["functionArn"] == first["requestContext"]["functionArn"]
        assert session.redrive(NAME, dry_run=True).records == 1
        mended.bad("")
        assert session.redrive(NAME).records == 1
        assert mended.handled == ["bad 1", "bad 2", "worse"]
        assert session.redrive(NAME).on_failure_records == 0


def test_a_redrive_runs_while_its_mapping_does_and_takes_what_was_discarded_before_it(mended, place):
    place.stream(contents=["bad 1", "a"])
    with mended.session() as session:
        mended.fail(session, "bad")
        options = {"code_dir": FUNCTIONS, "maximum_retry_attempts": 0, "workers": 1}
        with session.mapping(HANDLER, "s", **options) as mapping:
            thread = threading.Thread(target=mapping.run)
            thread.start()
            place.put(["b"])
            until(lambda: mended.checkpoints()[SHARD] == 3, "the mapping runs")
            assert session.redrive(NAME).records == 1
            assert mended.handled == ["b", "bad 1"]
            mended.bad("again")
            place.put(["again"])
            until(lambda: mended.checkpoints()[SHARD] == 4, "the mapping still runs")
            mended.bad("")
            assert session.redrive(NAME).records == 1
            mapping.drain()
            thread.join()
    assert mended.handled == ["b", "bad 1", "again"]


def test_what_was_discarded_since_an_interrupted_redrive_is_delivered_after_it(mended, place):
    place.stream(contents=["bad 1", "bad 2"])
    with mended.session() as session:
        mended.fail(session, "bad", batch_size=1)
        # What a killed redrive leaves behind: one of two is delivered.
        with Store.open(place.data / "state.db", create=False) as store:
            mapping = store.find(NAME)
            redrive = store.open_redrive(mapping.uuid).uuid
            epoch = store.acquire(redrive)
            store.begin_pass(redrive, epoch, [one.id for one in store.discards(mapping.uuid)], {SHARD: 0})
            store.commit(redrive, epoch, {SHARD: (1, None)})
        place.put(["bad 3"])
        mended.fail(session, "bad", batch_size=1)
        left = session.redrive(NAME, dry_run=True)
        assert (left.records, left.on_failure_records) == (2, 3)
        done = session.redrive(NAME)
        assert (done.records, done.on_failure_records) == (2, 3)
    assert mended.handled == ["bad 2", "bad 3"]
    assert all(one.redriven_ms is not None for one in mended.discards())


def test_what_was_discarded_twice_and_fails_twice_more_is_told_each_time(mended, place, command):
    place.stream(contents=["bad"])
    with mended.session() as session:
        mended.fail(session, "bad", on_failure="failed")
        with Store.open(place.data / "state.db", create=False) as store:  # a redrive was killed as it began
            mapping = store.find(NAME)
            redrive = store.open_redrive(mapping.uuid).uuid
            store.begin_pass(redrive, store.acquire(redrive), [one.id for one in store.discards(mapping.uuid)], {})
        assert command("mapping", "reset-checkpoint", NAME, "--to", "TRIM_HORIZON")[0] == 0
        mended.fail(session, "bad", on_failure="failed")
        mended.bad("bad")
        assert session.redrive(NAME).discarded == 2
        assert len(list(session.records("failed"))) == 4


def test_damage_stops_its_shard_alone_and_what_it_took_can_be_passed_over(mended, place):
    place.stream(shards=2, contents=["bad 0", "bad 1", "bad 2", "bad 3"])
    damaged, other = place.opened().shards
    lost = [row.data.decode() for row in mended.rows(damaged)]
    with mended.session() as session:
        mended.fail(session, "bad")
    flip(damaged, 0)
    with mended.session() as session:
        with pytest.raises(LogDamaged, match=damaged.id):
            session.redrive(NAME)
        assert sorted(mended.handled) == sorted(row.data.decode() for row in mended.rows(other))
        done = session.redrive(NAME, on_damage="salvage")
        assert (done.records, done.lost) == (0, len(lost))
        assert session.redrive(NAME).on_failure_records == 0


def test_a_later_discard_may_lie_before_an_earlier_one(mended, place, command):
    place.stream(contents=["a", "bad b", "c"])
    with mended.session() as session:
        mended.fail(session, "bad", batch_size=1)
        assert session.redrive(NAME).records == 1
        assert command("mapping", "reset-checkpoint", NAME, "--to", "TRIM_HORIZON")[0] == 0
        mended.fail(session, "a", batch_size=1)  # and b is well by now
        assert session.redrive(NAME).records == 2  # `bad b` fails on its a
    assert mended.handled == ["a", "bad b"]


def test_records_that_retention_took_are_counted_as_gone_once(mended, place, command):
    place.stream(contents=["bad 1", "bad 2", "x"])
    with mended.session() as session:
        mended.fail(session, "bad")
    assert command("compact", "s")[0] == command("trim", "s", "--before-offset", "3")[0] == 0
    place.put(["bad 3"])
    with mended.session() as session:
        mended.fail(session, "bad")
    dry = json.loads(command("redrive", NAME, "--dry-run", "--json")[1])
    assert (dry["records"], dry["gone"], dry["on_failure_records"], dry["shards"]) == (1, 2, 3, {SHARD: 1})
    assert command("redrive", NAME, "--dry-run") == (
        0,
        f"{NAME}: 1 record of 3 on-failure records to redrive\n  {SHARD}  1 record\n"
        "2 records gone from the log since: retention or a crash took them\n",
        "",
    )
    code, out, error = command("redrive", NAME)
    assert (code, out) == (3, ""), error
    assert f"redrive of {NAME}: 1 record in 1 batch" in error
    assert "2 records gone from the log since: retention or a crash took them" in error
    assert command("redrive", NAME, "--dry-run") == (0, f"{NAME}: nothing left to redrive\n", "")
    assert mended.handled == ["bad 3"]


def test_the_filters_of_the_mapping_hold_for_a_redrive_too(mended, place):
    pattern = {"Filters": [{"Pattern": json.dumps({"data": {"kind": ["a"]}})}]}
    contents = [json.dumps({"kind": kind, "bad": number}) for number, kind in enumerate("abaab")]
    place.stream(contents=contents)
    with mended.session() as session:
        mended.fail(session, "bad", filter_criteria=pattern)
        assert [one.discard.failure.records for one in mended.discards()] == [1, 1, 1]
        done = session.redrive(NAME)
        assert (done.records, done.filtered) == (3, 0)
        assert mended.handled == [contents[0], contents[2], contents[3]]
        place.put([contents[0]])
        mended.fail(session, "bad", filter_criteria=pattern)
        other = {"Filters": [{"Pattern": json.dumps({"data": {"kind": ["b"]}})}]}
        mended.fail(session, "", filter_criteria=other)  # the mapping is configured anew
        done = session.redrive(NAME)
        assert (done.records, done.filtered) == (0, 1)


def test_a_record_is_as_old_as_the_redrive_and_no_older(mended, place):
    stream = place.stream()
    with Producer(stream) as producer:
        producer.submit([NewRecord(b"bad", "key", 1_000)]).result()  # of 1970
    with mended.session() as session:
        mended.fail(session, "bad", maximum_record_age_in_seconds=60)
        (one,) = mended.discards()
        assert one.discard.reason == "RecordAgeExceeded"
        assert session.redrive(NAME).records == 1
    assert mended.handled == ["bad"]


def test_windows_are_formed_of_what_is_redriven(mended, place):
    stream, hour = place.stream(), 3_600_000
    records = [("bad 1", 0), ("a", 1), ("bad 2", 2), ("b", 60_000), ("bad 3", 60_001)]
    with Producer(stream) as producer:
        producer.submit([NewRecord(text.encode(), "key", hour + ms) for text, ms in records]).result()
    with mended.session() as session:
        mended.fail(session, "bad", tumbling_window_in_seconds=60, batch_size=1)
        assert session.redrive(NAME).records == 3
    finals = [one for one in mended.invocations if one["isFinalInvokeForWindow"]]
    assert [one["state"] for one in finals] == [{"seen": ["bad 1", "bad 2"]}, {"seen": ["bad 3"]}]
    assert [one["window"]["start"] for one in finals] == ["1970-01-01T01:00:00Z", "1970-01-01T01:01:00Z"]


def test_parents_come_before_their_children(mended, place, command):
    place.stream(contents=["bad 0", "x", "bad 1"])
    assert command("update-shard-count", "s", "--target-shard-count", "2")[0] == 0
    place.put(["bad 2", "bad 3", "y"])
    with mended.session() as session:
        mended.fail(session, "bad", batch_size=1)
        mended.takes(0.02)
        assert session.redrive(NAME).records == 4
    assert mended.handled[:2] == ["bad 0", "bad 1"]
    assert sorted(mended.handled[2:]) == ["bad 2", "bad 3"]


def test_on_failure_records_of_a_redrive_go_where_the_mapping_says_and_speak_of_the_mapping(mended, place):
    place.stream(contents=["bad"])
    directory = place.root / "failed"
    with mended.session() as session:
        mended.fail(session, "bad", on_failure=f"s3:{directory}")
        mended.bad("bad")
        assert session.redrive(NAME).discarded == 1
    files = [path for path in directory.rglob("*") if path.is_file()]
    first, second = (json.loads(path.read_bytes()) for path in sorted(files, key=lambda path: path.stat().st_mtime_ns))
    assert first["KinesisBatchInfo"] == second["KinesisBatchInfo"]
    assert {path.relative_to(directory).parts[2] for path in files} == {place.mapping(NAME).uuid}
    assert second["payload"]["Records"] == first["payload"]["Records"]


def test_a_created_mapping_is_redriven_as_it_is_configured_by_then(mended, place):
    place.stream(contents=["bad 1", "bad 2", "bad 3"])
    with mended.session() as session:
        made = session.managed.create(
            HANDLER, "s", code_dir=FUNCTIONS, starting_position="TRIM_HORIZON", maximum_retry_attempts=0
        )
        mended.bad("bad")
        session.managed.run(until_caught_up=True)
        mended.bad("")
        session.managed.update(made["UUID"], batch_size=1)
        assert session.redrive(NAME).records == 3
        assert [one["contents"] for one in mended.invocations] == [["bad 1"], ["bad 2"], ["bad 3"]]
        assert session.redrive(made["UUID"]).records == 0
        assert [one["UUID"] for one in session.managed.list()] == [made["UUID"]]


def test_changes_are_redriven_as_records_are(mended, place, command):
    images = [{"Keys": {"id": {"S": name}}, "NewImage": {"id": {"S": name}}} for name in ("bad 1", "a", "bad 2")]
    changes = [json.dumps({"eventName": "INSERT", "dynamodb": image}) for image in images]
    assert command("put-change", "s", *changes)[0] == 0
    with mended.session() as session:
        mended.fail(session, "bad", "mended.changes", parallelization_factor=2)
        assert session.redrive("mended.changes@s").records == 2
    assert sorted(mended.handled) == ["bad 1", "bad 2"]


def test_a_stored_function_is_the_one_that_it_is_by_then(mended, place):
    place.stream(contents=["bad 1", "bad 2"])
    stored = {"handler": HANDLER, "code_dir": FUNCTIONS, "environment": {"BAD": "bad"}}
    with mended.session() as session:
        session.functions.create("work", **stored)
        session.run_until_caught_up("work", "s", maximum_retry_attempts=0, batch_size=1, workers=1)
        session.functions.delete("work")
        with pytest.raises(FailedError, match="its function 'work' was deleted"):
            session.redrive("work@s")
        session.functions.create("work", **stored)
        assert session.redrive("work@s").discarded == 2
        session.functions.update("work", environment={})
        assert session.redrive("work@s").records == 2


def test_what_lies_far_apart_is_not_waited_for(mended, place, monkeypatch):
    monkeypatch.setattr(wanted, "APART", 2)
    contents = [f"bad {number}" if number in (3, 40, 95) else str(number) for number in range(120)]
    with Producer(place.stream()) as producer:
        for text in contents:
            producer.submit([NewRecord(text.encode(), "key")]).result()
    with mended.session() as session:
        mended.fail(session, "bad", batch_size=1)
        mended.fail(session, "", maximum_batching_window_in_seconds=300)
        assert session.redrive(NAME).records == 3
    assert [one["contents"] for one in mended.invocations] == [["bad 3", "bad 40", "bad 95"]]


# ---- kills and signals


def started(place, mended, contents, takes=0.02, **options):
    """A stream whose records were all discarded one by one, and their redrive, in which each takes a moment."""
    place.stream(contents=contents)
    with mended.session() as session:
        mended.fail(session, "bad", batch_size=1, **options)
    mended.takes(takes)
    process = place.start("redrive", NAME, "--workers", "1", "--json")
    until(lambda: len(mended.handled) >= 3, "some are delivered")
    return process


def delivers(process, mended, before):
    """More has been delivered than before, or it is over."""
    return len(mended.handled) > before or process.popen.poll() is not None


def test_a_killed_redrive_loses_nothing_and_repeats_only_what_it_had_not_committed(mended, place, command, soak):
    rounds, chance = (20 if soak else 2), random.Random(20_261_126)
    planted(place, 600, set(range(600)))
    where = {}
    for shard in place.opened().shards:
        where.update({row.data.decode(): (shard.id, row.offset) for row in mended.rows(shard)})
    with mended.session() as session:
        mended.fail(session, "bad", parallelization_factor=4, batch_size=7, bisect_batch_on_function_error=False)
    mended.takes(0.03 if soak else 0.01)
    durable, kills = {}, 0
    for _ in range(rounds):
        before = len(mended.handled)
        process = place.start("redrive", NAME, "--workers", "2")
        until(partial(delivers, process, mended, before), "it delivers")
        time.sleep(chance.uniform(0, 0.1))
        kills += process.popen.poll() is None
        process.kill()
        wait_until_gone(str(place.notes))
        again = [where[content] for content in mended.handled[before:]]
        assert not [one for one in again if one[1] < durable.get(one[0], 0)]
        with Store.open(place.data / "state.db", create=False) as store:
            checkpoints = store.checkpoints(store.redrive_of(place.mapping(NAME).uuid))
        durable = {shard: point.offset for shard, point in checkpoints.items()}
    assert kills > rounds / 2
    mended.takes(0)
    before = len(mended.handled)
    code, out, error = command("redrive", NAME, "--json")
    left = [content for content, (shard, offset) in where.items() if offset >= durable[shard]]
    summary = json.loads(out)
    assert (code, summary["records"], summary["resumed"]) == (0, len(left), True), error
    assert sorted(mended.handled[before:]) == sorted(left)
    assert set(mended.handled) == set(where)
    assert json.loads(command("redrive", NAME, "--json")[1])["records"] == 0


def test_a_signal_drains_a_redrive_and_the_next_one_repeats_nothing(mended, place, command):
    contents = [f"bad {number}" for number in range(40)]
    process = started(place, mended, contents)
    process.signal()
    assert process.wait() == 130, process.err
    summary = process.summary
    assert summary["records"] == len(mended.handled)
    assert summary["remaining"] == 40 - len(mended.handled) > 0
    mended.takes(0)
    assert command("redrive", NAME)[0] == 0
    assert mended.handled == contents


# ---- refusals


def test_one_redrive_at_a_time_and_none_without_its_mapping(mended, place, command):
    process = started(place, mended, [f"bad {number}" for number in range(40)], takes=0.1)
    code, _, error = command("redrive", NAME)
    assert code == 1
    assert f"running in process {process.pid}" in error
    code, _, error = command("delete", "s", "--yes")
    assert code == 1
    assert f"redrive of {NAME}" in error
    assert command("mapping", "delete", NAME)[0] == 0
    assert process.wait() == 1
    assert "was deleted" in error_line(process)


def test_what_cannot_be_redriven_is_refused_by_name(mended, place, command):
    place.stream(contents=["bad"])
    assert "unknown mapping 'nope' in " in command("redrive", "nope")[2]
    with mended.session() as session:
        mended.fail(session, "bad")
        with pytest.raises(RefusedError, match=f"unknown mapping 'nope' in .*: there is {NAME}"):
            session.redrive("nope")
        with pytest.raises(RefusedError, match="workers"):
            session.redrive(NAME, workers=0)
        with pytest.raises(RefusedError, match="unknown mapping"):
            session.redrive("\tredrive of " + place.mapping(NAME).uuid)
    code, out, error = command("redrive", NAME, "--dry-run", "--timeout", "901")
    assert (code, out) == (2, "")
    assert "Value '901' at 'timeout'" in error
    assert command("delete", "s", "--yes")[0] == 0
    code, out, error = command("redrive", NAME)
    assert (code, out) == (2, "")
    assert "deleted" in error


def test_a_handler_that_cannot_be_loaded_leaves_everything_as_it_was(mended, place, tmp_path, command):
    place.stream(contents=["bad"])
    code = tmp_path / "code"
    code.mkdir()
    (code / "broken_later.py").write_text("def handler(event, context):\n    raise ValueError('bad')\n")
    with mended.session() as session:
        session.run_until_caught_up("broken_later.handler", "s", code_dir=code, maximum_retry_attempts=0, workers=1)
        (code / "broken_later.py").write_text("import nowhere_to_be_found\n")
        with pytest.raises(HandlerImportError):
            session.redrive("broken_later.handler@s")
        assert command("redrive", "broken_later.handler@s", "--json")[:2] == (1, "")
        (code / "broken_later.py").write_text("def handler(event, context):\n    pass\n")
        assert session.redrive("broken_later.handler@s").records == 1
