"""Error documents: why an invocation or an Init did not succeed, in Lambda's words and shape.

Two writers speak in Lambda, and so here.  What the runtime client writes has all four keys, spaced as
Python's json does:

    {"errorMessage": "...", "errorType": "ValueError", "requestId": "...", "stackTrace": ["  File ..."]}

What the service around it writes has two, without spaces.  Nothing a handler raises can break this:
exceptions that cannot be printed, lone surrogates, megabytes of text.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Sequence

from streamfn.events.response import ASCII_ONLY, MarshalError
from streamfn.types import Fault

# Ours, for want of a documented limit: text and stack trace are cut so that the document, at 12 bytes of JSON
# for a character at worst, stays below limits.RESPONSE_BYTES_MAX.
TEXT_CHARS_MAX = 200_000
TYPE_CHARS_MAX = 1_000

# The types of what ended an invocation from outside of its handler.
TIMED_OUT = "Sandbox.Timedout"
EXITED = "Runtime.ExitError"
OUT_OF_MEMORY = "Runtime.OutOfMemory"

# The types of what ends a snapshot's hooks.
BEFORE_SNAPSHOT = "Runtime.BeforeSnapshotError"
AFTER_RESTORE = "Runtime.AfterRestoreError"

# Bound before any handler can put something else in its place.
_dumps = json.dumps

_OUR_DIRECTORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def from_exception(error: BaseException, request_id: str) -> Fault:
    """Return the fault of a handler that raised `error`.

    The stack trace begins at the first frame that is not ours.  `request_id` is "" for what was raised
    during Init.
    """
    return _client_fault(type(error).__name__, _message(error), request_id, _stack_trace(error))


def marshal_error(error: MarshalError, request_id: str) -> Fault:
    """Return the fault of a handler whose response cannot be written as JSON."""
    return _client_fault("Runtime.MarshalError", str(error), request_id, [])


def too_large(limit_bytes: int) -> Fault:
    """Return the fault of a handler whose response is longer than `limit_bytes` of JSON."""
    text = f"Response payload size exceeded maximum allowed payload size ({limit_bytes} bytes)."
    return _service_fault({"errorMessage": text, "errorType": "Function.ResponseSizeTooLarge"})


def timed_out(request_id: str, seconds: float) -> Fault:
    """Return the fault of an invocation that was killed after its function's timeout of `seconds`."""
    text = f"RequestId: {request_id} Error: Task timed out after {seconds:.2f} seconds"
    return _service_fault({"errorType": TIMED_OUT, "errorMessage": text})


def exited(request_id: str, reason: str | None) -> Fault:
    """Return the fault of an invocation whose process ended.

    `reason` is how: "exit status 1", "signal: killed"; None or "exit status 0" if it gave none.
    """
    how = "without providing a reason" if reason in (None, "exit status 0") else f"with error: {reason}"
    text = f"RequestId: {request_id} Error: Runtime exited {how}"
    return _service_fault({"errorType": EXITED, "errorMessage": text})


def out_of_memory(request_id: str) -> Fault:
    """Return the fault of an invocation that needed more memory than its function has."""
    text = f"RequestId: {request_id} Error: Runtime exited with error: signal: killed"
    return _service_fault({"errorType": OUT_OF_MEMORY, "errorMessage": text})


def init_error(error: BaseException, module: str) -> Fault:
    """Return the fault of an Init in which importing the handler's `module` raised `error`.

    As in Lambda, except that an ImportError's stack trace, empty there, is kept: it says which import it was.
    """
    if isinstance(error, ImportError):
        text = f"Unable to import module '{module}': {_message(error)}"
        return _client_fault("Runtime.ImportModuleError", text, "", _stack_trace(error))
    if isinstance(error, SyntaxError):
        text = f"Syntax error in module '{module}': {_message(error)}"
        where = f'  File "{error.filename}" Line {error.lineno}\n    {error.text}'
        return _client_fault("Runtime.UserCodeSyntaxError", text, "", [where])
    if isinstance(error, SystemExit):
        return _client_fault(EXITED, f"Runtime exited {_manner(error)}", "", _stack_trace(error))
    return from_exception(error, "")


def hook_failed(error: BaseException, kind: str) -> Fault:
    """Return the fault of a snapshot hook that raised; `kind` is BEFORE_SNAPSHOT or AFTER_RESTORE."""
    when = "before the snapshot" if kind == BEFORE_SNAPSHOT else "after the restore"
    text = f"a hook {when} raised {type(error).__name__}: {_message(error)}"
    return _client_fault(kind, text, "", _stack_trace(error))


def arrow_refused(reason: str) -> Fault:
    """Return the fault of an Init of an Arrow handler that cannot be called here.  Lambda has none."""
    return _client_fault("Runtime.ArrowHandler", reason, "", [])


def _manner(leave: SystemExit) -> str:
    """How the interpreter would have ended, and what it would have printed then."""
    if leave.code is None or leave.code == 0:
        return "without providing a reason"
    if isinstance(leave.code, int):
        return f"with error: exit status {leave.code & 0xFF}"
    return f"with error: exit status 1: {_message(leave)}"


def handler_not_found(function: str, module: str) -> Fault:
    """Return the fault of an Init that did not find `function` in `module`."""
    text = f"Handler '{function}' missing on module '{module}'"
    return _client_fault("Runtime.HandlerNotFound", text, "", [])


def not_callable(function: str, module: str, what: str) -> Fault:
    """Return the fault of an Init that found `what` (its repr) where the handler should be: Lambda would fail later."""
    text = f"Handler '{function}' of module '{module}' is not callable: it is {what:.80}"
    return _client_fault("Runtime.HandlerNotFound", text, "", [])


def malformed_handler(handler: str, reason: str) -> Fault:
    """Return the fault of a handler's name that is not of the form module.function."""
    return _client_fault("Runtime.MalformedHandlerName", f"Bad handler '{handler}': {reason}", "", [])


def builtin_module_conflict(module: str) -> Fault:
    """Return the fault of a handler whose module has the name of one built into the interpreter."""
    text = f"Cannot use built-in module {module} as a handler module"
    return _client_fault("Runtime.BuiltInModuleConflict", text, "", [])


def log_text(error_type: str, message: str, frames: Sequence[object]) -> str:
    """Return an error as Lambda logs it: lines that are one event, their indentation in no-break spaces."""
    lines = [f"[ERROR] {error_type}: {message}" if message else f"[ERROR] {error_type}"]
    if frames:
        lines.append("Traceback (most recent call last):")
    for frame in frames:
        for line in str(frame).rstrip("\n").split("\n"):
            bare = line.lstrip(" ")
            lines.append("\u00a0" * (len(line) - len(bare)) + bare)
    return "\n".join(lines) + "\n"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the handler's own exception class; Lambda's client would fall over here
        return f"<exception str() of {type(error).__name__} failed>"


def _stack_trace(error: BaseException) -> list[str]:
    """One string a frame, without the marks under the line that newer Pythons add: as Lambda has it."""
    try:
        frames = traceback.extract_tb(error.__traceback__)
    except Exception:  # it reads source files, by functions that a handler may have put its own in the place of
        return []
    theirs = (i for i, frame in enumerate(frames) if not frame.filename.startswith(_OUR_DIRECTORY))
    first = next(theirs, len(frames))
    plain = [(frame.filename, frame.lineno or 0, frame.name, frame.line) for frame in frames[first:]]
    return traceback.format_list(plain)


def _innermost(frames: Sequence[str]) -> list[str]:
    """The last frames, as many as there is room for: where it was raised says more than how it got there."""
    kept: list[str] = []
    room = TEXT_CHARS_MAX
    for frame in reversed(frames):
        room -= len(frame)
        if room < 0:
            break
        kept.append(frame)
    return kept[::-1]


def _client_fault(error_type: str, text: str, request_id: str, frames: Sequence[str]) -> Fault:
    error_type = error_type[:TYPE_CHARS_MAX]
    text = text[:TEXT_CHARS_MAX]
    document = {
        "errorMessage": text,
        "errorType": error_type,
        "requestId": request_id,
        "stackTrace": _innermost(frames),
    }
    return Fault(_printable(error_type), _printable(text), _encode(document, (", ", ": ")))


def _service_fault(document: dict[str, str]) -> Fault:
    return Fault(document["errorType"], document["errorMessage"], _encode(document, (",", ":")))


def _encode(document: object, separators: tuple[str, str]) -> bytes:
    try:
        return _dumps(document, ensure_ascii=ASCII_ONLY, separators=separators).encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can carry
        return _dumps(document, ensure_ascii=True, separators=separators).encode()


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
