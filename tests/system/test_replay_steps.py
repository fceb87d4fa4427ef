"""`replay --pause-on-error` and `--diff`, as commands: questions on a terminal, answers given before, exit codes."""

import json
import os
import time

import pytest
from run_rig import until
from terminal_rig import read_until, terminal

SHARD = "shardId-000000000000"
HANDLER = """
import base64

def handler(event, context):
    for record in event["Records"]:
        text = base64.b64decode(record["kinesis"]["data"]).decode()
        if int(text) > 2:
            raise ValueError(f"{text} is too much")
"""


def replayed(place, handler, *arguments, **options):
    return place.run("replay", handler, "--stream", "s", *arguments, **options)


@pytest.fixture
def code(tmp_path):
    """A directory with a handler that fails for the numbers above 2."""
    directory = tmp_path / "code"
    directory.mkdir()
    (directory / "app.py").write_text(HANDLER)
    return directory


# ---- without a terminal


def test_without_a_terminal_the_answer_is_quit(place, code):
    place.stream(contents=range(6))
    done = replayed(place, "app.handler", "--pause-on-error", "--batch-size", "2", "--json", cwd=code)
    assert done.code == 1
    stop = done.summary["stopped_at"]
    assert (stop["shard_id"], stop["first_offset"], stop["records"], stop["attempts"]) == (SHARD, 2, 2, 1)
    assert (stop["error_type"], stop["error_message"]) == ("ValueError", "3 is too much")
    assert done.summary["answers"] == {"retry": 0, "skip": 0, "bisect": 0, "quit": 1}
    assert (done.summary["records"], done.summary["remaining"]) == (2, 4)
    assert f"streamfn: stopped: {SHARD}, offset 2: 2 records, failed once" in done.err
    assert [line.split()[-1] for line in done.err.splitlines() if line.startswith("  ")][-2:] == ["2", "3"]


def test_halves_lead_to_the_record_whose_event_is_saved_for_invoke(place, code):
    place.stream(contents=range(6))
    saved = place.root / "event.json"
    done = replayed(place, "app.handler", "--on-error", "bisect", "--save-event", saved, "--json", cwd=code)
    assert done.code == 1
    assert (done.summary["stopped_at"]["first_offset"], done.summary["stopped_at"]["records"]) == (3, 1)
    assert done.summary["saved_event"] == str(saved)
    again = place.run("invoke", "app.handler", "-e", saved, cwd=code)
    assert again.code == 1
    assert json.loads(again.out)["errorMessage"] == "3 is too much"


def test_a_retry_that_was_said_before_is_what_the_options_say(place, code):
    place.stream(contents=range(6))
    arguments = ("--on-error", "retry", "--maximum-retry-attempts", "1", "--json")
    done = replayed(place, "app.handler", *arguments, cwd=code)
    assert done.code == 3
    assert (done.summary["errors"], done.summary["discarded"], done.summary["answers"]["retry"]) == (2, 6, 2)


# ---- on a terminal


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_on_a_terminal_it_asks_and_a_retry_runs_the_code_as_it_is_by_then(place, code):
    place.stream(contents=range(6))
    arguments = ("replay", "app.handler", "--stream", "s", "--pause-on-error", "--batch-size", "2", "--logs", "none")
    with terminal(place, *arguments, cwd=code) as (process, master):
        shown = read_until(master, "[q]uit? ")
        assert "offset 2: 2 records, failed once" in shown
        assert "ValueError: 3 is too much" in shown
        assert "[r]etry, [s]kip, [b]isect, [l]ist, [q]uit? " in shown
        os.write(master, b"what\n")
        read_until(master, "[q]uit? ")
        os.write(master, b"b\n")
        assert "offset 3: 1 record, failed once" in read_until(master, "[r]etry, [s]kip, [l]ist, [q]uit? ")
        os.write(master, b"skip\n")
        assert "offset 4: 2 records" in read_until(master, "[q]uit? ")
        (code / "app.py").write_text(HANDLER.replace("> 2", "> 20"))
        read_until(master, "fresh workers have taken over")
        os.write(master, b"r\n")
        read_until(master, "1 record discarded")
        assert process.wait(10) == 3


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(("typed", "code_of_exit"), [(b"\x03", 130), (b"\x04", 1)])
def test_ctrl_c_and_ctrl_d_end_it_in_front_of_the_batch(place, code, typed, code_of_exit):
    place.stream(contents=range(6))
    arguments = ("replay", "app.handler", "--stream", "s", "--pause-on-error", "--logs", "none")
    with terminal(place, *arguments, cwd=code) as (process, master):
        read_until(master, "[q]uit? ")
        os.write(master, typed)
        read_until(master, "6 records left")
        assert process.wait(10) == code_of_exit


# ---- two handlers


def test_a_difference_is_told_with_its_record_and_exits_5(place):
    place.stream(contents=[f"{number} {'wrong' if number == 437 else ''}" for number in range(1_000)])
    assert place.caught_up("differing.before", "--limit", "10").code == 0
    before = place.checkpoints("differing.before@s")
    saved = place.root / "event.json"
    done = replayed(place, "differing.before", "--diff", "differing.after", "--save-event", saved, "--json")
    assert done.code == 5, done.err
    told = done.summary
    assert (told["records"], told["batches"], told["different"], told["uncompared"]) == (1_000, 10, 1, 0)
    (difference,) = told["differences"]
    assert (difference["first_offset"], difference["records"], difference["again"]) == (437, 1, True)
    assert difference["record"]["SequenceNumber"] == place.log()[SHARD][437]
    assert (difference["result"], difference["other_result"]) == (
        {"lengths": [9], "ok": True},
        {"lengths": [10], "ok": True},
    )
    assert len(json.loads(saved.read_text())["Records"]) == 1
    assert place.checkpoints("differing.before@s") == before


def test_equal_handlers_exit_0(place):
    place.stream(contents=["0", "1"])
    done = replayed(place, "differing.before", "--diff", "differing.after")
    assert done.code == 0
    assert done.out.startswith("differing.before and differing.after: 2 records in 1 batch, no difference, ")


def test_a_comparison_that_is_interrupted_tells_what_it_has(place):
    place.stream(contents=["x"] * 2_000)
    arguments = (
        "--stream",
        "s",
        "--batch-size",
        "1",
        "--diff",
        "engine.naps",
        "--env",
        f"NOTES={place.notes}",
        "--json",
    )
    process = place.start("replay", "engine.noted", *arguments)
    try:
        until(lambda: (place.notes / "noted").exists(), "the first invocation")
        time.sleep(0.5)
        process.signal()
        assert process.wait() == 130
    finally:
        process.kill()
    assert process.summary["complete"] is False
    assert 0 < process.summary["records"] < 2_000
    assert (process.summary["different"], process.summary["differences"]) == (0, [])
