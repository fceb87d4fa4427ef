"""Recording live streams, against an endpoint that shows what emulators do not: ends, children, expiry, trimming."""

import json
import random
import signal
import subprocess
import sys
import time

import boto3
import pytest
import record_rig
import trio
from record_rig import numbers, record, stored, unlimited, until
from scripted_endpoint import SESSIONS, Endpoint

from streamfn.capture import memo
from streamfn.capture.captured import ShardLog
from streamfn.capture.reading import Beginning, Loss, Until
from streamfn.cli.app import run
from streamfn.errors import BusyError, FailedError, RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.producer.producer import Producer
from streamfn.log.shard import gaps
from streamfn.types import NewRecord

DAY_MS = 86_400_000


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(boto3, "Session", SESSIONS)
    with Endpoint() as endpoint:
        for name, value in endpoint.environment.items():
            monkeypatch.setenv(name, value)
        yield endpoint


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def stream_of(data, name="orders"):
    return DataDir.open(data, create=False).stream(name)


def numbers_upstream(live):
    return {shard.id: live.numbers(shard.id) for shard in live.listed()}


def fill(live, count=20):
    for shard in live.listed():
        if not shard.closed:
            live.put(shard.id, *range(count))


def require_parents_first(live):
    """No shard was asked for before all of its parents had been read to their ends."""
    order = [shard for _, operation, shard in live.calls if operation in ("iterator", "records")]
    for shard in live.listed():
        for parent in shard.parents:
            assert parent not in order[order.index(shard.id) :], f"{shard.id} was begun before {parent} had ended"


def aged(live, shard_id, ms):
    """Make all records of a shard so much older."""
    for one in live.shards[shard_id].records:
        one["at_ms"] -= ms


# ---- what is kept


def test_a_stream_is_recorded_with_its_arn_shards_lineage_numbers_and_times(endpoint, data):
    live = unlimited(endpoint.kinesis(shards=2))
    first, second = live.shards
    live.put(first, b"\x00\xff", "zwei", key="κ")
    third, fourth = live.split(first)
    fill(live)
    fifth = live.merge(second, third)
    live.put(fifth, *range(5))
    done = record(endpoint.url, "kinesis://orders", data)
    stream = stream_of(data)
    assert (stream.arn, stream.kind) == (live.arn, "kinesis")
    kept = {s.id: (s.parents, s.start_hash, s.end_hash, s.open, s.ending_sequence_number) for s in stream.shards}
    assert kept == {
        s.id: (s.parents, s.start, s.end, not s.closed, str(s.ending) if s.closed else None) for s in live.listed()
    }
    assert numbers(data, "orders") == numbers_upstream(live)
    [one, two] = stored(data, "orders")[first]
    assert (one.data, one.partition_key, two.data) == (b"\x00\xff", "κ", b"zwei")
    assert one.arrival_ms == live.shards[first].records[0]["at_ms"]
    assert (done.result.records, done.result.shards, done.result.why) == (67, 5, "until")
    assert done.result.resumes_at == {shard: live.numbers(shard)[-1] for shard in (fourth, fifth)}
    require_parents_first(live)
    assert live.refused == []


def test_change_records_keep_attribute_order_number_text_and_escapes_to_the_letter(endpoint, data):
    live = unlimited(endpoint.dynamodb())
    [shard] = live.shards
    images = [
        '{"z":{"N":"1.50E+3"},"id":{"S":"k"},"a":{"L":[{"NULL":true},{"M":{"b":{"BOOL":false},"a":{"B":"AAA="}}}]}}',
        '{"id": {"S": "k"},\n "e": {"S": "\\u00e9 \\"q\\" \\/"}, "n": {"NS": ["3", "1", "2.0"]}}',
        '{"id":{"S":"k"}}',
    ]
    live.put(shard, *images)
    record(endpoint.url, "dynamodb-stream://customers", data)
    found = stored(data, "customers")[shard]
    assert [change.new_image.decode() for change in found] == [
        images[0],
        '{"id":{"S":"k"},"e":{"S":"\\u00e9 \\"q\\" \\/"},"n":{"NS":["3","1","2.0"]}}',
        images[2],
    ]
    assert [change.sequence_number for change in found] == live.numbers(shard)
    assert {change.keys for change in found} == {b'{"id":{"S":"k"}}'}
    stream = stream_of(data, "customers")
    assert (stream.arn, stream.kind, stream.shards[0].id) == (live.arn, "dynamodb", shard)


# ---- where it goes on


def test_a_second_recording_goes_on_behind_the_last_record_of_each_shard(endpoint, data):
    live = unlimited(endpoint.kinesis(shards=3))
    fill(live)
    record(endpoint.url, "kinesis://orders", data)
    assert record(endpoint.url, "kinesis://orders", data).result.records == 0
    fill(live, 7)
    endpoint.requests.clear()
    assert record(endpoint.url, "kinesis://orders", data).result.records == 21
    assert numbers(data, "orders") == numbers_upstream(live)
    asked = [given["ShardIteratorType"] for _, given in endpoint.requests if "ShardIteratorType" in given]
    assert asked == ["AFTER_SEQUENCE_NUMBER"] * 3


@pytest.mark.parametrize("kind", ["kinesis", "dynamodb"])
def test_latest_leaves_out_what_was_there_also_where_nothing_had_come_before_it_was_stopped(endpoint, data, kind):
    live = unlimited(getattr(endpoint, kind)("some"))
    source = "kinesis://some" if kind == "kinesis" else "dynamodb-stream://some"
    content = '{"id":{"S":"k"}}'
    [first] = live.shards
    live.put(first, content, content)
    second = live.roll(first) if kind == "dynamodb" else live.split(first)[0]
    live.put(second, content)
    aged(live, first, 10_000), aged(live, second, 5_000)
    record(endpoint.url, source, data, begin="LATEST")
    assert first not in numbers(data, "some"), "a shard that was closed before has nothing to come"
    assert numbers(data, "some")[second] == []
    expected = live.put(second, content, content)
    record(endpoint.url, source, data)
    assert numbers(data, "some")[second] == expected
    third = live.roll(second) if kind == "dynamodb" else live.split(second)[1]
    late = live.put(third, content)
    record(endpoint.url, source, data)
    assert numbers(data, "some")[third] == late, "a child is begun at its oldest record, whatever the beginning was"


@pytest.mark.parametrize("kind", ["kinesis", "dynamodb"])
def test_a_beginning_by_time_takes_what_came_then_and_later(endpoint, data, kind):
    live = unlimited(getattr(endpoint, kind)("some"))
    [shard] = live.shards
    given = live.put(shard, *['{"id":{"S":"k"}}'] * 6)
    for at, one in enumerate(live.shards[shard].records):
        one["at_ms"] = (one["at_ms"] // 1000 - 60 + 10 * at) * 1000
    begin = Beginning("AT_TIMESTAMP", live.shards[shard].records[4]["at_ms"])
    record(endpoint.url, f"{'kinesis' if kind == 'kinesis' else 'dynamodb-stream'}://some", data, begin=begin)
    assert numbers(data, "some")[shard] == given[4:]


@pytest.mark.parametrize("kind", ["kinesis", "dynamodb"])
def test_whatever_was_killed_goes_on_exactly(endpoint, data, kind):
    live = unlimited(getattr(endpoint, kind)("some", **({"shards": 4} if kind == "kinesis" else {})))
    live.page_records = 7
    for shard in list(live.shards):
        live.put(shard, *['{"id":{"S":"k"}}'] * (2000 if kind == "kinesis" else 5000))
    rng = random.Random(7)
    source = "kinesis://some" if kind == "kinesis" else "dynamodb-stream://some"
    command = [sys.executable, record_rig.__file__, endpoint.url, source, str(data)]
    stored_at_kills = []
    for _ in range(3 if kind == "kinesis" else 2):
        with subprocess.Popen(command, env={"PYTHONPATH": ":".join(sys.path), **endpoint.environment}) as process:
            endpoint.wait_for_reads(rng.randrange(20, 50))
            process.send_signal(signal.SIGKILL)
        stored_at_kills.append(sum(map(len, numbers(data, "some").values())))
        with endpoint.lock:
            for shard in live.listed():
                if not shard.closed:
                    live.put(shard.id, *['{"id":{"S":"k"}}'] * 5)
            one = next(shard.id for shard in live.listed() if not shard.closed)
            child = live.split(one)[0] if kind == "kinesis" else live.roll(one)
            live.put(child, '{"id":{"S":"k"}}')
    assert 0 < stored_at_kills[0] < stored_at_kills[-1] < 5000, "the kills came in the middle"
    live.page_records = None
    record(endpoint.url, source, data)
    assert numbers(data, "some") == numbers_upstream(live)


def test_a_stream_that_was_made_anew_under_the_same_name_is_not_mixed_with_the_old_one(endpoint, data):
    live = unlimited(endpoint.kinesis())
    fill(live)
    record(endpoint.url, "kinesis://orders", data)
    endpoint.delete(live)
    unlimited(endpoint.kinesis()).created = live.created + 5
    with pytest.raises(RefusedError, match=r"deleted and made again since; choose another --stream"):
        record(endpoint.url, "kinesis://orders", data)


def test_a_stream_that_others_filled_is_not_recorded_into(endpoint, data):
    live = unlimited(endpoint.kinesis())
    fill(live)
    DataDir.open(data, create=True).create_stream("orders")
    with pytest.raises(RefusedError, match=r"stream 'orders' exists and is arn:aws:kinesis:us-east-1"):
        record(endpoint.url, "kinesis://orders", data)
    record(endpoint.url, "kinesis://orders", data, name="copy")
    with Producer(stream_of(data, "copy")) as producer:
        producer.submit([NewRecord(b"mine", "k")]).result()
    with pytest.raises(ExceptionGroup) as caught:
        record(endpoint.url, "kinesis://orders", data, name="copy")
    assert any("ends in a record that was put here" in str(leaf) for leaf in leaves(caught.value))


def test_two_processes_do_not_record_into_one_stream(endpoint, data):
    live = unlimited(endpoint.kinesis())
    fill(live)

    async def second(recorder):
        await until(lambda: recorder.counts.records)
        with pytest.raises(BusyError, match=r"the capture into stream 'orders' is in use by process \d+"):
            await trio.to_thread.run_sync(lambda: record(endpoint.url, "kinesis://orders", data))
        recorder.stop()

    assert record(endpoint.url, "kinesis://orders", data, until=None, scenario=second).result.why == "stopped"


# ---- resharding while it runs


@pytest.mark.parametrize("told", [True, False], ids=["children in the last answer", "children only in the list"])
def test_a_split_and_a_merge_are_followed_and_a_child_is_begun_after_its_parents(endpoint, data, told):
    live = unlimited(endpoint.kinesis(shards=2))
    live.tells_children = told
    first, second = live.shards
    fill(live)

    async def reshard(recorder):
        await until(lambda: recorder.counts.records == 40)
        with endpoint.lock:
            live.put(first, *range(10))
            third, fourth = live.split(first)
            fill(live, 3)
        await until(lambda: recorder.counts.records == 59)
        with endpoint.lock:
            live.close(second)
            live.put(third, "last")
            fifth = live.merge(third, second)
            live.put(fifth, *range(4))
        await until(lambda: recorder.counts.records == 64)
        assert fourth in recorder.result().resumes_at
        recorder.stop()

    done = record(endpoint.url, "kinesis://orders", data, until=None, scenario=reshard)
    assert numbers(data, "orders") == numbers_upstream(live)
    shards = {shard.id: shard for shard in stream_of(data).shards}
    assert [shard.open for shard in shards.values()] == [False, False, False, True, True]
    assert {id: shard.parents for id, shard in shards.items()} == {s.id: s.parents for s in live.listed()}
    assert done.result.shards == 5
    require_parents_first(live)


def test_a_dynamodb_shard_that_ends_is_followed_by_the_child_in_the_description(endpoint, data):
    live = unlimited(endpoint.dynamodb())
    endpoint.page_shards = 1
    [first] = live.shards
    live.put(first, *['{"id":{"S":"k"}}'] * 3)

    async def roll(recorder):
        shard = first
        for generation in range(1, 4):
            await until(lambda: recorder.counts.records == 3 * generation)  # noqa: B023
            with endpoint.lock:
                shard = live.roll(shard)
                live.put(shard, *['{"id":{"S":"k"}}'] * 3)
        await until(lambda: recorder.counts.records == 12)
        recorder.stop()

    record(endpoint.url, "dynamodb-stream://customers", data, until=None, scenario=roll)
    assert numbers(data, "customers") == numbers_upstream(live)


def test_lists_of_several_pages_are_read_whole(endpoint, data):
    live = unlimited(endpoint.kinesis(shards=7))
    endpoint.page_shards = 2
    fill(live)
    record(endpoint.url, "kinesis://orders", data)
    assert numbers(data, "orders") == numbers_upstream(live)


def test_a_stream_that_is_switched_off_ends_the_recording_when_all_of_it_is_stored(endpoint, data):
    live = unlimited(endpoint.dynamodb())
    [shard] = live.shards
    live.put(shard, *['{"id":{"S":"k"}}'] * 3)

    async def switch_off(recorder):
        await until(lambda: recorder.counts.records == 3)
        with endpoint.lock:
            live.put(shard, '{"id":{"S":"k"}}')
            live.close(shard)
            live.status = "DISABLED"

    done = record(endpoint.url, "dynamodb-stream://customers", data, until=None, scenario=switch_off)
    assert (done.result.why, done.result.records) == ("source ended", 4)


# ---- trouble


def test_expired_iterators_throttles_failures_and_broken_answers_lose_and_repeat_nothing(endpoint, data):
    live = unlimited(endpoint.kinesis(shards=2))
    live.page_records = 10
    for shard in live.shards:
        live.put(shard, *range(300))
    codes = [
        "ExpiredIteratorException", "ProvisionedThroughputExceededException", "InternalFailure", "ThrottlingException"
    ]  # fmt: skip

    async def trouble(recorder):
        rng = random.Random(3)
        for turn in range(24):
            seen = recorder.counts.records
            with endpoint.lock:
                if turn % 4 == 3:
                    endpoint.broken_answers = 1
                elif turn % 4 == 2:
                    live.empty_answers = 3
                else:
                    live.faults.append(("records", rng.choice(codes)))
                    live.faults.append(("iterator", "ProvisionedThroughputExceededException"))
            await until(lambda: recorder.counts.records > seen or recorder.counts.records == 600)  # noqa: B023

    record(endpoint.url, "kinesis://orders", data, scenario=trouble)
    assert numbers(data, "orders") == numbers_upstream(live)
    assert endpoint.broken_answers == 0


def test_answers_of_10_mib_are_earned_before_the_next_call_and_no_call_is_refused(endpoint, data, monkeypatch):
    live = endpoint.kinesis()
    live.calls_per_s, live.bytes_per_s = 10**9, 40_000_000
    monkeypatch.setitem(record_rig.QUICK, "bytes_per_s", 38_000_000)
    [shard] = live.shards
    live.put(shard, *[bytes([n]) * 1_000_000 for n in range(25)])
    began = time.monotonic()
    record(endpoint.url, "kinesis://orders", data)
    assert [len(one.data) for one in stored(data, "orders")[shard]] == [1_000_000] * 25
    assert live.refused == []
    assert time.monotonic() - began > 20_000_000 / 38_000_000


def test_a_refusal_that_nothing_mends_ends_the_recording_with_what_was_stored(endpoint, data):
    live = unlimited(endpoint.kinesis())
    live.page_records = 5
    fill(live)

    async def deny(recorder):
        await until(lambda: recorder.counts.records)
        live.faults.append(("records", "AccessDeniedException"))

    with pytest.raises(ExceptionGroup) as caught:
        record(endpoint.url, "kinesis://orders", data, until=None, scenario=deny)
    [error] = [leaf for leaf in leaves(caught.value) if isinstance(leaf, FailedError)]
    assert "cannot read shardId-000000000000 of arn:aws:kinesis" in str(error)
    assert "AccessDeniedException" in str(error)
    record(endpoint.url, "kinesis://orders", data)
    assert numbers(data, "orders") == numbers_upstream(live)


def test_a_stream_that_is_deleted_meanwhile_ends_the_recording(endpoint, data):
    live = unlimited(endpoint.kinesis())
    fill(live)

    async def delete(recorder):
        await until(lambda: recorder.counts.records == 20)
        with endpoint.lock:
            endpoint.delete(live)

    with pytest.raises(ExceptionGroup) as caught:
        record(endpoint.url, "kinesis://orders", data, until=None, scenario=delete)
    assert any("is not there any more; what was recorded of it stays" in str(leaf) for leaf in leaves(caught.value))
    assert numbers(data, "orders") == numbers_upstream(live)


def leaves(error):
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


# ---- what was trimmed away


@pytest.mark.parametrize("kind", ["kinesis", "dynamodb"])
def test_what_was_trimmed_away_while_it_was_stopped_is_said_and_noted(endpoint, data, kind, capsys):
    live = unlimited(getattr(endpoint, kind)("some"))
    [shard] = live.shards
    source = "kinesis://some" if kind == "kinesis" else "dynamodb-stream://some"
    given = live.put(shard, *['{"id":{"S":"k"}}'] * 6)
    aged(live, shard, 2 * DAY_MS)
    record(endpoint.url, source, data)
    given += live.put(shard, *['{"id":{"S":"k"}}'] * 6)
    live.trim(shard, 9)
    done = record(endpoint.url, source, data)
    assert numbers(data, "some")[shard] == given[:6] + given[9:]
    assert done.result.losses == 1
    assert done.said == [
        f"{shard}: records after {given[5]} and before {given[9]} may be missing: the source has trimmed them away "
        "meanwhile"
    ]
    noted = json.loads((stream_of(data, "some").directory / "capture.json").read_text())["losses"]
    assert [(one["shard"], one["after"], one["before"]) for one in noted] == [(shard, given[5], given[9])]
    capsys.readouterr()
    assert run(["inspect", "some", "--data-dir", str(data)]) == 0
    assert f"from     {source}; 1 range had been trimmed away (--json lists them)" in capsys.readouterr().out


def test_a_loss_is_noted_before_what_lies_behind_it_and_only_once(endpoint, data, monkeypatch):
    live = unlimited(endpoint.kinesis("some"))
    [shard] = live.shards
    given = live.put(shard, *range(3))
    aged(live, shard, 2 * DAY_MS)
    record(endpoint.url, "kinesis://some", data)
    given += live.put(shard, *range(3))
    live.trim(shard, 4)

    def crash(self, captured):
        raise FailedError("crash")

    with monkeypatch.context() as crashing:
        crashing.setattr(ShardLog, "append", crash)
        with pytest.raises(ExceptionGroup):
            record(endpoint.url, "kinesis://some", data)
    noted = memo.read(stream_of(data, "some")).losses
    assert [(one.shard_id, one.loss) for one in noted] == [(shard, Loss(given[2], given[4]))]
    record(endpoint.url, "kinesis://some", data)
    assert memo.read(stream_of(data, "some")).losses == noted
    assert numbers(data, "some")[shard] == given[:3] + given[4:]


def test_an_old_last_record_that_is_still_there_is_no_loss(endpoint, data):
    live = unlimited(endpoint.kinesis("some"))
    [shard] = live.shards
    live.put(shard, *range(3))
    aged(live, shard, 2 * DAY_MS)
    record(endpoint.url, "kinesis://some", data)
    live.put(shard, *range(3))
    done = record(endpoint.url, "kinesis://some", data)
    assert (done.result.losses, done.said) == (0, [])
    assert numbers(data, "some") == numbers_upstream(live)


def test_a_shard_that_the_source_has_forgotten_is_a_loss_and_its_children_go_on(endpoint, data):
    live = unlimited(endpoint.kinesis("some"))
    [first] = live.shards
    fill(live, 3)
    record(endpoint.url, "kinesis://some", data)
    last = live.numbers(first)[-1]
    live.put(first, "never seen")
    low, high = live.split(first)
    fill(live, 2)
    live.forget(first)
    done = record(endpoint.url, "kinesis://some", data)
    assert done.said == [f"{first}: records after {last} may be missing: the source has trimmed them away meanwhile"]
    found = numbers(data, "some")
    assert (found[low], found[high]) == (live.numbers(low), live.numbers(high))
    assert not stream_of(data, "some").shard(first).open


def test_what_was_lost_or_damaged_here_at_the_end_is_captured_anew(endpoint, data):
    live = unlimited(endpoint.kinesis())
    fill(live, 20)
    record(endpoint.url, "kinesis://orders", data)
    [shard] = stream_of(data).shards
    gaps.record(shard, gaps.Gap(15, 20, gaps.DAMAGED))
    assert record(endpoint.url, "kinesis://orders", data).result.records == 5


def test_where_retention_has_emptied_the_log_its_last_number_says_where_to_go_on(endpoint, data):
    live = unlimited(endpoint.kinesis(shards=2))
    fill(live, 20)
    record(endpoint.url, "kinesis://orders", data)
    known, unknown = stream_of(data).shards
    gaps.record(known, gaps.Gap(0, 20, gaps.TRIMMED, last_sequence_number=live.numbers(known.id)[-1]))
    live.put(known.id, "more")
    assert record(endpoint.url, "kinesis://orders", data).result.records == 1
    gaps.record(unknown, gaps.Gap(0, 20, gaps.TRIMMED))
    with pytest.raises(ExceptionGroup) as caught:
        record(endpoint.url, "kinesis://orders", data)
    assert any("it is not known where to go on" in str(leaf) for leaf in leaves(caught.value))


# ---- where it ends


def test_a_limit_is_kept_exactly_over_all_shards_and_the_rest_comes_next_time(endpoint, data):
    live = unlimited(endpoint.kinesis(shards=3))
    fill(live, 50)
    assert record(endpoint.url, "kinesis://orders", data, limit=70).result.why == "limit"
    assert sum(map(len, numbers(data, "orders").values())) == 70
    record(endpoint.url, "kinesis://orders", data)
    assert numbers(data, "orders") == numbers_upstream(live)


def test_a_limit_in_the_last_answer_of_a_shard_does_not_end_the_shard(endpoint, data):
    live = unlimited(endpoint.kinesis(shards=2))
    fill(live, 20)
    first, second = live.shards
    children = live.split(first)
    fill(live, 5)
    assert record(endpoint.url, "kinesis://orders", data, limit=7).result.records == 7
    assert all(shard.open for shard in stream_of(data).shards)
    for limit in (11, 3, 20):
        record(endpoint.url, "kinesis://orders", data, limit=limit)
    assert sum(map(len, numbers(data, "orders").values())) == 41
    record(endpoint.url, "kinesis://orders", data)
    assert numbers(data, "orders") == numbers_upstream(live)
    assert children[0] in numbers(data, "orders")
    assert second in numbers(data, "orders")


def test_until_a_time_ends_each_shard_before_the_first_younger_record(endpoint, data):
    live = unlimited(endpoint.kinesis(shards=2))
    fill(live, 10)
    expected = {}
    now_ms = int(time.time() * 1000)
    for shard in live.listed():
        for at, one in enumerate(shard.records):
            one["at_ms"] = now_ms - 10_000 + 1000 * at
        expected[shard.id] = live.numbers(shard.id)[:6]
    record(endpoint.url, "kinesis://orders", data, until=Until(now_ms - 5000, now_ms - 5000))
    assert numbers(data, "orders") == expected
    record(endpoint.url, "kinesis://orders", data)
    assert numbers(data, "orders") == numbers_upstream(live)


def test_until_now_ends_although_records_keep_coming(endpoint, data):
    live = unlimited(endpoint.kinesis())
    [shard] = live.shards
    there = live.put(shard, *range(100))
    live.page_records = 100

    async def producer(recorder):
        while True:
            with endpoint.lock:
                live.put(shard, *range(150))
            await trio.sleep(0.02)

    record(endpoint.url, "kinesis://orders", data, scenario=producer)
    assert numbers(data, "orders")[shard][:100] == there


def test_until_a_time_waits_for_children_that_only_the_list_tells_of(endpoint, data):
    live = unlimited(endpoint.kinesis())
    live.tells_children = False
    [first] = live.shards
    fill(live)
    end_ms = int(time.time() * 1000) + 2000

    async def split(recorder):
        await until(lambda: recorder.counts.records == 20)
        with endpoint.lock:
            live.split(first)
            fill(live, 3)

    record(endpoint.url, "kinesis://orders", data, until=Until(end_ms, end_ms), scenario=split, relist_s=30)
    assert numbers(data, "orders") == numbers_upstream(live)


def test_a_duration_ends_it(endpoint, data):
    live = unlimited(endpoint.kinesis())
    fill(live)
    done = record(endpoint.url, "kinesis://orders", data, until=None, duration_s=0.3)
    assert done.result.why == "duration"
    assert numbers(data, "orders") == numbers_upstream(live)


def test_stopping_leaves_a_call_in_flight_alone_and_keeps_what_had_come(endpoint, data):
    live = unlimited(endpoint.kinesis())
    fill(live)

    async def stop(recorder):
        await until(lambda: recorder.counts.records == 20)
        endpoint.delay_s = 10
        await trio.sleep(0.1)
        recorder.stop()

    began = time.monotonic()
    done = record(endpoint.url, "kinesis://orders", data, until=None, scenario=stop)
    assert time.monotonic() - began < 8
    assert done.result.why == "stopped"
    assert numbers(data, "orders") == numbers_upstream(live)
