"""Finding a handler by its name, with Lambda's own errors where that fails (the Init phase).

A name is `module.function` or `dir/module.function` as in Lambda, or `module:function`; behind the colon there may be a
method of a class (`module:Class.method`). The rules are those of AWS's Python runtime client; the texts are in
`events/document.py`.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

from streamfn.events import document
from streamfn.functions import finding
from streamfn.mapping.calling import Handler, Instance, shape
from streamfn.types import Fault


class InitError(Exception):
    """The handler could not be loaded. `fault` has Lambda's error document."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def split_name(name: str) -> tuple[str, str]:
    """Module (with `.` or `/`) and function of a handler's name.

    Raises:
        InitError: `Runtime.MalformedHandlerName`, when there is no function in it.
    """
    found = finding.split_name(name)
    if found is not None:
        return found
    raise InitError(document.malformed_handler(name, "not enough values to unpack (expected 2, got 1)"))


def load_handler(name: str) -> Handler | Instance:
    """Import the handler's module and return the function, or the class whose instance is the handler.

    `sys.path` has the code directory already.

    Raises:
        InitError: it cannot be loaded; what the module itself raised has its own type and stack trace.
    """
    module_name, function_name = split_name(name)
    if module_name.split(".")[0] in sys.builtin_module_names:
        raise InitError(document.builtin_module_conflict(module_name))
    try:
        module = importlib.import_module(module_name.replace("/", "."))
    except (Exception, SystemExit) as error:  # the user's module may raise anything: this is the border
        raise InitError(document.init_error(error, module_name)) from error
    owner: Any = None
    handler: Any = module
    for part in function_name.split("."):
        owner, handler = handler, getattr(handler, part, None)
    if handler is None:
        raise InitError(document.handler_not_found(function_name, module_name))
    if not callable(handler):
        raise InitError(document.not_callable(function_name, module_name, repr(handler)))
    if isinstance(owner, type) and inspect.isfunction(inspect.getattr_static(owner, part)):
        return Instance(owner, part)
    return shape(handler)
