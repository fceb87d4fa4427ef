"""Handlers that do what a script says, one step an invocation.

    Script(Raises(ValueError("no")), TimesOut(), Dies(), Returns({"batchItemFailures": []}, seconds=2))

After the last step every invocation returns None, unless `then` says what it does.  Any other handler is as good: it is
called with the event and the context; it takes virtual time by `clock.sleep(seconds)`, and dies by SystemExit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Returns:
    """Returns a value after so many seconds of virtual time; with a function, what that makes of the event."""

    value: Any = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Raises:
    """Raises an exception after so many seconds of virtual time."""

    error: BaseException
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class TimesOut:
    """Goes on until the function's timeout ends it."""


@dataclass(frozen=True, slots=True)
class Dies:
    """Its process ends after so many seconds of virtual time; `reason` as in "exit status 1", or None."""

    reason: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Throttled:
    """The function is not invoked: a throttle, or an error of the service.  It costs no attempt."""


Step: TypeAlias = Returns | Raises | TimesOut | Dies | Throttled
ScriptedHandler: TypeAlias = Callable[[Any, Any], Any]


class Script:
    """A handler made of steps.  It can be used once."""

    def __init__(self, *steps: Step, then: Step | None = None) -> None:
        """`then` is what every invocation after the last step does; None: it returns None."""
        self._steps = list(reversed(steps))
        self._then = Returns() if then is None else then
        self.events: list[Any] = []

    def next_step(self, event: Any) -> Step:
        """What this invocation does."""
        self.events.append(event)
        return self._steps.pop() if self._steps else self._then
