"""Event source mappings as things, from a program: made, shown, changed, deleted and run as on the command line.

Options are Lambda's parameters in snake_case, answers the dicts of Lambda's API (as boto3 returns them, times as
seconds since 1970), refusals `RefusedError`s with Lambda's words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal, Protocol, TypedDict, Unpack

from streamfn.doors.errors import bare, explain
from streamfn.doors.options import FunctionOptions, check_options, code_directory, function_options, time_ms
from streamfn.errors import FailedError, HandlerImportError, RefusedError
from streamfn.functions.ranges import check_concurrency
from streamfn.mapping import configuration
from streamfn.mapping.managing import Answer, Mappings
from streamfn.mapping.resetting import reset_checkpoint
from streamfn.mapping.result import RunResult
from streamfn.mapping.runtime import Runtime
from streamfn.mapping.service import Service


class ManagedChanges(TypedDict, total=False):
    """What may be said of a mapping when it is made, and changed later: see `MappingOptions`.

    Attributes:
        enabled: whether it is to run.
        code_dir: where a handler that is named with it is looked for; the current directory where nothing is said.
        tags, metrics_config: kept, and of no effect.
    """

    enabled: bool
    batch_size: int
    maximum_batching_window_in_seconds: int
    parallelization_factor: int
    maximum_retry_attempts: int
    maximum_record_age_in_seconds: int
    bisect_batch_on_function_error: bool
    function_response_types: list[str]
    tumbling_window_in_seconds: int
    on_failure: str
    filter_criteria: Mapping[str, Any]
    filters_max: int
    metrics_config: Mapping[str, Any]
    code_dir: str | os.PathLike[str]


class ManagedOptions(ManagedChanges, total=False):
    """What may be said when it is made only."""

    name: str
    starting_position: Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"]
    starting_position_timestamp: datetime | str | float
    tags: Mapping[str, str]


class ServiceOptions(FunctionOptions, total=False):
    """What a run of all mappings is told: of their functions, and of their logs."""

    logs: Literal["failed", "all", "none"]
    on_damage: Literal["strict", "salvage"]


# What of that is given to functions that are not stored; a stored one has its own.
OF_ALL = tuple(
    "timeout_s" if name == "timeout" else name for name in ServiceOptions.__annotations__ if name != "code_dir"
)


class _Owner(Protocol):
    @property
    def runtime(self) -> Runtime:
        """The session's runtime; PoolClosed when the session is closed."""


class ManagedMappings:
    """The mappings of a data directory that were made as things. A session's `managed`.

    What one process asks for takes effect in the one that runs the mapping, at the edge of a batch. `which` is a UUID,
    a name, or `HANDLER@STREAM` where that is one alone.
    """

    def __init__(self, session: _Owner) -> None:
        self._session = session
        self._service: Service | None = None

    async def create(self, handler: str, stream: str, **options: Unpack[ManagedOptions]) -> Answer:
        """Make a mapping of a handler (by its name) on a stream (by its name or ARN), which `run` runs.

        It begins at `starting_position`, which has to be said, as that is now.

        Raises:
            RefusedError: an option is unknown or refused, there is no such handler or stream, or there is a mapping of
                this function on this stream; nothing was made.
        """
        request = _request(options, ManagedOptions.__annotations__)
        request.update(FunctionName=handler, EventSourceArn=stream)
        return await self._call(options, lambda mappings: mappings.create(request))

    async def get(self, which: str) -> Answer:
        """A mapping as it is now.

        Raises:
            RefusedError: there is none.
        """
        return await self._call({}, lambda mappings: mappings.get(which))

    async def list(self) -> list[Answer]:
        """All that were made so, oldest first."""
        answer = await self._call({}, lambda mappings: mappings.list_({}))
        found: list[Answer] = answer["EventSourceMappings"]
        return found

    async def update(self, which: str, handler: str | None = None, **options: Unpack[ManagedChanges]) -> Answer:
        """Change what is given of a mapping, its handler for example; what is not given stays.

        Raises:
            RefusedError: there is none, or an option is refused; nothing was changed.
        """
        request = _request(options, ManagedChanges.__annotations__)
        if handler is not None:
            request["FunctionName"] = handler
        return await self._call(options, lambda mappings: mappings.update(which, request))

    async def delete(self, which: str) -> Answer:
        """Delete a mapping and its checkpoints.

        Raises:
            RefusedError: there is none.
        """
        return await self._call({}, lambda mappings: mappings.delete(which))

    async def metrics(self, which: str) -> dict[str, int]:
        """Lambda's event counts of a mapping, of all its runs.

        Raises:
            RefusedError: there is none.
        """
        uuid = (await self.get(which))["UUID"]
        runtime = self._session.runtime
        progress = await runtime.disk(runtime.store.progress, uuid)
        return progress.counts()

    async def reset_checkpoint(self, which: str, to: str) -> dict[str, int]:
        """Put a mapping elsewhere: TRIM_HORIZON, LATEST, a time, or a sequence number, which moves its shard alone.

        Returns, for each shard that was moved, the offset of the record that it delivers next.

        Raises:
            RefusedError: there is no such mapping, or the position is none.
            BusyError: it runs; disable it before.
        """
        runtime = self._session.runtime
        done = await runtime.disk(reset_checkpoint, runtime.data, runtime.store, which, to)
        return done.offsets

    async def run(
        self, *, until_caught_up: bool = False, concurrency: int | None = None, **options: Unpack[ServiceOptions]
    ) -> dict[str, RunResult]:
        """Run all that are enabled, and those that are enabled meanwhile, until `drain` is called; results by UUID.

        With `until_caught_up` it ends when what was there at the start has been done. Mappings of one handler share its
        workers. `concurrency` is how many workers all functions may have together, 1 to 256: they have none that are
        warm then but those that are provisioned, and take turns where all want more.

        Cancellation: stops at once, as a mapping's `run`.

        Raises:
            RefusedError: an option is refused, a stream was deleted, or this session runs them already.
            BusyError: another process runs one of them.
            HandlerImportError: a handler cannot be loaded.
            FailedError: one could not go on; the others did.
        """
        runtime = self._session.runtime
        if self._service is not None:
            raise RefusedError("the mappings are running already")
        wanted = function_options("module.function", options, ServiceOptions.__annotations__)
        check_concurrency(concurrency)
        service = self._service = Service(
            runtime,
            until_caught_up=until_caught_up,
            concurrency=concurrency,
            **{name: getattr(wanted, name) for name in OF_ALL},
        )
        try:
            with bare():
                await service.open()
                await service.run()
        except HandlerImportError as error:
            explain(error)
            raise
        finally:
            self._service = None
            await service.close()
        for serving in service.served.values():
            if serving.error is not None:
                raise serving.error if isinstance(serving.error, FailedError) else FailedError(str(serving.error))
        return {uuid: serving.result for uuid, serving in service.served.items()}

    def drain(self) -> None:
        """Have the run that is going on stop at the edges of batches. Without a run nothing happens. No checkpoint."""
        if self._service is not None:
            self._service.drain()

    async def _call(self, options: Mapping[str, Any], work: Callable[[Mappings], Answer]) -> Answer:
        runtime = self._session.runtime
        directory = code_directory(options)
        return await runtime.disk(lambda: work(Mappings(runtime.data, lambda: runtime.store, directory)))


_NAMES = {field: name for name, field in configuration.PLAIN.items()} | {
    "enabled": "Enabled",
    "name": "Name",
    "filters_max": "FiltersMax",
    "filter_criteria": "FilterCriteria",
    "metrics_config": "MetricsConfig",
    "tags": "Tags",
}


def _request(options: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The request that options make.

    Raises:
        RefusedError: an option is unknown, or of the wrong type.
    """
    check_options(options, known)
    request = {_NAMES[name]: value for name, value in options.items() if name in _NAMES}
    if "starting_position_timestamp" in options:
        request["StartingPositionTimestamp"] = time_ms("starting_position_timestamp", options) / 1000
    if "function_response_types" in options:
        request["FunctionResponseTypes"] = list(options["function_response_types"])
    if "on_failure" in options:
        destination = options["on_failure"]
        request["DestinationConfig"] = {"OnFailure": {"Destination": destination} if destination else {}}
    return request
