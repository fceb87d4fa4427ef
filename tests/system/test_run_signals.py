"""Signals: the first one drains at the edge of a batch and says where it goes on, the second one ends it at once."""

import signal
import time

import pytest
from run_rig import until
from test_run_faults import strays
from witness import deliveries


def delivered(place):
    return sum(map(len, deliveries(place.seen).values()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_followed_run_drains_says_where_it_resumes_and_the_next_one_goes_on_exactly_there(place, number):
    place.stream(shards=2, contents=range(2000))
    with place.following("seen.slow", "--batch-size", "10", "--workers", "2") as run:
        until(lambda: delivered(place) > 100, "deliveries")
        run.signal(number)
        assert run.wait() == 0, run.err
    first = deliveries(place.seen)
    assert delivered(place) < 2000
    offsets = place.checkpoints("seen.slow@s")
    resumes = ", ".join(f"{shard} offset {offset}" for shard, offset in offsets.items())
    assert f"resumes at {resumes}\n" in run.err
    assert {shard: len(numbers) for shard, numbers in first.items()} == offsets
    again = place.caught_up("seen.handler", "--name", "seen.slow@s")
    assert again.code == 0
    assert again.summary["records"] == 2000 - sum(offsets.values())
    assert deliveries(place.seen) == place.log()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_until_caught_up_that_a_signal_ended_before_says_so_by_its_code(place, number, code):
    place.stream(contents=range(2000))
    run = place.start("run", "seen.slow", "--stream", "s", "--until-caught-up", "--batch-size", "10", "--json")
    until(lambda: delivered(place) > 50, "deliveries")
    run.signal(number)
    assert run.wait() == code
    assert run.summary["records"] == delivered(place) == sum(place.checkpoints("seen.slow@s").values())
    assert run.summary["remaining"] == 2000 - delivered(place)


def test_a_running_handler_is_waited_for_and_its_work_counts(place):
    place.stream(contents=["one"])
    with place.following("unruly.naps", "--timeout", "10", env={"NAP": "1.5"}) as run:
        until((place.notes / "begun").exists, "the nap")
        began = time.monotonic()
        run.signal()
        assert run.wait() == 0
        assert time.monotonic() - began > 1
    assert place.checkpoints("unruly.naps@s") == {"shardId-000000000000": 1}
    assert delivered(place) == 1


def test_a_second_signal_does_not_wait_and_leaves_nothing(place):
    place.stream(contents=["one"])
    marker = f"STREAMFN_TEST_MARK={place.root}"
    environment = {"NAP": "30", **dict([marker.split("=", 1)])}
    with place.following("unruly.naps", "--timeout", "60", env=environment) as run:
        until((place.notes / "begun").exists, "the nap")
        run.signal()
        run.says("again to stop at once")
        began = time.monotonic()
        run.signal(signal.SIGTERM)
        assert run.wait() == 143
        assert time.monotonic() - began < 2
        until(lambda: not strays(marker), "every process to be gone", 1.0)
    assert "Traceback" not in run.err
    assert place.checkpoints("unruly.naps@s") == {"shardId-000000000000": 0}
    assert place.caught_up("seen.handler", "--name", "unruly.naps@s").summary["records"] == 1


def test_a_lane_that_retries_for_ever_is_not_waited_for(place):
    place.stream(shards=2)
    place.put(["deed", *range(10)], shard=0)
    place.put(range(10), shard=1)
    with place.following("unruly.always_fails", "--batch-size", "1") as run:
        run.says("failed")
        until(lambda: delivered(place) == 10, "the other shard")
        began = time.monotonic()
        run.signal()
        assert run.wait() == 0
        assert time.monotonic() - began < 2
    assert place.checkpoints("unruly.always_fails@s") == {"shardId-000000000000": 0, "shardId-000000000001": 10}


def test_what_never_catches_up_says_what_it_waits_for_and_ends_on_a_signal(place):
    place.stream(contents=["deed", 1, 2])
    run = place.start("run", "unruly.always_fails", "--stream", "s", "--until-caught-up", "--batch-size", "1")
    run.says(r"1 record from offset 0 failed \d+ times?, again .*RuntimeError: every time")
    run.signal()
    assert run.wait() == 130


def test_a_signal_while_it_starts_ends_it_with_nothing_done(place):
    place.stream(contents=["one"])
    marker = f"STREAMFN_TEST_MARK={place.root}"
    environment = {"INIT_NAP": "30", **dict([marker.split("=", 1)])}
    with place.following("slow_start.handler", env=environment) as run:
        until((place.notes / "init").exists, "Init")
        began = time.monotonic()
        run.signal(signal.SIGTERM)
        assert run.wait() == 143
        assert time.monotonic() - began < 2
        until(lambda: not strays(marker), "every process to be gone", 1.0)
    assert "Traceback" not in run.err
    assert place.mapping("slow_start.handler@s") is None


def test_signals_at_any_moment_of_the_start_leave_no_traceback_and_no_process(place):
    place.stream(contents=["one"])
    marker = f"STREAMFN_TEST_MARK={place.root}"
    for step in range(6):
        with place.following("seen.handler", env=dict([marker.split("=", 1)])) as run:
            # The moment is what is tested: anywhere between exec and following.
            time.sleep(0.1 + 0.08 * step)
            run.signal(signal.SIGTERM)
            assert run.wait() in (0, 143, -signal.SIGTERM)
        assert "Traceback" not in run.err
    until(lambda: not strays(marker), "every process to be gone", 1.0)


def test_a_closed_standard_error_does_not_stop_a_run(place):
    place.stream(contents=range(100))
    import subprocess

    command = place.command("run", "unruly.logs", "--stream", "s", "--until-caught-up", "--batch-size", "1")
    from run_rig import FUNCTIONS

    pipe = subprocess.Popen(command, cwd=FUNCTIONS, env=place.environment, stderr=subprocess.PIPE)
    pipe.stderr.read(10)
    pipe.stderr.close()
    assert pipe.wait(15) == 0
    assert delivered(place) == 100


def test_a_signal_that_asks_for_nothing_we_know_does_from_outside_what_it_always_does(place):
    place.stream(contents=["one"])
    with place.following("seen.handler") as run:
        until(place.seen.exists, "the delivery")
        run.signal(signal.SIGUSR1)
        assert run.wait() == -signal.SIGUSR1
