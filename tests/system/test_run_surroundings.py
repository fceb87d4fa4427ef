"""What a handler sees around it: context, environment, directory, path; and a debugger on a terminal."""

import json
import os
import platform
import re
import sys

import pytest
from run_rig import FUNCTIONS, error_line
from terminal_rig import read_until, terminal


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What the handler saw, and the place it ran in."""
    from run_rig import Place

    place = Place(tmp_path_factory.mktemp("surroundings"))
    place.stream(contents=["one"])
    environment = {"GIVEN": "user's", "AWS_REGION": "eu-west-1", "TZ": "Asia/Tokyo"}
    os.environ.pop("AWS_DEFAULT_REGION", None)
    done = place.caught_up(
        "unruly.surroundings", "--env", "ADDED=a=b", "--env", "GIVEN=again", "--timeout", "7", env=environment
    )
    assert done.code == 0, done.err
    found = json.loads((place.notes / "surroundings").read_text())
    found["err"] = done.err
    return found


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library cannot be told")
def test_what_an_event_leaves_behind_is_there_for_the_next_one(tmp_path):
    from run_rig import Place

    place = Place(tmp_path)
    place.stream(contents=["one"])
    done = place.caught_up("unruly.counts_faults")
    assert done.code == 0, done.err
    assert float((place.notes / "faults").read_text()) < 10


def test_the_context_has_every_attribute_as_lambda_has_it(seen):
    context = seen["context"]
    assert context["function_name"] == "unruly-surroundings"
    assert context["function_version"] == "$LATEST"
    assert context["invoked_function_arn"] == "arn:aws:lambda:us-east-1:000000000000:function:unruly-surroundings"
    assert context["memory_limit_in_mb"].isdigit()
    uuid = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert re.fullmatch(uuid, context["aws_request_id"])
    assert context["log_group_name"] == "/aws/lambda/unruly-surroundings"
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", context["log_stream_name"])
    assert context["client_context"] is None
    assert context["tenant_id"] is None
    assert seen["identity"] == [None, None]
    assert 6000 < seen["remaining"] <= 7000
    assert 6000 < seen["deadline"] <= 7000
    assert f"START RequestId: {context['aws_request_id']} " in seen["err"]
    assert "logged" in seen["err"]


def test_the_environment_is_the_users_plus_lambdas_names(seen):
    environment = seen["environment"]
    assert environment["GIVEN"] == "again"
    assert environment["ADDED"] == "a=b"
    assert environment["AWS_REGION"] == "eu-west-1"
    assert environment["AWS_DEFAULT_REGION"] == "us-east-1"
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == "unruly-surroundings"
    assert environment["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST"
    assert environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == seen["context"]["memory_limit_in_mb"]
    assert environment["AWS_LAMBDA_LOG_GROUP_NAME"] == seen["context"]["log_group_name"]
    assert environment["AWS_LAMBDA_LOG_STREAM_NAME"] == seen["context"]["log_stream_name"]
    assert environment["AWS_LAMBDA_INITIALIZATION_TYPE"] == "on-demand"
    assert environment["AWS_EXECUTION_ENV"] == f"AWS_Lambda_python3.{sys.version_info.minor}"
    assert environment["_HANDLER"] == "unruly.surroundings"
    assert environment["LAMBDA_TASK_ROOT"] == str(FUNCTIONS)
    assert environment["TZ"] == ":UTC"
    assert seen["hour"] == 0
    assert environment["PATH"] == os.environ["PATH"]
    assert "AWS_LAMBDA_RUNTIME_API" not in environment


def test_the_directory_and_the_path_begin_with_the_users_code(seen):
    assert seen["cwd"] == str(FUNCTIONS)
    assert seen["path"][0] == str(FUNCTIONS)
    assert seen["path"].count(str(FUNCTIONS)) == 1
    assert seen["name"] == "unruly"


def test_the_worker_has_loaded_neither_trio_nor_pyarrow_nor_click(seen):
    assert not {"trio", "pyarrow", "click", "rich", "sqlite3"} & set(seen["modules"])


def test_standard_input_is_empty_and_no_low_descriptor_is_ours(seen):
    assert seen["stdin"] == ""
    low = [fd for fd in seen["descriptors"] if fd < 900]
    assert low[:3] == [0, 1, 2]
    assert len(low) <= 4  # and the one that lists them


def test_the_event_names_the_stream(seen):
    (record,) = seen["event"]["Records"]
    assert record["eventSourceARN"] == "arn:aws:kinesis:us-east-1:000000000000:stream/s"
    assert record["awsRegion"] == "us-east-1"
    assert record["eventID"] == f"shardId-000000000000:{record['kinesis']['sequenceNumber']}"


def test_a_handler_in_a_directory_and_one_behind_a_colon(place):
    place.stream(contents=["one"])
    assert place.caught_up("nested/inner.handler", cwd=FUNCTIONS).code == 0
    assert place.caught_up("nested.inner:handler", cwd=FUNCTIONS).code == 0


def test_a_module_called_like_one_that_we_use_is_the_users(place, tmp_path):
    place.stream(contents=["one"])
    code = tmp_path / "code"
    code.mkdir()
    for name in ("trio", "worker"):
        (code / f"{name}.py").write_text("def handler(event, context):\n    print('mine', __file__)\n")
    for name in ("trio", "worker"):
        done = place.caught_up(f"{name}.handler", cwd=code)
        assert done.code == 0, done.err
        assert f"mine {code}/{name}.py" in done.err


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_breakpoint_works_on_the_terminal(place):
    place.stream(contents=["one", "two"])
    arguments = ("run", "unruly.debugged", "--stream", "s", "--debug", "--limit", "2")
    with terminal(place, *arguments) as (process, master):
        read_until(master, "(Pdb)")
        os.write(master, b"answer + 40\n")
        assert "42" in read_until(master, "(Pdb)")
        os.write(master, b"answer = 77\n")
        read_until(master, "(Pdb)")
        os.write(master, b"continue\n")
        shown = read_until(master, "2 records in 1 batch")
        assert process.wait(10) == 0, shown
    assert (place.notes / "answer").read_text() == "77"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_ctrl_c_at_the_debuggers_prompt_ends_the_run(place):
    place.stream(contents=["one"])
    with terminal(place, "run", "unruly.debugged", "--stream", "s", "--debug") as (process, master):
        read_until(master, "(Pdb)")
        os.write(master, b"\x03")
        read_until(master, "again to stop at once")
        os.write(master, b"\x03")
        assert process.wait(5) == 130


def test_debugging_without_a_terminal_is_refused(place):
    place.stream(contents=["one"])
    done = place.run("run", "unruly.debugged", "--stream", "s", "--debug")
    assert done.code == 2
    assert "needs a terminal" in error_line(done)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_on_a_terminal_a_line_changes_and_log_lines_stay_whole(place):
    place.stream(contents=range(200))
    arguments = ("run", "unruly.logs", "--stream", "s", "--until-caught-up", "--batch-size", "10")
    with terminal(place, *arguments) as (process, master):
        shown = read_until(master, "200 records in 20 batches")
        assert process.wait(10) == 0
    assert shown.count("END RequestId") == 20
