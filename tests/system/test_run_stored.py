"""Stored functions in the place of handlers: in runs, mappings, the library; and code that changes under a run."""

import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import pytest
from run_rig import Place, error_line, until
from trio.testing import trio_test

import streamfn
from streamfn.cli import app

CODE = """
import os, sys
VERSION = {version}

def handler(event, context):
    with open(os.environ["SEEN"], "a") as seen:
        for record in event.get("Records", [event]):
            stage, memory = os.environ.get("STAGE"), context.memory_limit_in_mb
            seen.write(f"{{VERSION}} {{stage}} {{memory}} {{context.function_name}}\\n")
    return [VERSION, os.environ.get("STAGE")]

def other(event, context):
    with open(os.environ["SEEN"], "a") as seen:
        seen.write("other\\n")
"""


@pytest.fixture
def place(tmp_path):
    found = Place(tmp_path)
    (tmp_path / "code").mkdir()
    write(found, 1)
    found.stream()
    return found


def write(place, version, more=""):
    (place.root / "code" / "app.py").write_text(CODE.format(version=version) + more)


def stored(place, *options):
    done = here(
        place, "function", "create", "orders", "--handler", "app.handler", "--code-dir", place.root / "code",
        "--env", "STAGE=stored", "--memory-size", 1769, *options,
    )  # fmt: skip
    assert done.code == 0, done.err


class Done(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


def here(place, *arguments):
    """A command that starts nothing, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = app.run([*map(str, arguments), "--data-dir", str(place.data)])
    return Done(code, out.getvalue(), err.getvalue())


def seen(place):
    return place.seen.read_text().splitlines() if place.seen.exists() else []


def test_a_run_takes_a_stored_function_with_its_configuration_and_what_is_said_wins(place):
    stored(place)
    place.put(["a"])
    done = place.caught_up("orders", cwd=place.root)
    assert (done.code, done.summary["mapping"], done.summary["records"]) == (0, "orders@s", 1), done.err
    place.put(["b"])
    done = place.caught_up("orders", "--env", "STAGE=said", "--memory-size", 2000, "--workers", 1, cwd=place.root)
    assert (done.code, done.summary["resumed"]) == (0, True), done.err
    assert seen(place) == ["1 stored 1769 orders", "1 said 2000 orders"]
    assert here(place, "function", "update", "orders", "--reserved-concurrency", 0).code == 0
    done = place.caught_up("orders")
    assert done.code == 2
    assert "the function 'orders' has a reserved concurrency of 0" in error_line(done)
    done = place.caught_up("nope")
    assert done.code == 2
    assert re.search("Function not found: .*:function:nope .*is no handler", error_line(done))


def test_changed_code_is_taken_over_at_a_batch_edge_and_broken_code_leaves_the_old_at_work(place):
    stored(place)
    place.put(["a"])
    with place.following("orders", "--workers", 1) as run:
        until(lambda: len(seen(place)) == 1, "the first record")
        write(place, 2)
        run.says("orders: the code has changed, and fresh workers have taken over")
        place.put(["b"])
        until(lambda: len(seen(place)) == 2, "the second record")
        write(place, 3, "def broken(")
        run.says("orders: the code has changed, and cannot be loaded: .*Syntax error.*; what was loaded before goes on")
        place.put(["c"])
        until(lambda: len(seen(place)) == 3, "the third record")
        write(place, 4)
        until(lambda: run.err.count("fresh workers have taken over") == 2, "the fourth version")
        place.put(["d"])
        until(lambda: len(seen(place)) == 4, "the fourth record")
        run.signal()
        assert run.wait() == 0
    assert [line.split()[0] for line in seen(place)] == ["1", "2", "2", "4"]
    versions = json.loads(here(place, "function", "versions", "orders").out)["Versions"]
    assert [one["Version"] for one in versions] == ["$LATEST", "1", "2", "3", "4"]
    assert len({one["CodeSha256"] for one in versions}) == 4


def test_a_mapping_of_a_stored_function_goes_over_to_what_that_becomes(place):
    stored(place)
    create = ("mapping", "create", "--event-source-arn", "s", "--starting-position", "TRIM_HORIZON", "--function-name")
    made = json.loads(here(place, *create, "orders").out)
    assert made["FunctionArn"] == "arn:aws:lambda:us-east-1:000000000000:function:orders"
    again = here(place, *create, "arn:aws:lambda:us-east-1:000000000000:function:orders:$LATEST")
    assert (again.code, "ResourceConflictException" in error_line(again)) == (2, True)
    missing = here(place, *create, "nope")
    assert (missing.code, "Function does not exist" in error_line(missing)) == (2, True)
    assert "is not kept" in error_line(here(place, *create, "orders:1"))
    place.put(["a"])
    run = place.start("run", "--workers", 1)
    try:
        until(lambda: len(seen(place)) == 1, "the first record")
        assert here(place, "function", "update", "orders", "--env", "STAGE=later").code == 0
        place.put(["b"])
        until(lambda: len(seen(place)) == 2, "the second record")
        write(place, 2)
        run.says("orders: the code has changed, and fresh workers have taken over")
        assert here(place, "function", "update", "orders", "--handler", "app.other").code == 0
        place.put(["c"])
        until(lambda: len(seen(place)) == 3, "the third record")
        assert here(place, "function", "delete", "orders").code == 0
        run.says("orders@s stops: its function 'orders' was deleted")
        run.signal()
        assert run.wait() == 1
    finally:
        run.kill()
    first, second, third = seen(place)
    assert first == "1 stored 1769 orders"
    assert second in ("1 stored 1769 orders", "1 later 1769 orders")
    assert third == "other"
    assert json.loads(here(place, "mapping", "show", made["UUID"]).out)["State"] == "Enabled"


def test_a_mapping_whose_function_is_gone_stops_and_keeps_no_other_one_from_running(place):
    stored(place)
    create = ("mapping", "create", "--event-source-arn", "s", "--starting-position", "TRIM_HORIZON", "--function-name")
    assert here(place, *create, "orders").code == 0
    code = place.root / "code"
    assert here(place, "function", "create", "others", "--handler", "app.other", "--code-dir", code).code == 0
    assert here(place, *create, "others").code == 0
    assert here(place, "function", "delete", "orders").code == 0
    place.put(["a", "b"])
    assert here(place, "function", "update", "others", "--reserved-concurrency", 0).code == 0
    done = place.run("run", "--until-caught-up", "--json")
    assert (seen(place), done.code, done.summary["remaining"]) == ([], 1, 2), done.err
    assert here(place, "function", "update", "others", "--reserved-concurrency", "none").code == 0
    done = place.run("run", "--until-caught-up", "--json", "--workers", 1)
    assert seen(place) == ["other"], done.err
    assert (done.code, done.summary["records"]) == (1, 2), done.err
    assert "make it again (streamfn function create orders)" in error_line(done)
    run = place.start("run", "--workers", 1)
    try:
        run.says("orders@s stops: its function 'orders' was deleted")
        stored(place)
        until(lambda: len(seen(place)) == 3, "the records, by the function that was made again")
        run.signal()
        assert run.wait() == 0
    finally:
        run.kill()


@trio_test
async def test_the_library_stores_lists_calls_and_runs_functions(place, monkeypatch):
    monkeypatch.setenv("SEEN", str(place.seen))
    async with streamfn.open(place.data) as session:
        functions = session.functions
        made = await functions.create(
            "orders", "app.handler", code_dir=place.root / "code", environment={"STAGE": "a"}, memory_size=1769
        )
        assert [one["FunctionName"] for one in await functions.list()] == ["orders"]
        assert await functions.get("orders") == made
        answer = await session.invoke("orders", {"n": 1})
        assert (answer.result, answer.error, answer.function_error) == ([1, "a"], None, None)
        answer = await session.invoke(lambda event, context: event["missing"], {})
        assert (answer.result, answer.function_error) == (None, "Unhandled")
        assert (answer.error["errorType"], answer.error["requestId"]) == ("KeyError", answer.request_id)
        async with session.function("orders", workers=2, environment={"STAGE": "b"}) as function:
            assert function.name == "orders"
            assert [(await session.invoke(function, {"n": n})).result for n in range(3)] == [[1, "b"]] * 3
            await session.put("s", b"x")
            assert (await session.run_until_caught_up(function, "s")).records == 1
        assert [state.name for state in await session.mappings()] == ["orders@s"]
        await session.put("s", b"y")
        assert (await session.run_until_caught_up("orders", "s")).records == 1
        await functions.update("orders", timeout=7, reserved_concurrency=3, provisioned_concurrency=2)
        assert (await session.invoke("orders")).result == [1, "a"]
        assert [one["Timeout"] for one in await functions.versions("orders")] == [7, 3, 7]
        for call, words in (
            (functions.create("orders", "app.handler", code_dir=place.root / "code"), "Function already exist: orders"),
            (functions.create("f", "app.handler", colour="red"), "unknown option 'colour'"),
            (functions.create("f", "app.handler", timeout="3"), "option timeout takes a whole number"),
            (functions.update("orders", memory_size=1), "'1' at 'memorySize'"),
            (functions.get("f"), "Function not found"),
            (session.invoke("f"), "Function not found"),
            (session.invoke("orders", {1}), "the event is not JSON"),
        ):
            with pytest.raises(streamfn.RefusedError, match=words):
                await call
        await functions.delete("orders")
        assert await functions.list() == []


def test_the_synchronous_door_leads_to_the_same(place, monkeypatch):
    monkeypatch.setenv("SEEN", str(place.seen))
    with streamfn.open_sync(place.data) as session:
        session.functions.create("orders", "app.handler", code_dir=place.root / "code", environment={"STAGE": "a"})
        assert session.invoke("orders").result == [1, "a"]
        assert session.functions.update("orders", description="new")["Description"] == "new"
        assert len(session.functions.versions("orders")) == 3
        assert session.functions.delete("orders")["FunctionName"] == "orders"
        assert session.functions.list() == []
