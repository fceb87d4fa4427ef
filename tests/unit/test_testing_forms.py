"""`run_mapping` with handlers of every form: environments, virtual time of async handlers, Arrow handlers."""

import asyncio
import gc

import pyarrow.compute as pc
import pytest

import streamfn
from streamfn.testing import (
    Script,
    VirtualClock,
    change,
    dynamodb_batch,
    kinesis_batch,
    kinesis_event,
    lambda_context,
    run_mapping,
)


class Counting:
    made = 0

    def __init__(self):
        type(self).made += 1
        self.count = 0

    def __call__(self, event, context):
        self.count += 1
        return self.count


@pytest.fixture(autouse=True)
def no_loop_is_left_open():
    Counting.made = 0
    yield
    gc.collect()  # a loop that was not closed warns here, and warnings are errors


def test_a_handler_class_is_made_once_for_an_environment():
    result = run_mapping(Counting, [str(number) for number in range(3)], batch_size=1)
    assert [batch.response for batch in result.batches] == [1, 2, 3]
    assert Counting.made == 1


def test_a_death_ends_the_environment_and_the_next_one_begins_anew():
    class Dying(Counting):
        def __call__(self, event, context):
            if super().__call__(event, context) == 2 and self.made == 1:
                raise SystemExit(3)
            return [self.count, type(self).made]

    result = run_mapping(Dying, ["a", "b", "c"], batch_size=1)
    assert [batch.outcome for batch in result.batches] == ["succeeded", "died", "succeeded", "succeeded"]
    assert [batch.response for batch in result.batches] == [[1, 1], None, [1, 2], [2, 2]]


def test_what_a_handler_class_raises_when_it_is_made_is_the_test_s():
    class Unmakeable(Counting):
        def __init__(self):
            raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"):
        run_mapping(Unmakeable, ["a"])


def test_shards_have_environments_of_their_own():
    result = run_mapping(Counting, {f"shardId-00000000000{shard}": ["a", "b"] for shard in range(3)}, batch_size=1)
    assert sorted(batch.response for batch in result.batches) == [1, 1, 1, 2, 2, 2]
    assert Counting.made == 3


def test_an_async_handler_sleeps_in_virtual_time():
    async def handler(event, context):
        left = context.get_remaining_time_in_millis()
        await asyncio.gather(asyncio.sleep(1.5), asyncio.sleep(2))
        return [left, context.get_remaining_time_in_millis()]

    result = run_mapping(handler, ["a", "b"], batch_size=1)
    assert [batch.response for batch in result.batches] == [[3000, 1000]] * 2
    assert [batch.seconds for batch in result.batches] == pytest.approx([2, 2])


@pytest.mark.parametrize("waits_for", ["time", "nothing"])
def test_an_async_handler_that_waits_too_long_is_timed_out_and_its_loop_goes(waits_for):
    loops = set()

    async def handler(event, context):
        loops.add(id(asyncio.get_running_loop()))
        if len(loops) == 1:
            await (asyncio.sleep(10) if waits_for == "time" else asyncio.Event().wait())

    result = run_mapping(handler, ["a"], timeout_seconds=3)
    assert [(batch.outcome, batch.seconds) for batch in result.batches] == [("timed out", 3), ("succeeded", 0)]


def test_the_loop_is_kept_and_what_is_left_on_it_is_cancelled(caplog):
    loops, left = [], []

    async def handler(event, context):
        loops.append(asyncio.get_running_loop())
        left.append(asyncio.create_task(asyncio.sleep(100), name="laggard"))

    result = run_mapping(handler, ["a", "b"], batch_size=1)
    assert result.caught_up
    assert loops[0] is loops[1]
    assert all(task.cancelled() for task in left)
    assert caplog.text.count("left a task running, cancelled at the end of the invocation: laggard") == 2
    assert result.seconds < 1


def test_a_handler_that_stops_its_loop_has_failed_and_is_not_resumed():
    seen = []

    async def handler(event, context):
        seen.append("begun")
        if len(seen) == 1:
            asyncio.get_running_loop().stop()
            await asyncio.sleep(0.1)
            seen.append("resumed")

    result = run_mapping(handler, ["a"])
    assert [batch.outcome for batch in result.batches] == ["failed", "succeeded"]
    assert result.batches[0].error["errorType"] == "RuntimeError"
    assert seen == ["begun", "begun"]


def test_threads_of_an_async_handler_are_waited_for():
    async def handler(event, context):
        return await asyncio.to_thread(lambda: len(event["Records"]))

    assert [batch.response for batch in run_mapping(handler, ["a"]).batches] == [1]


def test_clients_that_live_beside_the_invocations_may_keep_their_tasks():
    ticks = []

    async def heartbeat():
        while True:
            ticks.append(1)
            await asyncio.sleep(1)

    class Client:
        task = None

        async def __call__(self, event, context):
            if self.task is None:
                self.task = streamfn.keep_task(asyncio.create_task(heartbeat()))
            await asyncio.sleep(2.5)
            return not self.task.done()

    result = run_mapping(Client, ["a", "b"], batch_size=1)
    assert [batch.response for batch in result.batches] == [True, True]
    assert len(ticks) >= 5


def test_an_async_handler_cannot_be_run_inside_a_running_loop():
    async def handler(event, context):
        pass

    async def test():
        with pytest.raises(streamfn.RefusedError, match="call it from a plain test function"):
            run_mapping(handler, ["a"])

    asyncio.run(test())


# ---- Arrow handlers


@streamfn.arrow_handler
def total(batch, context):
    return pc.sum(pc.binary_length(batch["data"])).as_py()


def test_an_arrow_handler_is_run_over_batches_and_called_with_what_a_test_makes():
    result = run_mapping(total, ["a", "bb", "ccc"], batch_size=2)
    assert [batch.response for batch in result.batches] == [3, 3]
    assert total(kinesis_batch(["a", "bb"]), lambda_context()) == 3
    assert total(kinesis_event(["a", "bb"]), lambda_context()) == 3


def test_batches_of_changes_are_made_as_events_of_them_are():
    batch = dynamodb_batch([change("INSERT", {"id": {"S": "7"}}, new_image={"id": {"S": "7"}})])
    assert batch["event_name"].to_pylist() == ["INSERT"]
    assert batch["keys"].to_pylist() == ['{"id":{"S":"7"}}']
    assert batch["old_image"].null_count == 1


def test_an_arrow_handler_with_tumbling_windows_is_refused_as_in_production():
    with pytest.raises(streamfn.RefusedError, match="TumblingWindowInSeconds"):
        run_mapping(total, ["a"], tumbling_window_in_seconds=60)


def test_a_failure_is_named_by_its_sequence_number():
    @streamfn.arrow_handler
    def handler(batch, context):
        bad = pc.index(batch["data"], b"bad").as_py()
        if bad > 0:
            return {"batchItemFailures": [{"itemIdentifier": batch["sequence_number"][bad].as_py()}]}
        return None if bad else {"batchItemFailures": [{"itemIdentifier": batch["sequence_number"][0].as_py()}]}

    result = run_mapping(
        handler,
        ["a", "b", "bad", "c"],
        function_response_types=["ReportBatchItemFailures"],
        maximum_retry_attempts=0,
        bisect_batch_on_function_error=True,
    )
    assert [len(each.sequence_numbers) for each in result.discarded] == [1]
    assert result.batches[0].done == 2


def test_a_script_needs_no_environment():
    assert run_mapping(Script(), ["a"], clock=VirtualClock()).caught_up


def test_what_cannot_be_called_is_no_handler():
    with pytest.raises(streamfn.RefusedError, match="a handler is a function .*, not 'app.handler'"):
        run_mapping("app.handler", ["a"])
