"""The functions of a runtime that runs stored mappings: one for each handler, code directory and way of answering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import trio

from streamfn.errors import FailedError
from streamfn.functions.naming import is_stored_name
from streamfn.functions.stored import configuration_of
from streamfn.mapping import configuration
from streamfn.mapping.options import RunOptions, of_function
from streamfn.mapping.runtime import Runtime, judge_of
from streamfn.pool.function import Function
from streamfn.state.store import Store, StoredMapping


class FunctionGone(FailedError):
    """The stored function of a mapping was deleted: the mapping stays, as in Lambda, and the others go on."""

    def __init__(self, function: str, mapping: str) -> None:
        super().__init__(
            f"its function {function!r} was deleted: make it again (streamfn function create {function}), "
            f"or delete the mapping (streamfn mapping delete {mapping})"
        )


def function_of(store: Store, mapping: StoredMapping) -> dict[str, Any] | None:
    """What the store has of a mapping's function; None if that is not stored."""
    found = store.functions.get(mapping.handler) if is_stored_name(mapping.handler) else None
    return None if found is None else found.configuration


def options_of(
    mapping: StoredMapping, function: dict[str, Any] | None, ours: Mapping[str, Any]
) -> tuple[RunOptions, str]:
    """What a run of a stored mapping is told, and its function's code directory.

    `function` is what `function_of` gave; `ours` are the options of the run that belong to functions and logs.

    Raises:
        FunctionGone: its function was deleted.
    """
    told, code_dir = {**ours, "handler": mapping.handler}, mapping.code_dir
    if is_stored_name(mapping.handler):
        if function is None:
            raise FunctionGone(mapping.handler, mapping.title)
        now = configuration_of(mapping.handler, function)
        told.update(of_function(now, ours["workers"]))
        told["environment"] = {**now.environment, **ours["environment"]}
        code_dir = now.code_dir
    return configuration.run_options(mapping.options, stream=mapping.stream_name, name=mapping.name, **told), code_dir


class _Key(NamedTuple):
    """What workers know of their function from the start: mappings with the same may share them."""

    configuration: str
    region: str
    function_arn: str
    judge: str | None


@dataclass
class _Started:
    function: Function
    users: int = 0


class Functions:
    """Starts functions when the first mapping asks for them, and stops them when the last one has let go."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._started: dict[_Key, _Started] = {}
        self._turn = trio.Lock()  # two mappings that ask together start one function

    async def take(
        self, options: RunOptions, code_dir: Path, region: str, function_arn: str = ""
    ) -> tuple[Function, bool]:
        """A function for a mapping with these options, and whether it was started just now; give it to `release`.

        `function_arn` is the mapping's, which may name a version. The code of a stored function is looked at when it is
        started, and a version added where it has changed.

        Raises:
            HandlerImportError: the handler cannot be loaded.
            RefusedError: there is no such function (any more).
        """
        key = _Key(repr(options.configuration(str(code_dir))), region, function_arn, judge_of(options))
        async with self._turn:
            started = self._started.get(key)
            fresh = started is None
            if started is None:
                if options.function:
                    await self._runtime.disk(self._runtime.stored_function, options.function)
                function = await self._runtime.start(
                    options, code_dir=code_dir, region=region, function_arn=function_arn
                )
                started = self._started[key] = _Started(function)
            started.users += 1
        return started.function, fresh

    async def release(self, function: Function) -> None:
        """A mapping needs it no more; shielded."""
        with trio.CancelScope(shield=True):
            async with self._turn:
                for key, started in list(self._started.items()):
                    if started.function is function:
                        started.users -= 1
                        if not started.users:
                            del self._started[key]
                            await self._runtime.stop(function)

    async def close(self) -> None:
        """Stop all that are left; shielded."""
        with trio.CancelScope(shield=True):
            for started in self._started.values():
                await self._runtime.stop(started.function)
            self._started.clear()

    @property
    def all(self) -> list[Function]:
        """Those that are started now."""
        return [started.function for started in self._started.values()]
