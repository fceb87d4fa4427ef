"""Every form of a handler, run by real workers: what it returns, what it keeps, how it fails."""

import asyncio
import functools
import inspect
import re
import sys

import pytest
import trio
from library_rig import FUNCTIONS
from trio.testing import trio_test

import streamfn
from streamfn.mapping import snapshot


@pytest.fixture(autouse=True)
def functions_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(FUNCTIONS))


async def outcomes(tmp_path, handler, records=3, **options):
    """The outcomes of so many invocations of one record, and what was logged."""
    lines = []
    options = {"workers": 1, "code_dir": FUNCTIONS, "batch_size": 1, "maximum_retry_attempts": 0, **options}
    found = []
    async with streamfn.open(tmp_path / "d", log=Lines(lines)) as session:
        await session.put_many("s", [b"%d" % number for number in range(records)])
        async with (
            session.mapping(handler, "s", **options) as mapping,
            mapping.outcomes() as seen,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(mapping.run_until_caught_up)
            async for outcome in seen:
                found.append(outcome)
    return found, "".join(lines)


class Lines:
    def __init__(self, lines):
        self.lines = lines

    def write(self, text):
        self.lines.append(text)


async def results(tmp_path, handler, records=3, **options):
    found, _ = await outcomes(tmp_path, handler, records, **options)
    assert all(outcome.succeeded for outcome in found), [outcome.fault for outcome in found]
    return [outcome.result for outcome in found]


# ---- async handlers


@trio_test
async def test_a_coroutine_function_is_run_to_its_end(tmp_path):
    assert await results(tmp_path, "forms.asynchronous") == [[1, True]] * 3


@trio_test
async def test_one_event_loop_is_kept_across_the_invocations_of_an_environment(tmp_path):
    assert await results(tmp_path, "forms.loops_seen") == [[1, 1, True], [2, 1, True], [3, 1, True]]


@trio_test
async def test_a_task_left_behind_is_cancelled_before_the_next_invocation_and_named(tmp_path):
    found, log = await outcomes(tmp_path, "forms.leaves_tasks")
    assert [outcome.result for outcome in found] == [True] * 3
    for outcome in found:
        said = rf"\[WARNING\]\t\S+Z\t{outcome.request_id}\tthe handler left a task running"
        assert re.search(said, log), log
    assert "laggard (leaves_tasks.<locals>.never_ready)" in log


@trio_test
async def test_a_task_that_is_kept_goes_on_in_the_next_invocation(tmp_path):
    found, log = await outcomes(tmp_path, "forms.keeps_task")
    ticks = [outcome.result[0] for outcome in found]
    assert ticks == sorted(set(ticks))
    assert not any(outcome.result[1] for outcome in found)
    assert "left" not in log


@trio_test
async def test_what_a_coroutine_raises_has_the_frames_of_the_handler_alone(tmp_path):
    found, _ = await outcomes(tmp_path, "forms.raises", 1)
    document = found[0].fault.document
    assert found[0].fault.error_type == "ValueError"
    assert b"in raises" in document
    assert b"in inner" in document
    assert b"asyncio" not in document.replace(b"asynchronously", b"")


@trio_test
async def test_an_async_handler_that_exits_ends_its_process_and_the_next_one_goes_on(tmp_path):
    found, _ = await outcomes(tmp_path, "forms.exits", 2)
    assert [outcome.fault.error_type for outcome in found] == ["Runtime.ExitError"] * 2
    assert "exit status 5" in found[0].fault.message


@trio_test
async def test_an_async_handler_that_waits_too_long_is_timed_out(tmp_path):
    found, _ = await outcomes(tmp_path, "forms.never_returns", 1, timeout=1)
    assert found[0].fault.error_type == "Sandbox.Timedout"


@trio_test
async def test_a_process_that_an_async_handler_forks_answers_nothing_and_cancels_nothing(tmp_path):
    found, log = await outcomes(tmp_path, "forms.forks", 2)
    assert [outcome.result for outcome in found] == ["parent", "parent"]
    assert "left" not in log


@trio_test
async def test_decorated_partial_and_closed_over_coroutine_functions_are_run_too(tmp_path):
    assert await results(tmp_path / "decorated", "forms.decorated", 1) == ["decorated"]

    async def scaled(factor, event, context):
        await asyncio.sleep(0)
        return factor * len(event["Records"])

    async def closure(event, context):
        return await scaled(3, event, context)

    assert await results(tmp_path / "partial", functools.partial(scaled, 2), 1) == [2]
    assert await results(tmp_path / "closure", closure, 1) == [3]


@trio_test
async def test_a_plain_handler_may_run_trio_itself(tmp_path):
    def handler(event, context):
        async def main():
            with trio.move_on_after(context.get_remaining_time_in_millis() / 1000):
                await trio.sleep(0)
                return len(event["Records"])

        return trio.run(main)

    assert await results(tmp_path, handler, 2) == [1, 1]


# ---- classes


@trio_test
async def test_a_handler_class_is_made_once_for_each_environment_in_the_worker(tmp_path):
    assert await results(tmp_path, "forms.Counter") == [[1, True, False], [2, True, False], [3, True, False]]


@trio_test
async def test_a_handler_class_has_an_instance_of_its_own_in_every_worker(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.create_stream("s", shards=2)
        await session.put_many("s", [streamfn.NewRecord(b"x", f"key-{number}") for number in range(40)])
        found = {}
        async with (
            session.mapping("forms.Witness", "s", workers=2, batch_size=1, code_dir=FUNCTIONS) as mapping,
            mapping.outcomes() as seen,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(mapping.run_until_caught_up)
            async for outcome in seen:
                pid, count = outcome.result
                found.setdefault(pid, []).append(count)
        assert len(found) == 2
        assert sum(map(len, found.values())) == 40
        assert all(counts == list(range(1, len(counts) + 1)) for counts in found.values())


@trio_test
async def test_a_method_of_a_class_is_called_on_its_instance_and_static_ones_without(tmp_path):
    assert await results(tmp_path / "m", "forms:Counter.method", 2) == [["method", n, True, False] for n in (1, 2)]
    assert await results(tmp_path / "s", "forms:Counter.static", 1) == ["static"]
    assert await results(tmp_path / "c", "forms:Counter.of_class", 1) == ["Counter"]


@trio_test
async def test_an_instance_at_module_level_was_made_in_init(tmp_path):
    assert await results(tmp_path, "forms.instance", 2) == [[1, False, True], [2, False, True]]


@trio_test
async def test_an_async_call_and_a_class_passed_as_an_object(tmp_path):
    import forms

    assert await results(tmp_path / "async", "forms.AsyncCounter", 2) == [1, 2]
    assert await results(tmp_path / "class", forms.Counter, 2) == [[1, True, False], [2, True, False]]

    class Local:
        def __init__(self):
            self.count = 10

        def __call__(self, event, context):
            self.count += 1
            return self.count

    assert await results(tmp_path / "local", Local, 2) == [11, 12]
    assert await results(tmp_path / "object", Local(), 2) == [11, 12]
    assert await results(tmp_path / "bound", forms.Counter().method, 1) == [["method", 1, False, True]]


@trio_test
async def test_a_class_whose_instances_cannot_be_called_is_called_itself_as_in_lambda(tmp_path):
    assert await results(tmp_path, "forms.Plain", 1) == [{"records": 1}]


@trio_test
async def test_a_class_that_cannot_be_made_is_an_init_error_with_its_own_stack(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put("s", b"x")
        with pytest.raises(streamfn.HandlerImportError, match="RuntimeError: no database") as raised:
            await session.run_until_caught_up("forms.Unmakeable", "s", workers=2, code_dir=FUNCTIONS)
    assert raised.value.document["errorType"] == "RuntimeError"
    assert "in __init__" in raised.value.document["stackTrace"][-1]


# ---- snapshot hooks


@pytest.fixture
def hooks(tmp_path, monkeypatch):
    """Where `snapshots` writes down what ran."""
    monkeypatch.setenv("NOTES", str(tmp_path))
    return lambda: (tmp_path / "hooks").read_text().splitlines()


BEFORE = ["second before zygote", "first before zygote"]
AFTER = ["first after worker", "second after worker"]


@trio_test
async def test_hooks_run_around_the_fork_in_their_orders(tmp_path, hooks):
    found, log = await outcomes(tmp_path, "snapshots.handler", 2, logs="all")
    assert [outcome.result for outcome in found] == [True, True]
    assert hooks() == BEFORE + AFTER
    first, second = re.findall(r"REPORT .*", log)
    assert re.search(r"\tRestore Duration: \d+\.\d\d ms\tBilled Restore Duration: \d+ ms\t", first)
    assert "Init Duration" not in log
    assert "Restore Duration" not in second


@trio_test
async def test_every_worker_is_restored_and_a_class_is_made_behind_the_hooks(tmp_path, hooks):
    assert await results(tmp_path, "snapshots.Handler", 1, workers=2) == ["made"]
    assert hooks()[:2] == BEFORE
    assert sorted(hooks()[2:]) == sorted([*AFTER, "made worker"] * 2)


@trio_test
async def test_workers_that_import_the_module_themselves_run_no_hooks(tmp_path, hooks, monkeypatch):
    monkeypatch.setenv("FAILS", "before")
    (tmp_path / "threaded.py").write_text(
        "import threading, time\nfrom snapshots import note\nnote('imported')\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "def handler(event, context):\n    return 'answered'\n"
    )
    monkeypatch.delenv("FAILS")
    monkeypatch.setenv("PYTHONPATH", str(FUNCTIONS))
    assert await results(tmp_path, "threaded.handler", 1, code_dir=tmp_path) == ["answered"]
    ran = hooks()
    assert ran[: len(BEFORE) + 1] == ["imported zygote", *BEFORE]  # then its thread was seen
    assert ran[len(BEFORE) + 1 :] == ["imported zygote"]


@pytest.mark.parametrize(("when", "kind"), [("before", "BeforeSnapshot"), ("after", "AfterRestore")])
@trio_test
async def test_a_hook_that_fails_is_an_init_error_of_its_own_type(tmp_path, when, kind):
    environment = {"FAILS": when, "NOTES": str(tmp_path)}
    reason = {"before": "before the snapshot", "after": "after the restore"}[when]
    with pytest.raises(streamfn.HandlerImportError) as raised:
        await outcomes(tmp_path, "snapshots.handler", 1, environment=environment)
    text = f"'snapshots.handler': a hook {reason} raised ZeroDivisionError: division by zero"
    assert text in str(raised.value)
    assert raised.value.document["errorType"] == f"Runtime.{kind}Error"
    assert "in <lambda>" in raised.value.document["stackTrace"][-1]


@trio_test
async def test_the_module_is_there_for_whoever_has_not_installed_it(tmp_path, hooks, monkeypatch):
    (tmp_path / "bare.py").write_text(
        "import sys\n"
        "sys.path[:] = [entry for entry in sys.path if 'site-packages' not in entry]\n"
        "import snapshot_restore_py\n"
        "assert snapshot_restore_py.__spec__.origin == 'streamfn', snapshot_restore_py\n"
        "from snapshots import handler, restore, register_after_restore\n"
        "assert register_after_restore(restore) is restore\n"
        "def answers(event, context):\n    return handler(event, context)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(FUNCTIONS))
    assert await results(tmp_path, "bare.answers", 1, code_dir=tmp_path) == [False]
    assert hooks() == BEFORE + AFTER + AFTER[:1]


def test_hooks_run_in_the_order_in_which_aws_s_runtime_client_runs_them():
    runner = pytest.importorskip("awslambdaric.lambda_runtime_hooks_runner")
    aws = pytest.importorskip("snapshot_restore_py")

    def ran(run_before, run_after):
        order = []
        for number in range(3):
            aws.register_before_snapshot(order.append, f"before {number}")
            aws.register_after_restore(order.append, f"after {number}")
        run_before()
        run_after()
        aws.get_after_restore().clear()
        assert not aws.get_before_snapshot()
        return order

    ours = ran(snapshot.run_before, snapshot.run_after)
    assert ours == ran(runner.run_before_snapshot, runner.run_after_restore)
    assert ours[0] == "before 2"


def test_our_module_offers_what_aws_s_does():
    aws = pytest.importorskip("snapshot_restore_py")
    saved = sys.modules.pop("snapshot_restore_py"), list(sys.meta_path)
    try:
        sys.meta_path[:] = []
        snapshot.provide()
        import snapshot_restore_py as ours
    finally:
        sys.modules["snapshot_restore_py"], sys.meta_path[:] = saved
    assert ours is not aws
    assert set(aws.__all__) == set(ours.__all__)
    for name in (*aws.__all__, "get_before_snapshot", "get_after_restore"):
        theirs, own = inspect.signature(getattr(aws, name)), inspect.signature(getattr(ours, name))
        assert [(each.name, each.kind) for each in theirs.parameters.values()] == [
            (each.name, each.kind) for each in own.parameters.values()
        ]
