"""How an Init went wrong, as errors, in Lambda's words."""

from __future__ import annotations

import json
from typing import Any

from streamfn.errors import HandlerImportError


def import_error(text: str) -> HandlerImportError:
    """Make the exception of an error document: of its members those that are what they must be.

    The user's Init can have written it: nothing that is nested, or of another type, is passed on.
    """
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        found = {"errorMessage": text}
    document: dict[str, Any] = {name: found[name] for name in found if _is_member(name, found[name])}
    return HandlerImportError(document.get("errorMessage", ""), document)


def _is_member(name: str, value: object) -> bool:
    if name == "stackTrace":
        return isinstance(value, list) and all(isinstance(frame, str) for frame in value)
    return name in ("errorMessage", "errorType", "requestId") and isinstance(value, str)


def exited_in_init(detail: str, *, out_of_memory: bool) -> HandlerImportError:
    """Make the exception for a process that ended in Init, in Lambda's words."""
    reason = "without providing a reason" if detail == "exit status 0" else f"with error: {detail}"
    text = f"Runtime exited {reason}"
    kind = "Runtime.OutOfMemory" if out_of_memory else "Runtime.ExitError"
    return HandlerImportError(f"Init: {text}", {"errorType": kind, "errorMessage": text})


def timed_out_in_init(limit_s: float) -> HandlerImportError:
    """Make the exception for an Init that took longer than it may."""
    text = f"Task timed out after {limit_s:.2f} seconds"
    return HandlerImportError(f"Init: {text}", {"errorType": "Sandbox.Timedout", "errorMessage": text})
