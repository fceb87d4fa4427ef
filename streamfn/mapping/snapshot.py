"""Snapshot hooks, as Lambda SnapStart for Python has them: what a function does before it is forked, and after.

    from snapshot_restore_py import register_before_snapshot, register_after_restore

The zygote is the snapshot and a fork is a restore. Hooks before run once, in the zygote, behind Init, in reverse order
of their registration; hooks after run in every worker, in order, before its first invocation. So a module may close in
the first what it must not share, and open it again in the second.

The package is AWS's. Where it is installed it is used as it is; where it is not, a handler's import of it finds a
module with the same functions that is made here. Workers that import the handler's module themselves are no copies of a
snapshot, and their hooks do not run, as in Lambda without SnapStart.

Rules and exit codes: AWS's Python runtime client (awslambdaric), and Lambda's developer guide ("Implement code before
or after Lambda function snapshots").
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

MODULE = "snapshot_restore_py"

BEFORE_STATUS = 64
"""The exit status of a zygote that a hook before the snapshot has failed."""
AFTER_STATUS = 65
"""The exit status of a worker that a hook after the restore has failed."""


class Hook(NamedTuple):
    """A function, and what it is called with."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


def provide() -> None:
    """Let `import snapshot_restore_py` find our module where there is no other; what is installed comes first."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def has_after_hooks() -> bool:
    """Whether something is to be done after a restore."""
    return bool(_registry("get_after_restore"))


def run_before() -> None:
    """Run the hooks before a snapshot, the last one registered first, each once; what one raises is raised."""
    hooks = _registry("get_before_snapshot")
    while hooks:
        function, arguments, keywords = hooks.pop()
        function(*arguments, **keywords)


def run_after() -> None:
    """Run the hooks after a restore in the order in which they were registered; what one raises is raised."""
    for function, arguments, keywords in _registry("get_after_restore"):
        function(*arguments, **keywords)


def _registry(getter: str) -> list[Any]:
    """The hooks that were registered, in the module's own list; nothing where nobody has imported it."""
    module = sys.modules.get(MODULE)
    get = getattr(module, getter, None)
    return get() if get is not None else []


class _Finder:
    """Makes the module when everybody else has been asked for it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find that one module."""
        return ModuleSpec(name, self, origin="streamfn") if name == MODULE else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave it to the import system."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module in: two registries, what adds to them and what gives them."""
        before: list[Hook] = []
        after: list[Hook] = []

        def register_before_snapshot(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
            """Have `func` called with these arguments before the environment is copied; also as a decorator."""
            before.append(Hook(func, args, kwargs))
            return func

        def register_after_restore(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
            """Have `func` called with these arguments in each copy of the environment; also as a decorator."""
            after.append(Hook(func, args, kwargs))
            return func

        module.__doc__ = (
            "Hooks around Lambda's snapshots, provided by streamfn; AWS's package of this name is used if installed."
        )
        vars(module).update(
            __all__=["register_before_snapshot", "register_after_restore"],
            register_before_snapshot=register_before_snapshot,
            register_after_restore=register_after_restore,
            get_before_snapshot=lambda: before,
            get_after_restore=lambda: after,
        )
