"""How a handler that was passed in becomes something that worker processes can run.

* A name is looked up as on the command line: the code directory first, then where this process looks (its
  `sys.path`, so that a handler beside a script is found wherever the script was started).
* A function that workers can import is imported by them, by module and name and with this process' `sys.path`, hence
  from the same file as here. The module is imported anew: what this process did to its globals is not seen.
* Everything else - a closure, a lambda, a method, a partial, a function of `__main__` or of a notebook - runs in
  processes forked from this one, and sees its globals as they were when the mapping was opened.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from streamfn.errors import RefusedError
from streamfn.functions.ranges import HANDLER_CHARS_MAX
from streamfn.mapping.calling import Handler


class FoundHandler(NamedTuple):
    """A handler as workers get it.

    `name` is what it is called by; `forked` the callable itself where a worker cannot import it; `path` the workers'
    whole `sys.path`.
    """

    name: str
    forked: Handler | None
    path: tuple[str, ...]


def find(handler: str | Handler, code_dir: Path) -> FoundHandler:
    """Decide how workers come by `handler`.

    Raises:
        RefusedError: it is neither a name nor a callable.
    """
    if isinstance(handler, str):
        directory = str(code_dir)
        return FoundHandler(handler, None, (directory, *(entry for entry in _path() if entry != directory)))
    if not callable(handler):
        raise RefusedError(f"a handler is a name, such as 'app.handler', or a callable, not {handler!r}")
    named = handler.func if isinstance(handler, functools.partial) else handler
    module = str(getattr(named, "__module__", None) or "callable")
    qualified = str(getattr(named, "__qualname__", type(named).__qualname__))
    if _importable(handler, module, qualified):
        return FoundHandler(f"{module}:{qualified}", None, _path())
    plain = re.sub(r"[^A-Za-z0-9_]+", "_", qualified).strip("_") or "handler"
    # Lambda bounds a handler's name; the end of a long one says most.
    name = f"{_called(module)[-HANDLER_CHARS_MAX // 2 :].lstrip('.')}:"
    return FoundHandler(name + plain[-(HANDLER_CHARS_MAX - len(name)) :], handler, _path())


def _called(module: str) -> str:
    """The module's name; for a script its file's, because two scripts must not share a mapping by accident."""
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:  # python -m
        return str(spec.name)
    return re.sub(r"[^A-Za-z0-9_]+", "_", Path(file).stem) if file else module


def _path() -> tuple[str, ...]:
    """This process' `sys.path`, its entry for the current directory spelt out: workers may start in another one."""
    return tuple(dict.fromkeys(os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)))


def _importable(handler: Handler, module: str, qualified: str) -> bool:
    """Whether importing `module` anew, with the path of this process, leads to the file the handler is from."""
    loaded = sys.modules.get(module)
    if module == "__main__" or loaded is None or getattr(loaded, qualified, None) is not handler:
        return False
    if len(module) + 1 + len(qualified) > HANDLER_CHARS_MAX:
        return False
    here = getattr(loaded, "__file__", None)
    found = _origin(module)
    return here is not None and found is not None and os.path.realpath(here) == os.path.realpath(found)


def _origin(module: str) -> str | None:
    """The file that an import of `module` would find; `importlib.util.find_spec` asks `sys.modules` instead."""
    parent, _, _ = module.rpartition(".")
    path = None
    if parent:
        path = getattr(sys.modules.get(parent), "__path__", None)
        if path is None or _origin(parent) is None:
            return None
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        spec = None if find_spec is None else find_spec(module, path)
        if spec is not None:
            # A namespace package has no file; that it was found is enough for what lies in it.
            return spec.origin or "namespace"
    return None
