"""`streamfn invoke`: one call, its answer on standard output, its log on standard error, its exit code."""

import json
import re
import subprocess

import pytest
from run_rig import FUNCTIONS, Place, error_line

from streamfn.cli import app


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def answer(done, code=0):
    assert done.code == code, done.err
    return json.loads(done.out)


@pytest.mark.conformance(
    "functions/any-json-is-an-event",
    source="recorded",
    rule="The payload of a call may be any JSON; without one the event is an empty object.",
)
@pytest.mark.parametrize("event", [{"a": [1, 2.5, "é", None]}, True])
def test_an_event_may_be_any_json(place, event):
    path = place.root / "event.json"
    path.write_text(json.dumps(event))
    done = place.run("invoke", "called.echo", "-e", path, "--logs", "none")
    assert (answer(done), done.err) == (event, "")
    assert not place.data.exists()


def test_an_event_comes_from_standard_input_and_is_empty_where_none_is_given(place):
    command = place.command("invoke", "called:echo", "--event", "-", "--logs", "none")
    done = subprocess.run(command, cwd=FUNCTIONS, input=b'{"big": "%s"}' % (b"x" * 3_000_000), capture_output=True)
    assert len(json.loads(done.stdout)["big"]) == 3_000_000, done.stderr
    assert answer(place.run("invoke", "called.echo", "--logs", "none")) == {}


def test_standard_streams_that_are_closed_are_no_fault_of_ours(place):
    command = place.command("invoke", "called.echo", "--payload", "[1]")
    for closed, told in (("<&- >&-", b"REPORT"), ("<&- >&- 2>&-", b""), ("2>&-", b"")):
        shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
        done = subprocess.run(shell, cwd=FUNCTIONS, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert told in done.stderr
        assert done.stdout == (b"[1]\n" if closed == "2>&-" else b"")


def test_a_handler_is_told_what_lambda_tells_it_and_its_log_is_lambdas(place):
    layer = place.root / "layer"
    (layer / "python").mkdir(parents=True)
    done = place.run(
        "invoke", "called.told", "--payload", "[1]", "--env", "STAGE=x", "--timeout", 9, "--memory-size", 256,
        "--layers", layer,
    )  # fmt: skip
    told = answer(done)
    assert (told["event"], told["stage"], told["memory"], told["name"]) == ([1], "x", "256", "called-told")
    assert told["arn"] == "arn:aws:lambda:us-east-1:000000000000:function:called-told"
    assert 8000 < told["remaining"] <= 9000
    assert told["path"][:3] == [str(FUNCTIONS), str(layer / "python"), str(layer)]
    start, line, end, report = done.err.splitlines()
    request = start.split()[2]
    assert (start, line, end) == (f"START RequestId: {request} Version: $LATEST", "a line", f"END RequestId: {request}")
    assert report.startswith(f"REPORT RequestId: {request}\tDuration: ")


@pytest.mark.conformance(
    "functions/error-documents",
    source="recorded",
    rule="A call whose handler raises, times out, exits or answers too much has Lambda's error document.",
)
@pytest.mark.parametrize(
    ("handler", "kind", "message"),
    [
        ("raises", "ValueError", "no"),
        ("sleeps", "Sandbox.Timedout", "RequestId: {} Error: Task timed out after 1.00 seconds"),
        ("exits", "Runtime.ExitError", "RequestId: {} Error: Runtime exited with error: exit status 3"),
        (
            "too_large",
            "Function.ResponseSizeTooLarge",
            "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
        ),
        ("nope", "Runtime.HandlerNotFound", "Handler 'nope' missing on module 'called'"),
    ],
)
def test_a_failure_is_lambdas_error_document_and_exit_code_1(place, handler, kind, message):
    done = place.run("invoke", f"called.{handler}", "--timeout", 1, "--json")
    found = answer(done, 1)
    assert (found["StatusCode"], found["FunctionError"], found["ExecutedVersion"]) == (200, "Unhandled", "$LATEST")
    assert found["Payload"]["errorType"] == kind
    assert found["Payload"]["errorMessage"] == message.format(found["RequestId"])


def test_what_cannot_be_marshalled_is_told_in_lambdas_words(place):
    found = answer(place.run("invoke", "called.unprintable", "--logs", "none"), 1)
    assert found["errorType"] == "Runtime.MarshalError"
    assert found["errorMessage"].startswith("Unable to marshal response: ")


def test_a_stored_function_is_called_by_its_name_and_what_is_said_wins(place):
    made = place.run("function", "create", "told", "--handler", "called.told", "--env", "STAGE=a", "--timeout", 5)
    assert made.code == 0, made.err
    told = answer(place.run("invoke", "told", "--logs", "none"))
    assert (told["name"], told["memory"], told["stage"]) == ("told", "128", "a")
    assert 4000 < told["remaining"] <= 5000
    arn = "arn:aws:lambda:us-east-1:000000000000:function:told"
    told = answer(place.run("invoke", "--function-name", arn, "--env", "STAGE=b", "--memory-size", 300))
    assert (told["name"], told["memory"], told["stage"]) == ("told", "300", "b")
    assert place.run("function", "update", "told", "--reserved-concurrency", 0).code == 0
    done = place.run("invoke", "told")
    assert (done.code, done.out) == (2, "")
    assert "(TooManyRequestsException) when calling the Invoke operation: Rate Exceeded." in error_line(done)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["called.echo", "--payload", '{"a"'], "InvalidRequestContentException.*Could not parse request body"),
        (["called.echo", "--payload", "NaN"], "InvalidRequestContentException"),
        (["called.echo", "-e", "nope.json"], "--event: cannot read nope.json: No such file"),
        (["called.echo", "-e", "nope.json", "--payload", "1"], "give one of them"),
        (["called.echo", "--timeout", "901"], "'901' at 'timeout'"),
        (["called.echo", "--logs", "some"], "Value 'some' at 'logs'"),
        (["called.echo", "--layers", "nope"], "nope' is not a directory"),
        (["called"], "ResourceNotFoundException.*function:called:\\$LATEST"),
        (["called:"], "Bad handler 'called:'"),
        ([""], "Bad handler ''"),
    ],
)
def test_what_is_refused_is_named_and_nothing_is_called(place, arguments, words, capsys, monkeypatch):
    monkeypatch.chdir(place.root)
    assert app.run(["invoke", *arguments, "--data-dir", str(place.data)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert re.search(words, line), line
    assert not place.data.exists()


@pytest.mark.conformance(
    "functions/6-mb-of-request",
    source="documented",
    rule="A request of a synchronous call is at most 6 MB.",
)
def test_an_event_over_6_mb_is_refused(place):
    path = place.root / "event.json"
    path.write_bytes(b'"' + b"x" * 6_291_455 + b'"')
    done = place.run("invoke", "called.echo", "-e", path)
    assert (done.code, done.out) == (2, "")
    assert "Request must be smaller than 6291456 bytes for the Invoke operation" in error_line(done)
