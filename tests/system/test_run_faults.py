"""Handlers that fail in every way there is: each fault ends in Lambda's words, nothing is lost, order is kept."""

import os
import re
import time
from pathlib import Path

import pytest
from run_rig import FUNCTIONS, report_blocks, until
from witness import deliveries, strays

RECORDS = 60


@pytest.fixture
def ready(place):
    """Two shards of 30 records, one of which is `deed`."""
    place.stream(shards=2, contents=["deed" if number == 24 else number for number in range(RECORDS)])
    return place


def check_all(place):
    """Every record was delivered to a handler that came that far, once, in the order of the log."""
    assert deliveries(place.seen) == place.log()


EXITED = "RequestId: {id} Error: Runtime exited "
TIMED_OUT = "Z {id} Task timed out after 1.00 seconds\n"
FAULTS = {
    "raises": "[ERROR] Peculiar: with\nlines and é\nTraceback (most recent call last):\n",
    "unserialisable": "[ERROR] Runtime.MarshalError: Unable to marshal response: ",
    "recursive": "[ERROR] Runtime.MarshalError: Unable to marshal response: ",
    "too_large": "[ERROR] Function.ResponseSizeTooLarge: Response payload size exceeded maximum allowed payload size "
    "(6291556 bytes).\n",
    "exits": EXITED + "with error: exit status 7\nRuntime.ExitError\n",
    "exits_plainly": EXITED + "without providing a reason\nRuntime.ExitError\n",
    "interrupts": EXITED + "with error: exit status 1\nRuntime.ExitError\n",
    "vanishes": EXITED + "without providing a reason\nRuntime.ExitError\n",
    "kills_itself": EXITED + "with error: signal: killed\nRuntime.ExitError\n",
    "crashes": EXITED + "with error: signal: segmentation fault\nRuntime.ExitError\n",
    "spins": TIMED_OUT,
    "ignores_signals": TIMED_OUT,
}


def test_every_fault_is_told_as_lambda_tells_it_and_the_batch_is_tried_again(place):
    """All of them in one run, on shards of their own, between batches that are not to be touched by them."""
    place.stream(shards=len(FAULTS))
    for shard, name in enumerate(FAULTS):
        place.put(["raises", "before", name, "deed", "raises", "behind"], shard=shard)
    done = place.caught_up("unruly.by_name", "--batch-size", "2", "--workers", "4", "--timeout", "1")
    assert done.code == 0, done.err
    check_all(place)
    assert (done.summary["errors"], done.summary["records"]) == (len(FAULTS), 6 * len(FAULTS))
    for name, text in FAULTS.items():
        assert re.search(re.escape(text).replace(r"\{id\}", "[0-9a-f-]{36}"), done.err), name
    started = re.findall(r"^START RequestId: (\S+) Version: \$LATEST$", done.err, re.M)
    assert len(set(started)) == len(FAULTS)
    assert sorted(re.findall(r"^END RequestId: (\S+)$", done.err, re.M)) == sorted(started)
    report = r"^REPORT RequestId: (\S+)\tDuration: [\d.]+ ms\tBilled Duration: \d+ ms\t"
    assert sorted(re.findall(report, done.err, re.M)) == sorted(started)
    assert "streamfn/mapping" not in done.err
    assert "streamfn/pool" not in done.err


def test_the_trace_of_a_handlers_error_is_indented_as_in_lambdas_log(ready):
    done = ready.caught_up("unruly.raises", "--batch-size", "5")
    (block,) = report_blocks(done.err)
    assert re.search('\u00a0\u00a0File ".*unruly.py", line \\d+, in raises', "\n".join(block[1]))


def test_a_worker_that_can_begin_nothing_because_of_its_init_fails_the_batch(ready):
    done = ready.caught_up("cramped.handler", "--batch-size", "100", "--maximum-retry-attempts", "1")
    assert done.code == 3, done.err
    assert done.summary["records"] == 0
    assert done.summary["errors"] > 0
    assert "this worker gets no segments any more" in done.err
    assert "Runtime.ExitError" in done.err


def test_a_file_opened_over_our_descriptors_is_not_written_to(ready):
    done = ready.caught_up("unruly.closes_everything", "--batch-size", "5")
    assert done.code == 0, done.err
    check_all(ready)
    assert (ready.notes / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("handler", ["forks_and_returns", "forks_and_raises"])
def test_a_child_that_comes_back_from_the_handler_is_not_taken_for_the_worker(ready, handler):
    done = ready.caught_up(f"unruly.{handler}", "--batch-size", "10")
    assert done.code == 0, done.err
    check_all(ready)
    assert done.summary["errors"] == 0
    assert done.summary["batches"] == 6


def test_what_a_handler_leaves_running_is_gone_a_second_after_the_end(ready, tmp_path):
    marker = f"STREAMFN_TEST_MARK={tmp_path}"
    done = ready.caught_up("unruly.leaves_a_child", "--batch-size", "10", env=dict([marker.split("=", 1)]))
    assert done.code == 0
    until(lambda: not strays(marker), "the handlers' children to end", 1.0)


def test_100_mib_of_output_hold_nothing_up_and_are_cut_with_a_count(place):
    place.stream(contents=["one"])
    started = time.monotonic()
    done = place.caught_up("unruly.prints_much", "--timeout", "10")
    assert done.code == 0
    assert time.monotonic() - started < 10
    check_all(place)
    assert len(done.err) < 80 << 20
    assert re.search(r"^\[\d{7,} more bytes\]$", done.err, re.M)


def test_output_without_a_newline_and_with_control_characters_becomes_whole_plain_lines(place):
    place.stream(contents=["one"])
    done = place.caught_up("unruly.prints_without_newline")
    (block,) = report_blocks(done.err)
    shown = "\n".join(block[1])
    assert "no newline here" in shown
    assert "nor \\x1b[31mhere" in shown
    assert "\x1b" not in done.err


def test_a_handler_cannot_paint_the_terminal(place):
    place.stream(contents=["one"])
    done = place.caught_up("unruly.prints_lies")
    assert done.code == 0
    assert not set(done.err) & {"\x1b", "\x07", "\r", "\x00"}


@pytest.mark.parametrize("handler", ["replaces_stdout", "large", "answers_with_surrogate"])
def test_odd_but_allowed(place, handler):
    place.stream(contents=["one", "two"])
    done = place.caught_up(f"unruly.{handler}", "--batch-size", "1")
    assert done.code == 0, done.err
    check_all(place)


def test_logging_goes_out_in_lambdas_form(place):
    place.stream(contents=["one"])
    done = place.caught_up("unruly.logs")
    (block,) = report_blocks(done.err)
    request_id, lines, _ = block
    assert re.fullmatch(rf"\[WARNING\]\t\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z\t{request_id}\tcareful", lines[0])
    assert lines[1:] == ['{"at": "' + request_id + '"}']


def test_logs_all_tells_of_every_invocation_and_none_of_no_one(place):
    place.stream(contents=["deed", *range(29)])
    told = place.caught_up("unruly.raises", "--batch-size", "10", "--logs", "all", "--name", "a")
    assert len(report_blocks(told.err)) == 4
    place.notes.joinpath("met-deed").unlink()
    silent = place.caught_up("unruly.raises", "--batch-size", "10", "--logs", "none", "--name", "b")
    assert silent.summary["errors"] == 1
    assert "REPORT" not in silent.err
    assert "ERROR" not in silent.err


@pytest.mark.conformance(
    "retries/only-the-shard-waits",
    source="documented",
    rule="While a batch is retried its shard is paused, and the others go on.",
)
def test_a_poison_batch_is_retried_with_backoff_while_the_other_shard_goes_on(place):
    place.stream(shards=2)
    place.put(["deed", *range(9)], shard=0)
    place.put(range(500), shard=1)
    first, second = (shard.id for shard in place.opened().shards)
    done = place.caught_up("unruly.fails_thrice", "--batch-size", "5", "--workers", "2")
    assert done.code == 0
    check_all(place)
    assert done.summary["errors"] == 3
    times = [float(line) for line in (place.notes / "attempts").read_text().split()]
    assert len(times) == 4
    assert times[-1] - times[0] > 0.05
    order = [line.split()[0] for line in place.seen.read_text().splitlines()]
    assert order.index(first) > 20  # most of the other shard was done before the poison was
    assert order.count(second) == 100


def test_four_workers_keep_the_order_of_each_of_many_shards(place):
    place.stream(shards=8, contents=range(4000))
    done = place.caught_up("seen.handler", "--batch-size", "7", "--workers", "4")
    assert done.code == 0
    check_all(place)
    pids = {line.split()[1] for line in place.seen.read_text().splitlines()}
    assert len(pids) == 4


def test_a_worker_killed_from_outside_is_replaced_and_nothing_is_lost(place):
    place.stream(shards=4, contents=range(400))
    run = place.start("run", "seen.slow", "--stream", "s", "--until-caught-up", "--batch-size", "2", "--json")
    victims = set()
    for _ in range(3):
        fresh = until(lambda: {int(line.split()[1]) for line in lines(place)} - victims, "a worker at work")
        victim = fresh.pop()
        victims.add(victim)
        os.kill(victim, 9)
    assert run.wait() == 0, run.err
    assert run.summary["errors"] <= 3
    for shard, numbers in place.log().items():
        assert list(dict.fromkeys(deliveries(place.seen)[shard])) == numbers


def lines(place):
    text = place.seen.read_text() if place.seen.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


GOOD = f"import sys\nsys.path.append({str(FUNCTIONS)!r})\nfrom seen import handler\n"


def test_a_module_that_fails_in_a_later_init_is_told_and_tried_again_until_it_works(place):
    code = place.root / "code"
    code.mkdir()
    (code / "mine.py").write_text(GOOD)
    place.stream(contents=range(10))
    with place.following("mine.handler", cwd=code) as run:
        until(lambda: len(lines(place)) == 1, "the first batch")
        (code / "mine.py").write_text("print('broken now')\nraise ValueError('deployed badly')\n")
        (zygote,) = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        os.kill(int(zygote), 9)
        place.put(range(5))
        run.says("mine.handler@s gets no new worker, and tries again: deployed badly")
        assert "broken now\n[ERROR] ValueError: deployed badly\nTraceback" in run.err
        (code / "mine.py").write_text(GOOD)
        until(lambda: len(lines(place)) == 2, "the next batch")
        run.signal()
        assert run.wait() == 0
    check_all(place)


def test_a_module_that_starts_a_thread_is_imported_by_each_worker(place):
    code = place.root / "code"
    code.mkdir()
    thread = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    (code / "mine.py").write_text(GOOD + thread + "print('imported', threading.active_count())\n")
    place.stream(shards=2, contents=range(40))
    done = place.caught_up("mine.handler", "--batch-size", "5", "--workers", "2", cwd=code)
    assert done.code == 0, done.err
    check_all(place)
