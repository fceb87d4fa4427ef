"""Error documents: Lambda's keys, texts and frames, whatever a handler raises."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from streamfn import limits
from streamfn.events import document, response
from streamfn.types import Fault

REQUEST = "8f5cf0a5-0000-4000-8000-000000000001"


def raised(source: str, filename: str = "/var/task/handler.py") -> Exception:
    """What running `source` as a file of that name raises, without this frame."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  (any may be raised)
        exec(compile(source, filename, "exec"), {"__name__": "handler"})
    assert caught.tb.tb_next is not None
    return caught.value.with_traceback(caught.tb.tb_next)


def body(fault: Fault) -> dict[str, object]:
    decoded = json.loads(fault.document)
    assert isinstance(decoded, dict)
    return decoded


@pytest.mark.conformance(
    "events/error-document",
    source="recorded",
    rule="The error document of an exception has errorMessage, errorType, requestId and stackTrace.",
)
def test_an_exception_has_lambdas_four_keys_in_lambdas_order() -> None:
    fault = document.from_exception(raised("raise ValueError('bad é record')"), REQUEST)
    assert list(body(fault)) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert body(fault)["errorMessage"] == fault.message == "bad é record"
    assert body(fault)["errorType"] == fault.error_type == "ValueError"
    assert body(fault)["requestId"] == REQUEST
    assert fault.document.startswith(b'{"errorMessage": "bad ')


def test_a_stack_trace_is_one_string_a_frame_with_its_source_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "def handler(event, context):\n    raise KeyError(event['x'])\n"
    (tmp_path / "sfn_handler_a.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("sfn_handler_a")
    with pytest.raises(KeyError) as caught:
        module.handler({"x": 1}, None)
    trace = body(document.from_exception(caught.value, REQUEST))["stackTrace"]
    assert isinstance(trace, list)
    path = tmp_path / "sfn_handler_a.py"
    assert trace[-1] == f"  File \"{path}\", line 2, in handler\n    raise KeyError(event['x'])\n"


def test_our_own_frames_before_the_handlers_are_left_out() -> None:
    inside = document._OUR_DIRECTORY + "mapping/worker.py"
    source = "exec(compile('raise OSError(1)', '/var/task/handler.py', 'exec'))"
    outer = raised(f"exec(compile({source!r}, {inside!r}, 'exec'))", inside)
    trace = body(document.from_exception(outer, REQUEST))["stackTrace"]
    assert trace == ['  File "/var/task/handler.py", line 1, in <module>\n']


def test_an_exception_that_only_our_frames_saw_has_no_trace() -> None:
    error = raised("f = lambda: 0\nf(1, 2)", document._OUR_DIRECTORY + "mapping/worker.py")
    assert body(document.from_exception(error, REQUEST))["stackTrace"] == []


def test_an_exception_without_a_traceback_has_no_trace() -> None:
    assert body(document.from_exception(ValueError("x"), REQUEST))["stackTrace"] == []


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not today")


def test_an_exception_that_cannot_be_printed_is_still_named() -> None:
    fault = document.from_exception(Unprintable(), REQUEST)
    assert fault.error_type == "Unprintable"
    assert fault.message == "<exception str() of Unprintable failed>"


@pytest.mark.parametrize("ascii_only", [True, False])
def test_lone_surrogates_reach_the_document_as_escapes(
    ascii_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "ASCII_ONLY", ascii_only)
    fault = document.from_exception(ValueError("a\ud800é"), REQUEST)
    assert json.loads(fault.document)["errorMessage"] == "a\ud800é"
    assert fault.message == "a\\ud800é"  # printable


def test_a_document_stays_below_the_responses_limit_whatever_was_raised() -> None:
    name = "N" * 5_000_000
    error = type(name, (Exception,), {})("😀" * 5_000_000)
    source = "def f(n):\n    if n == 0: raise E\n    f(n - 1)\n"
    long_name = "/var/task/" + "\U0010ffff" * 300_000
    try:
        scope: dict[str, object] = {"E": error}
        exec(compile(source + "f(9)", long_name, "exec"), scope)
    except Exception as caught:
        fault = document.from_exception(caught, REQUEST)
    assert len(fault.document) <= limits.RESPONSE_BYTES_MAX
    assert len(fault.message) == document.TEXT_CHARS_MAX


def test_the_innermost_frames_of_a_deep_recursion_are_kept() -> None:
    error = raised("def f():\n    f()\nf()")
    trace = body(document.from_exception(error, REQUEST))["stackTrace"]
    assert isinstance(trace, list)
    assert any("Previous line repeated" in frame for frame in trace)
    assert len(trace) < 20


def test_a_response_that_cannot_be_marshalled_has_lambdas_document() -> None:
    with pytest.raises(response.MarshalError) as caught:
        response.marshal({1, 2})
    fault = document.marshal_error(caught.value, REQUEST)
    assert fault.document == (
        b'{"errorMessage": "Unable to marshal response: Object of type set is not JSON serializable", '
        b'"errorType": "Runtime.MarshalError", "requestId": "' + REQUEST.encode() + b'", "stackTrace": []}'
    )


@pytest.mark.conformance(
    "events/service-error-documents",
    source="recorded",
    rule="Timeouts, ends of the process and responses over 6 MB have errorType and errorMessage alone, in the words of "
    "2025.",
)
def test_the_services_own_documents_are_as_recorded() -> None:
    assert document.too_large(limits.RESPONSE_BYTES_MAX).document == (
        b'{"errorMessage":"Response payload size exceeded maximum allowed payload size (6291556 bytes).",'
        b'"errorType":"Function.ResponseSizeTooLarge"}'
    )
    assert document.timed_out("id", 1).document == (
        b'{"errorType":"Sandbox.Timedout",'
        b'"errorMessage":"RequestId: id Error: Task timed out after 1.00 seconds"}'
    )
    assert document.exited("id", "exit status 127").document == (
        b'{"errorType":"Runtime.ExitError",'
        b'"errorMessage":"RequestId: id Error: Runtime exited with error: exit status 127"}'
    )


@pytest.mark.parametrize("reason", [None, "exit status 0"])
def test_an_exit_without_a_reason_says_so(reason: str | None) -> None:
    fault = document.exited("id", reason)
    assert fault.error_type == "Runtime.ExitError"
    assert fault.message == "RequestId: id Error: Runtime exited without providing a reason"


@pytest.mark.conformance(
    "events/init-errors",
    source="documented",
    rule="A handler that cannot be imported fails with the types and texts of AWS's Python runtime client.",
    differs="The stack trace of an ImportError, empty there, is kept: it says which import it was.",
)
def test_init_errors_have_the_runtime_clients_types_and_texts() -> None:
    missing = document.init_error(raised("import sfn_no_such_module"), "dir/handler")
    assert missing.error_type == "Runtime.ImportModuleError"
    assert missing.message == "Unable to import module 'dir/handler': No module named 'sfn_no_such_module'"
    assert body(missing)["requestId"] == ""
    assert body(missing)["stackTrace"][-1] == '  File "/var/task/handler.py", line 1, in <module>\n'  # type: ignore[index]

    with pytest.raises(SyntaxError) as caught:
        compile("def f(:\n", "/var/task/handler.py", "exec")
    syntax = document.init_error(caught.value, "handler")
    assert syntax.error_type == "Runtime.UserCodeSyntaxError"
    assert syntax.message == "Syntax error in module 'handler': invalid syntax (handler.py, line 1)"
    assert body(syntax)["stackTrace"] == ['  File "/var/task/handler.py" Line 1\n    def f(:\n']

    other = document.init_error(raised("1 / 0"), "handler")
    assert (other.error_type, other.message) == ("ZeroDivisionError", "division by zero")


def test_handlers_that_cannot_be_found_are_named() -> None:
    found = [
        document.handler_not_found("f", "m"),
        document.malformed_handler("x", "not enough values to unpack (expected 2, got 1)"),
        document.builtin_module_conflict("sys"),
    ]
    assert [(fault.error_type, fault.message) for fault in found] == [
        ("Runtime.HandlerNotFound", "Handler 'f' missing on module 'm'"),
        ("Runtime.MalformedHandlerName", "Bad handler 'x': not enough values to unpack (expected 2, got 1)"),
        ("Runtime.BuiltInModuleConflict", "Cannot use built-in module sys as a handler module"),
    ]


def test_importing_the_events_loads_neither_trio_nor_pyarrow_nor_click() -> None:
    program = (
        "import sys, streamfn._events, streamfn.events.document, streamfn.events.size\n"
        "print(sorted({'trio', 'pyarrow', 'click', 'rich', 'numpy'} & set(sys.modules)))"
    )
    root = Path(document.__file__).parents[2]
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
