"""The forms a handler has, and how each becomes what an invocation calls with its event and context.

  * A function, or any other callable: called as it is, at no cost.
  * `async def`, also as a method, in a partial or behind a decorator: run to its end on the environment's event loop
    (`loop.py`).
  * A class whose instances can be called, or a method of a class: each environment makes one instance, without
    arguments, before its first invocation, and keeps it. It is made in the worker, not in the zygote, so that
    connections opened by `__init__` are nobody else's.
  * An Arrow handler (`events/arrow.py`), which may have any of these forms.

A class whose instances cannot be called is called itself, with event and context, as AWS's Python client does.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

Handler: TypeAlias = Callable[..., Any]
"""What a user gives as a handler: called with an event and a context, or a class (see the module)."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A handler that every environment makes for itself: an instance of `cls`, or its method of that name."""

    cls: type
    method: str = "__call__"

    def make(self) -> Handler:
        """Make the instance; whatever its `__init__` raises is raised."""
        made = self.cls()
        return made if self.method == "__call__" else getattr(made, self.method)  # type: ignore[no-any-return]

    @property
    def function(self) -> Handler:
        """What will be called, not bound yet."""
        return getattr(self.cls, self.method)  # type: ignore[no-any-return]


def shape(handler: Handler) -> Handler | Instance:
    """Return `handler`, or how its instance is made if it is a handler class."""
    if isinstance(handler, type) and any("__call__" in vars(each) for each in handler.__mro__):
        return Instance(handler)
    return handler


def is_async(handler: Handler | Instance) -> bool:
    """Whether calling it makes a coroutine; a decorator that says what it wraps is seen through."""
    return any(inspect.iscoroutinefunction(each) for each in _layers(handler))


def marked(handler: Handler | Instance, mark: str) -> bool:
    """Whether the handler, or what a partial or a decorator around it calls in the end, has that attribute set."""
    return any(getattr(each, mark, False) is True for each in _layers(handler))


def _layers(handler: Any) -> list[Any]:
    """The handler and what it leads to: a partial's function, an instance's `__call__`, what a decorator wraps."""
    found: list[Any] = []
    while handler is not None and len(found) < 100:  # whoever wraps itself is not followed for ever
        if isinstance(handler, Instance):
            handler = handler.function
        found.append(handler)
        if isinstance(handler, functools.partial):
            handler = handler.func
        elif inspect.isroutine(handler):
            handler = getattr(handler, "__wrapped__", None)
        else:
            called = None if isinstance(handler, type) else inspect.getattr_static(type(handler), "__call__", None)
            handler = called if inspect.isfunction(called) else getattr(handler, "__wrapped__", None)
    return found
