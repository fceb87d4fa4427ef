"""Stored functions from a program: made, shown, changed and deleted as on the command line; and the calling of any.

Options are Lambda's parameters in snake_case, answers the dicts of Lambda's API (as boto3 returns them), refusals
`RefusedError`s with Lambda's words.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict, Unpack

from streamfn.doors.options import check_options, code_directory
from streamfn.errors import RefusedError
from streamfn.functions import stored
from streamfn.functions.managing import Answer, StoredFunctions
from streamfn.mapping import bell
from streamfn.mapping.invoking import checked_event
from streamfn.mapping.runtime import Runtime


class StoredOptions(TypedDict, total=False):
    """What may be said of a stored function: the words, ranges and defaults of Lambda's.

    Attributes:
        code_dir: where the code is; the current directory where nothing is said.
        timeout: of one invocation, in whole seconds, 1 to 900; 3 where nothing is said.
        memory_size: of one worker, in MB, 128 to 10,240; 128 where nothing is said.
        ephemeral_storage: the size of a worker's own /tmp, in MB, 512 to 10,240; 512 where nothing is said.
        environment: variables, 4 KB in all.
        layers: up to 5 directories for the path.
        description: up to 256 characters.
        reserved_concurrency: invocations at a time, at most; 0: none; None: no limit.
        provisioned_concurrency: how many workers are kept warm; None: as many as there may be.
        isolation, allow_network, start_method: see `FunctionOptions`.
        role: kept, and of no effect.
    """

    code_dir: str | os.PathLike[str]
    timeout: int
    memory_size: int
    ephemeral_storage: int
    environment: Mapping[str, str]
    layers: Sequence[str | os.PathLike[str]]
    description: str
    reserved_concurrency: int | None
    provisioned_concurrency: int | None
    isolation: Literal["process", "sandbox"]
    allow_network: bool
    start_method: Literal["fork", "spawn"]
    role: str


class StoredChanges(StoredOptions, total=False):
    """What may be changed: the handler as well."""

    handler: str


class _Owner(Protocol):
    @property
    def runtime(self) -> Runtime:
        """The session's runtime; PoolClosed when the session is closed."""


class Functions:
    """The functions of a data directory that are stored under a name. A session's `functions`.

    A function's name goes wherever a handler's does: `session.run("orders", ...)`, `session.invoke("orders", ...)`.
    `name` is a name or an ARN.
    """

    def __init__(self, session: _Owner) -> None:
        self._session = session

    async def create(self, name: str, handler: str, **options: Unpack[StoredOptions]) -> Answer:
        """Store a function. Its code is not copied: it is what lies in `code_dir`.

        Raises:
            RefusedError: an option is unknown or refused, there is no such handler, or the name is taken; nothing was
                made.
        """
        request = _request(options, StoredOptions.__annotations__)
        request.update(FunctionName=name, Handler=handler)
        answer = await self._call(options, lambda functions: functions.create(request))
        await self._ring()  # mappings may have waited for it
        return answer

    async def get(self, name: str, qualifier: str | None = None) -> Answer:
        """A function as it is now, or one of its versions.

        Raises:
            RefusedError: there is none.
        """
        return await self._call({}, lambda functions: functions.get(name, qualifier))

    async def update(self, name: str, **options: Unpack[StoredChanges]) -> Answer:
        """Change what is given; what is not given stays. Mappings that run it go over to it at the edge of a batch.

        Raises:
            RefusedError: there is none, or an option is refused; nothing was changed.
        """
        request = _request(options, StoredChanges.__annotations__)
        answer = await self._call(options, lambda functions: functions.update(name, request))
        await self._ring()
        return answer

    async def delete(self, name: str) -> Answer:
        """Forget a function and its versions; the answer is what it was. Its code and its mappings stay.

        Raises:
            RefusedError: there is none.
        """
        answer = await self._call({}, lambda functions: functions.delete(name))
        await self._ring()
        return answer

    async def versions(self, name: str) -> list[Answer]:
        """`$LATEST`, and the versions that there have been, oldest first.

        Raises:
            RefusedError: there is no such function.
        """
        found: list[Answer] = (await self._call({}, lambda functions: functions.versions(name)))["Versions"]
        return found

    async def list(self) -> list[Answer]:
        """All of them, by name."""
        found: list[Answer] = (await self._call({}, lambda functions: functions.list_()))["Functions"]
        return found

    async def _ring(self) -> None:
        runtime = self._session.runtime
        await runtime.disk(bell.ring, runtime.data.locks_path)

    async def _call(self, options: Mapping[str, Any], work: Callable[[StoredFunctions], Answer]) -> Answer:
        runtime = self._session.runtime
        directory = code_directory(options)
        return await runtime.disk(lambda: work(StoredFunctions(lambda: runtime.store, directory)))


def event_text(event: object) -> bytes:
    """An event as JSON.

    Raises:
        RefusedError: it cannot be, or is too large.
    """
    try:
        text = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return checked_event(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise RefusedError(f"the event is not JSON: {error}") from None


_NAMES = {**stored.PLAIN, **stored.CONCURRENCY}


def _request(options: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The request that options make.

    Raises:
        RefusedError: an option is unknown, or of the wrong type.
    """
    check_options(options, known)
    request = {_NAMES[name]: value for name, value in options.items() if name in _NAMES}
    if "code_dir" in options:
        request["CodeDirectory"] = os.path.abspath(options["code_dir"])
    if "ephemeral_storage" in options:
        request["EphemeralStorage"] = {"Size": options["ephemeral_storage"]}
    if "environment" in options:
        request["Environment"] = {"Variables": dict(options["environment"])}
    if "layers" in options:
        request["Layers"] = [os.path.abspath(os.fspath(layer)) for layer in options["layers"]]
    return request
