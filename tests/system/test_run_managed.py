"""`streamfn run` without a handler: every mapping that `mapping create` made, and requests to them while they run."""

import base64
import io
import json
import random
import signal
import time
from contextlib import redirect_stderr, redirect_stdout

import pytest
from run_rig import FUNCTIONS, error_line, until
from test_run_damage import append_messages, flip
from witness import deliveries, invocations

from streamfn.cli import app
from streamfn.log.producer.producer import Producer
from streamfn.state.store import Store
from streamfn.types import NewRecord


class Managed:
    """A place, with `streamfn mapping` on it."""

    def __init__(self, place):
        self.place = place

    def __call__(self, *arguments, code=0):
        """The answer to a request, made in this process; with another `code` the one line that says why not."""
        found, out, err = self.here("mapping", *arguments, "--json")
        assert found == code, err
        return json.loads(out) if code == 0 else err.removeprefix("streamfn: error: ")

    def here(self, *arguments):
        """A command in this process: its exit code, and what it said."""
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = app.run([*map(str, arguments), "--data-dir", str(self.place.data)])
            out.flush()
        return code, out.buffer.getvalue().decode(), err.getvalue()

    def gone(self, uuid):
        """Wait until it is not found any more."""
        until(lambda: all(one["UUID"] != uuid for one in self("list")["EventSourceMappings"]), f"{uuid} to be gone")

    def create(self, handler="seen.handler", stream="s", *more, position="TRIM_HORIZON"):
        named = ("--function-name", handler, "--event-source-arn", stream, "--starting-position", position)
        return self("create", *named, *more)["UUID"]

    def state(self, uuid, wanted):
        """Wait until `show` says so."""
        until(lambda: self("show", uuid)["State"] == wanted, f"{uuid} to be {wanted}")

    def run(self, *arguments):
        return self.place.start("run", "--workers", "1", *arguments)

    def caught_up(self, *arguments):
        return self.place.run("run", "--until-caught-up", "--json", "--workers", "1", *arguments)

    def delivered(self):
        return sum(map(len, deliveries(self.place.seen).values()))

    def all_delivered(self, records):
        until(lambda: self.delivered() >= records, f"{records} deliveries")


@pytest.fixture
def managed(place, monkeypatch):
    monkeypatch.chdir(FUNCTIONS)
    return Managed(place)


@pytest.fixture
def running(managed):
    """Start `streamfn run`; whatever still runs is killed at the end."""
    started = []

    def start(*arguments):
        started.append(managed.run(*arguments))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.mark.conformance(
    "mappings/run-runs-what-create-made",
    source="ours",
    rule="`run` without a handler runs the enabled mappings that `mapping create` made, not those that `run HANDLER` "
    "left behind; with --json it prints one object at its end.",
)
def test_it_runs_what_create_made_and_is_enabled_and_sums_it_up(managed, place):
    place.stream("s", shards=2, contents=range(50))
    place.stream("t", contents=range(20))
    assert place.caught_up("seen.printer", "--limit", "5").code == 0  # leaves a mapping behind
    place.seen.unlink()
    first, second = managed.create("seen.handler", "s", "--batch-size", "10"), managed.create("seen.handler", "t")
    managed.create("seen.poison", "t", "--no-enabled")
    process = managed.caught_up()
    assert process.code == 0, process.err
    done = process.summary
    assert (done["records"], done["remaining"], done["errors"], done["discarded"]) == (70, 0, 0, 0)
    assert [(one["UUID"], one["mapping"], one["records"]) for one in done["mappings"]] == [
        (first, "seen.handler@s", 50),
        (second, "seen.handler@t", 20),
    ]
    assert managed.delivered() == 70
    assert len({pid for _, pid, _ in invocations(place.seen)}) == 1  # of one handler, so they share its worker
    assert managed("show", first)["LastModified"] > 0
    again = managed.caught_up()
    assert (again.code, again.summary["records"], again.summary["records_per_second"]) == (0, 0, 0)


@pytest.mark.conformance(
    "mappings/latest-is-the-end-at-creation",
    source="ours",
    rule="A mapping that starts at LATEST begins at the log's end at the moment of its creation, exactly.",
    differs="On AWS records put between the creation and the first poll can be missed.",
)
def test_latest_is_the_log_s_end_when_the_mapping_is_made(managed, place):
    place.stream(contents=range(10))
    managed.create(position="LATEST")
    place.put(range(10, 13))
    assert managed.caught_up().summary["records"] == 3
    (numbers,) = place.log().values()
    assert deliveries(place.seen) == {"shardId-000000000000": numbers[10:]}


@pytest.mark.conformance(
    "mappings/update-at-a-batch-edge",
    source="ours",
    rule="A request to a mapping that runs takes effect at the edge of a batch: nothing is lost, repeated "
    "or reordered.",
)
def test_updates_take_effect_at_the_edge_of_a_batch_and_nothing_is_repeated(managed, place, running):
    place.stream(shards=2, contents=range(400))
    uuid = managed.create("seen.slow", "s", "--batch-size", "4")
    process = running()
    managed.all_delivered(40)
    for size in (7, 5, 9):
        assert managed("update", uuid, "--batch-size", size)["State"] == "Updating"
        managed.state(uuid, "Enabled")
    place.put(range(400, 436), shard=0)
    managed.all_delivered(436)
    process.signal()
    assert process.wait() == 0, process.err
    assert deliveries(place.seen) == place.log()
    sizes = [len(numbers) for _, _, numbers in invocations(place.seen)]
    assert max(sizes) == 9
    assert sizes[:10] == [4] * 10


@pytest.mark.conformance(
    "lanes/drained-level",
    source="ours",
    rule="Before a mapping stops or its ParallelizationFactor changes, the lanes that are behind others of their shard "
    "catch up with them, so that nothing is delivered twice; a retry is not waited for.",
)
def test_a_changed_factor_and_a_drained_run_repeat_nothing(managed, place, running):
    stream = place.stream()
    keys = ["the lane that lags" if number % 3 else f"key {number}" for number in range(300)]
    with Producer(stream) as producer:
        producer.submit([NewRecord(b"", key) for key in keys]).result()
    uuid = managed.create("seen.slow", "s", "--batch-size", "4", "--parallelization-factor", "4")
    process = running()
    managed.all_delivered(40)
    managed("update", uuid, "--parallelization-factor", "3")
    managed.state(uuid, "Enabled")
    managed.all_delivered(120)
    process.signal()
    assert process.wait() == 0, process.err
    assert managed.caught_up().code == 0
    delivered = [number for _, _, numbers in invocations(place.seen) for number in numbers]
    assert sorted(delivered) == sorted(place.log()["shardId-000000000000"])


def test_a_mapping_is_disabled_enabled_made_and_deleted_while_others_run(managed, place, running):
    place.stream("s", contents=range(5))
    place.stream("t", contents=range(5))
    first = managed.create()
    process = running()
    managed.all_delivered(5)
    assert managed("disable", first)["State"] == "Disabling"
    managed.state(first, "Disabled")
    place.put(range(5, 8))
    second = managed.create("seen.handler", "t")  # made while it runs, and run
    managed.all_delivered(10)
    managed.state(second, "Enabled")
    assert managed.delivered() == 10  # nothing of what was put for the disabled one
    assert managed("delete", second)["State"] == "Deleting"
    managed.gone(second)
    place.put(range(5, 8), "t")
    assert managed("enable", first)["State"] == "Enabling"
    managed.all_delivered(13)
    process.signal()
    assert process.wait() == 0, process.err
    assert managed.delivered() == 13
    assert [one["UUID"] for one in managed("list")["EventSourceMappings"]] == [first]


def test_a_storm_of_requests_ends_as_the_last_one_said(managed, place, running):
    place.stream(contents=range(100))
    uuid = managed.create("seen.handler", "s", "--batch-size", "5")
    process = running()
    managed.all_delivered(100)
    for number in range(6):
        managed("disable", uuid)
        managed("update", uuid, "--batch-size", 1 + number)
        managed("enable", uuid)
        place.put(range(3))
    managed.all_delivered(118)
    managed.state(uuid, "Enabled")
    process.signal()
    assert process.wait() == 0, process.err
    assert deliveries(place.seen) == place.log()


def test_an_update_does_not_wait_for_a_batch_that_fails_for_ever(managed, place, running):
    place.stream(contents=["poison"])
    uuid = managed.create("failing.poison")
    process = running()
    process.says("poisoned")
    managed("update", uuid, "--function-name", "seen.handler")
    managed.all_delivered(1)
    process.signal()
    assert process.wait() == 0, process.err
    assert managed("show", uuid)["FunctionArn"].endswith(":seen-handler")


def test_a_process_that_is_killed_leaves_requests_that_are_in_effect_with_the_next_one(managed, place, running):
    place.stream(contents=range(3))
    uuid, other = managed.create("seen.held"), managed.create("seen.handler")
    process = running()
    managed.all_delivered(6)
    assert managed("update", uuid, "--batch-size", 2)["State"] == "Updating"
    assert managed("delete", other)["State"] == "Deleting"
    managed.gone(other)
    time.sleep(0.1)
    assert managed("show", uuid)["State"] == "Updating"  # its batch is still in the handler
    process.popen.send_signal(signal.SIGKILL)
    process.wait()
    managed.state(uuid, "Enabled")
    (place.notes / "go").touch()
    again = managed.caught_up()
    assert (again.code, again.summary["records"]) == (0, 3), again.err
    assert [len(numbers) for _, _, numbers in invocations(place.seen)][-2:] == [2, 1]


def test_a_deletion_that_nobody_could_finish_is_finished_by_the_next_request(managed, place, running):
    place.stream(contents=range(3))
    uuid = managed.create("seen.held", "s", "--name", "mine")
    process = running()
    managed.all_delivered(3)
    managed("delete", uuid)
    process.popen.send_signal(signal.SIGKILL)
    process.wait()
    assert "does not exist" in managed("show", uuid, code=2)
    assert managed.create("seen.held", "s", "--name", "mine") != uuid


def test_signals_are_those_of_a_run_of_one(managed, place, running):
    place.stream(contents=range(2000))
    managed.create("seen.slow", "s", "--batch-size", "5")
    process = running("--until-caught-up", "--json")
    managed.all_delivered(20)
    process.signal(signal.SIGTERM)
    assert process.wait() == 143, process.err
    assert process.summary["remaining"] > 0
    assert process.summary["records"] == managed.delivered()  # drained: all of it is durable


def test_a_run_that_waits_for_a_first_mapping_begins_when_it_is_enabled(managed, place, running):
    place.stream(contents=range(3))
    uuid = managed.create("seen.handler", "s", "--no-enabled")
    process = running()
    process.says("no mapping is enabled: waiting for one")
    managed("enable", uuid)
    managed.all_delivered(3)
    process.signal()
    assert process.wait() == 0, process.err


def test_it_exits_3_where_a_mapping_discarded_records(managed, place):
    place.stream(contents=["poison", "fine"])
    managed.create("failing.poison", "s", "--batch-size", "1", "--maximum-retry-attempts", "0")
    process = managed.caught_up()
    assert (process.code, process.summary["discarded"], process.summary["records"]) == (3, 1, 1), process.err


def test_every_option_of_a_mapping_reaches_its_run(managed, place):
    kept = [json.dumps({"keep": True, "what": what}) for what in [*range(20), "poison", 21]]
    place.stream(contents=["no", *kept, '{"keep": false}'])
    pattern = json.dumps({"data": {"keep": [True]}})
    uuid = managed.create(
        "failing.poison", "s", "--batch-size", "8", "--parallelization-factor", "3", "--maximum-retry-attempts", "0",
        "--bisect-batch-on-function-error", "--maximum-record-age-in-seconds", "604800",
        "--filter-criteria", json.dumps({"Filters": [{"Pattern": pattern}]}),
        "--destination-config", "OnFailure={Destination=arn:aws:sqs:us-east-1:000000000000:failed}",
    )  # fmt: skip
    process = managed.caught_up()
    assert process.code == 3, process.err
    done = process.summary
    assert (done["records"], done["discarded"], done["filtered"], done["on_failure_pending"]) == (21, 1, 2, 0)
    counts = managed("show", uuid, "--metrics")
    assert (counts["PolledEventCount"], counts["FilteredOutEventCount"], counts["DroppedEventCount"]) == (24, 2, 0)
    assert counts["OnFailureDestinationDeliveredEventCount"] == 1
    (record,) = place.run("tail", "failed", "--from", "TRIM_HORIZON", "--json").out.splitlines()
    told = json.loads(base64.b64decode(json.loads(record)["Data"]))
    assert told["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert told["requestContext"]["functionArn"].endswith(":function:failing-poison")
    assert told["KinesisBatchInfo"]["batchSize"] == 1
    place.put(kept[:1])
    managed(
        "update", uuid, "--function-response-types", "ReportBatchItemFailures", "--function-name", "failing.reports"
    )
    assert managed.caught_up().summary["records"] == 1


@pytest.mark.conformance(
    "discards/function-arn-as-configured",
    source="recorded",
    rule="The on-failure record has the mapping's FunctionArn as it was configured, qualified or not.",
)
def test_an_on_failure_record_has_the_function_s_arn_as_it_was_configured(managed, place):
    place.stream(contents=["poison"])
    to = (
        "--maximum-retry-attempts",
        "0",
        "--destination-config",
        f"OnFailure={{Destination=file:{place.root}/failed}}",
    )
    managed.create("failing.poison:$LATEST", "s", *to)
    assert managed.caught_up().code == 3
    (path,) = (place.root / "failed").iterdir()
    told = json.loads(path.read_text())
    assert told["requestContext"]["functionArn"].endswith(":function:failing-poison:$LATEST")


def test_kills_in_the_middle_of_requests_lose_nothing_and_keep_the_order(managed, place):
    place.stream(shards=2, contents=range(200))
    chance = random.Random(6)
    uuid = managed.create("seen.slow", "s", "--batch-size", "3", "--parallelization-factor", "2")
    for _ in range(3):
        process = managed.run()
        before = managed.delivered()
        managed.all_delivered(before + 5)
        managed(
            "update", uuid, "--batch-size", chance.randrange(1, 6), "--parallelization-factor", chance.randrange(1, 4)
        )
        time.sleep(chance.random() / 4)
        process.kill()
    managed("update", uuid, "--function-name", "seen.handler", "--batch-size", 50)
    process = managed.caught_up()
    assert process.code == 0, process.err
    assert managed("show", uuid)["State"] == "Enabled"
    assert {shard: set(numbers) for shard, numbers in deliveries(place.seen).items()} == {
        shard: set(numbers) for shard, numbers in place.log().items()
    }


# ---- what it has done


@pytest.mark.conformance(
    "mappings/last-processing-result",
    source="recorded",
    rule="LastProcessingResult is `No records processed`, then `OK` after a success; after a failure, by the guide, "
    "`PROBLEM: Function call failed`.",
)
def test_the_last_result_follows_what_the_handler_does(managed, place, running):
    place.stream()
    uuid = managed.create("seen.poison", "s")
    process = running()

    def result(wanted):
        until(lambda: managed("show", uuid)["LastProcessingResult"] == wanted, wanted)

    result("No records processed")
    place.put(["fine"])
    result("OK")
    place.put(["poison"])  # fails three times
    result("PROBLEM: Function call failed")
    result("OK")
    process.signal()
    assert process.wait() == 0, process.err


def metrics(polled, filtered_out, invoked, failed_invoke, dropped, delivered):
    return {
        "PolledEventCount": polled,
        "FilteredOutEventCount": filtered_out,
        "InvokedEventCount": invoked,
        "FailedInvokeEventCount": failed_invoke,
        "DroppedEventCount": dropped,
        "OnFailureDestinationDeliveredEventCount": delivered,
    }


@pytest.mark.conformance(
    "mappings/event-counts",
    source="documented",
    rule="The event counts of a mapping: polled, filtered out, invoked (again for every delivery), failed, dropped "
    "without a destination, delivered to one; kept over all runs.",
)
def test_event_counts_add_up_over_all_runs(managed, place):
    place.stream(contents=["a", "poison", "b", "c"])
    retries = ("--maximum-retry-attempts", "1")
    uuid = managed.create("failing.poison", "s", "--batch-size", "2", *retries)
    to = ("--function-response-types", "ReportBatchItemFailures", "--destination-config", "OnFailure={Destination=f}")
    other = managed.create("failing.reports", "s", "--batch-size", "4", *retries, *to)
    assert managed.caught_up().code == 3
    assert managed("show", uuid, "--metrics") == {"UUID": uuid, **metrics(4, 0, 6, 4, 2, 0)}
    # a; then poison, b, c again and again; then they are discarded, since what is left is never divided
    assert managed("show", other, "--metrics") == {"UUID": other, **metrics(4, 0, 10, 9, 0, 3)}
    place.put(["d"])
    assert managed.caught_up().code == 0
    assert managed("show", uuid, "--metrics") == {"UUID": uuid, **metrics(5, 0, 7, 4, 2, 0)}


# ---- what goes wrong


def test_a_handler_that_cannot_be_imported_ends_it_at_the_start(managed, place):
    place.stream(contents=range(3))
    managed.create()
    managed.create("broken.raises.handler")
    process = managed.caught_up()
    assert process.code == 1
    assert "cannot load handler 'broken.raises.handler'" in error_line(process)
    assert managed.delivered() == 0


def test_a_handler_that_cannot_be_imported_later_leaves_the_others_running(managed, place, running):
    place.stream("s", contents=range(3))
    place.stream("t", contents=range(3))
    first = managed.create()
    managed.create("seen.handler", "t")
    process = running()
    managed.all_delivered(6)
    managed("update", first, "--function-name", "broken.raises.handler")
    process.says("cannot load handler 'broken.raises.handler'")
    place.put(range(3), "t")
    managed.all_delivered(9)
    place.put(range(3), "s")
    managed("update", first, "--function-name", "seen.handler")
    managed.all_delivered(12)
    process.signal()
    assert process.wait() == 0, process.err


def test_one_mapping_s_damage_is_its_own(managed, place, running):
    place.stream("s")
    place.stream("t", contents=range(20))
    shard = append_messages(place, 0, 6)
    flip(shard, 30)
    managed.create("seen.handler", "s")
    other = managed.create("seen.handler", "t")
    process = running()
    process.says(r"seen\.handler@s stops: .*damaged")
    place.put(range(3), "t")
    managed.all_delivered(30 + 23)
    managed.state(other, "Enabled")
    process.signal()
    assert process.wait() == 1, process.err
    assert "damaged" in error_line(process)
    done = managed.caught_up()
    assert (done.code, [one["records"] for one in done.summary["mappings"]]) == (1, [0, 0]), done.err
    assert managed.delivered() == 53


def test_a_second_run_names_the_first_one_s_pid(managed, place, running):
    place.stream(contents=range(3))
    managed.create()
    process = running()
    managed.all_delivered(3)
    second = managed.caught_up()
    assert second.code == 1
    assert f"the mapping 'seen.handler@s' is already running in process {process.pid}" in error_line(second)


def test_without_a_mapping_it_says_how_to_make_one(managed, place):
    place.stream()
    code, _, err = managed.here("run", "--until-caught-up")
    assert (code, "streamfn mapping create" in err) == (2, True)
    assert not (place.data / "state.db").exists()


@pytest.mark.parametrize(
    "option",
    [("--stream", "s"), ("--batch-size", "5"), ("--limit", "3"), ("--name", "x"), ("--debug",),
     ("--starting-position", "LATEST"), ("--maximum-retry-attempts", "3"), ("--filter-criteria", "{}")],
    ids=lambda option: option[0],
)  # fmt: skip
def test_what_belongs_to_a_mapping_is_refused(managed, place, option):
    place.stream()
    managed.create()
    code, _, err = managed.here("run", "--until-caught-up", *option)
    assert (code, f"{option[0]} goes with a HANDLER" in err) == (2, True)


def test_a_run_with_a_handler_does_not_take_its_mapping_by_name(managed, place):
    place.stream(contents=range(3))
    managed.create("seen.handler", "s", "--name", "mine")
    process = place.caught_up("seen.printer", "--name", "mine")
    assert process.code == 2
    assert "'mine' was made by `mapping create`" in error_line(process)
    assert place.caught_up("seen.handler").code == 0  # a mapping of its own


def test_a_stream_that_was_deleted_is_named(managed, place):
    place.stream()
    managed.create()
    assert place.run("delete", "s", "--yes").code == 0
    process = managed.caught_up()
    assert process.code == 2
    assert "unknown stream 's'" in error_line(process)
    place.stream(contents=range(4))
    assert managed.caught_up().summary["records"] == 4  # another stream of its name: it starts anew


# ---- reset-checkpoint


@pytest.mark.conformance(
    "mappings/reset-checkpoint",
    source="ours",
    rule="`mapping reset-checkpoint` puts a mapping at TRIM_HORIZON, LATEST, a time or a sequence number, not while it "
    "runs unless it is disabled; AWS has no such operation.",
)
def test_a_checkpoint_is_put_where_it_is_asked_to_be(managed, place):
    place.stream(shards=2, contents=range(20))
    shards = place.log()
    first, second = shards
    uuid = managed.create()
    assert managed.caught_up().summary["records"] == 20

    def reset(position):
        return managed("reset-checkpoint", uuid, "--to", position)["Offsets"]

    assert reset("TRIM_HORIZON") == {first: 0, second: 0}
    assert reset("LATEST") == {first: 10, second: 10}
    assert reset("1980-01-01") == {first: 0, second: 0}
    assert reset("2100-01-01T00:00:00Z") == {first: 10, second: 10}
    assert reset(shards[second][7]) == {second: 7}
    place.seen.unlink()
    assert managed.caught_up().summary["records"] == 3
    assert deliveries(place.seen) == {second: shards[second][7:]}


def test_a_reset_drops_the_state_of_a_window_that_is_pending(managed, place):
    place.stream(contents=range(5))
    uuid = managed.create("windowed.collect", "s", "--tumbling-window-in-seconds", "900")
    assert managed.caught_up().code == 0

    def pending():
        with Store.open(place.data / "state.db", create=False, read_only=True) as store:
            return store.windows(uuid)

    assert pending()
    managed("reset-checkpoint", uuid, "--to", "TRIM_HORIZON")
    assert not pending()


def test_a_mapping_that_a_run_left_behind_is_reset_too(managed, place):
    place.stream(contents=range(5))
    assert place.caught_up("seen.handler").code == 0
    managed("reset-checkpoint", "seen.handler@s", "--to", "TRIM_HORIZON")
    assert place.caught_up("seen.handler").summary["records"] == 5


def test_a_mapping_that_runs_is_not_reset_unless_it_is_disabled(managed, place, running):
    place.stream(contents=range(5))
    uuid = managed.create()
    process = running()
    managed.all_delivered(5)
    line = managed("reset-checkpoint", uuid, "--to", "TRIM_HORIZON", code=1)
    assert f"already running in process {process.pid}; disable it, or stop that process" in line
    managed("disable", uuid)
    managed.state(uuid, "Disabled")
    managed("reset-checkpoint", uuid, "--to", "TRIM_HORIZON")
    managed("enable", uuid)
    managed.all_delivered(10)
    process.signal()
    assert process.wait() == 0, process.err


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        ("noon", "--to takes TRIM_HORIZON, LATEST, a time, or a sequence number, not 'noon'"),
        ("4" * 56, "has no record with sequence number 444"),
        ("trim_horizon", "--to takes TRIM_HORIZON"),
        ("", "--to takes TRIM_HORIZON"),
    ],
)
def test_a_position_that_is_none_is_refused(managed, place, position, reason):
    place.stream(contents=range(5))
    uuid = managed.create()
    before = place.checkpoints(uuid)
    assert reason in managed("reset-checkpoint", uuid, "--to", position, code=2)
    assert "does not exist" in managed("reset-checkpoint", "other", "--to", "LATEST", code=2)
    assert place.checkpoints(uuid) == before
