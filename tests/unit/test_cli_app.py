"""Errors become lines and exit codes, in one place."""

from __future__ import annotations

import click
import pytest

from streamfn.cli import app
from streamfn.cli.app import root_cause, run
from streamfn.errors import BusyError, FailedError, HandlerImportError, RefusedError


@pytest.fixture
def raises(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command named `list` that raises what is put here."""
    raised: list[BaseException] = []

    @click.command("list")
    def fail() -> None:
        raise raised[0]

    monkeypatch.setattr(app.LazyGroup, "get_command", lambda self, ctx, name: fail)
    return raised


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RefusedError("no"), 2, "streamfn: error: no\n"),
        (BusyError("two\nlines"), 1, "streamfn: error: two lines\n"),
        (OSError(28, "No space left on device", "/x"), 1, "streamfn: error: No space left on device: /x\n"),
        (
            KeyError("x"),
            1,
            "streamfn: error: a bug in streamfn (KeyError: 'x'); STREAMFN_TRACEBACK=1 shows where\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (
            ExceptionGroup("g", [ValueError(), ExceptionGroup("h", [FailedError("deep")])]),
            1,
            "streamfn: error: deep\n",
        ),
        (BaseExceptionGroup("g", [FailedError("x"), KeyboardInterrupt()]), 130, ""),
        (
            BrokenPipeError(32, "Broken pipe"),
            1,
            "streamfn: error: Broken pipe\n",
        ),  # of something else than stdout
        (SystemExit(3), 3, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_line_and_an_exit_code(
    raises: list[BaseException], capfd: pytest.CaptureFixture[str], error: BaseException, code: int, text: str
) -> None:
    raises.append(error)
    assert run(["list"]) == code
    assert capfd.readouterr() == ("", text)


def test_an_interrupts_notes_are_told(raises: list[BaseException], capfd: pytest.CaptureFixture[str]) -> None:
    raises.append(KeyboardInterrupt())
    raises[0].add_note("resumes at line 5")
    assert run(["list"]) == 130
    assert capfd.readouterr().err == "streamfn: resumes at line 5\n"


def test_a_handlers_own_stack_trace_is_shown(
    raises: list[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    document: dict[str, object] = {
        "errorType": "Runtime.ImportModuleError",
        "stackTrace": ['  File "<frozen importlib._bootstrap>", line 1\n', '  File "m.py", line 1\n'],
    }
    raises.append(HandlerImportError("Unable to import module 'm': x", document, b"printed\n"))
    assert run(["list"]) == 1
    assert capfd.readouterr().err == (
        'printed\nTraceback (most recent call last):\n  File "m.py", line 1\n'
        "streamfn: error: Unable to import module 'm': x\n"
    )


def test_what_we_raise_on_purpose_is_what_a_group_is_about() -> None:
    failed = FailedError("x")
    assert root_cause(ExceptionGroup("g", [ValueError(), failed])) is failed
    value = ValueError()
    assert root_cause(ExceptionGroup("g", [value, KeyError()])) is value
