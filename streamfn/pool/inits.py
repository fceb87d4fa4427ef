"""How an Init went wrong, as errors, in Lambda's words."""

from __future__ import annotations

import json
from typing import Any

from streamfn.errors import HandlerImportError


def import_error(text: str) -> HandlerImportError:
    """Make the exception of an error document."""
    document: Any
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        document = {"errorMessage": text}
    message = document.get("errorMessage")
    return HandlerImportError(message if isinstance(message, str) else "", document)


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
