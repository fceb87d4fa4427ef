"""Finding a handler by its name, with Lambda's own errors where that fails (the Init phase).

A name is `module.function` or `dir/module.function` as in Lambda, or `module:function`.  The rules and
texts are those of AWS's Python runtime client; aws.md's "Init errors" has them with their evidence.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import orjson

Handler = Callable[[Any, Any], Any]


class InitError(Exception):
    """The handler could not be loaded.  `document` is Lambda's error document as a dict."""

    def __init__(self, error_type: str, message: str, stack: list[str] | None = None) -> None:
        super().__init__(message)
        self.document: dict[str, object] = {
            "errorMessage": message,
            "errorType": error_type,
            "requestId": "",
            "stackTrace": stack or [],
        }

    def as_json(self) -> bytes:
        """The document as JSON; what cannot be encoded in UTF-8 is escaped, not lost."""
        try:
            return orjson.dumps(self.document)
        except TypeError:  # lone surrogates in a message or a path
            printable = {key: _printable(value) for key, value in self.document.items()}
            return orjson.dumps(printable)


def _printable(value: object) -> object:
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return str(value).encode("utf-8", "backslashreplace").decode()


def split_name(name: str) -> tuple[str, str]:
    """Module (with `.` or `/`) and function of a handler's name.

    Raises:
        InitError: `Runtime.MalformedHandlerName`, when there is no function in it.
    """
    for separator in (":", "."):
        module, found, function = name.rpartition(separator)
        if found and module and function:
            return module, function
    raise InitError(
        "Runtime.MalformedHandlerName",
        f"Bad handler '{name}': not enough values to unpack (expected 2, got 1)",
    )


def named(handler: str | Handler) -> tuple[str, Handler | None]:
    """What a handler is called, and the callable itself where a worker could not import it by that name.

    A function of an importable module is imported by the workers like any other handler; one of `__main__`, a closure or
    a lambda has to be forked from this process.
    """
    if isinstance(handler, str):
        return handler, None
    module = getattr(handler, "__module__", None) or "callable"
    qualified = getattr(handler, "__qualname__", type(handler).__qualname__)
    importable = module != "__main__" and getattr(sys.modules.get(module), qualified, None) is handler
    plain = re.sub(r"[^A-Za-z0-9_]+", "_", qualified).strip("_") or "handler"
    return (f"{module}:{qualified}", None) if importable else (f"{module}:{plain}", handler)


def load_handler(name: str) -> Handler:
    """Import the handler's module and return the function.

    `sys.path` already begins with the code directory.  What the module raises while it is imported is
    reported with its own type and the frames of the user's code, as Lambda does.

    Raises:
        InitError: it cannot be loaded; the document is ready to be shown.
    """
    module_name, function_name = split_name(name)
    if module_name.split(".")[0] in sys.builtin_module_names:
        raise InitError(
            "Runtime.BuiltInModuleConflict",
            f"Cannot use built-in module {module_name} as a handler module",
        )
    try:
        module = importlib.import_module(module_name.replace("/", "."))
    except SyntaxError as error:
        line = f'  File "{error.filename}" Line {error.lineno}\n    {error.text}'
        message = f"Syntax error in module '{module_name}': {error}"
        raise InitError("Runtime.UserCodeSyntaxError", message, [line]) from error
    except ImportError as error:
        message = f"Unable to import module '{module_name}': {error}"
        raise InitError("Runtime.ImportModuleError", message, user_frames(error.__traceback__)) from error
    except Exception as error:  # the user's module may raise anything; this is the border
        raise InitError(type(error).__name__, str(error), user_frames(error.__traceback__)) from error
    handler = getattr(module, function_name, None)
    if handler is None:
        message = f"Handler '{function_name}' missing on module '{module_name}'"
        raise InitError("Runtime.HandlerNotFound", message)
    if not callable(handler):
        message = f"Handler '{function_name}' of module '{module_name}' is not callable: it is {handler!r:.80}"
        raise InitError("Runtime.HandlerNotFound", message)
    return handler  # type: ignore[no-any-return]  # callable, and that is all one can know


def user_frames(trace: TracebackType | None) -> list[str]:
    """The frames of a traceback from the first that is not ours or the import system's, each with its newline."""
    frames = traceback.extract_tb(trace)
    for index, frame in enumerate(frames):
        if frame.filename != __file__ and "importlib" not in frame.filename:
            return traceback.format_list(frames[index:])
    return []
