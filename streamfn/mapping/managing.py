"""Creating, listing, showing, updating and deleting mappings, as Lambda's event source mapping API does it.

Requests and answers are dicts under Lambda's names; refusals are `ServiceRefused`, in Lambda's words where those are
known. Nothing runs here: whoever runs mappings hears the bell, and brings what was asked for into effect at the edge of
a batch. Where nobody runs them it is in effect at once.

Every call waits for the disk.
"""

from __future__ import annotations

import re
import uuid as uuids
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from streamfn import limits
from streamfn.clock import Clock, SystemClock
from streamfn.core.filter import check as check_filters
from streamfn.errors import BusyError, Fenced, RefusedError
from streamfn.functions.configuration import function_arn, function_name_of
from streamfn.functions.finding import handler_exists
from streamfn.functions.naming import is_stored_name, split_qualifier
from streamfn.functions.refusals import invalid, violation
from streamfn.functions.shapes import check
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import KINESIS, Stream, default_arn
from streamfn.mapping import bell, configuration, lifecycle, refusals, request
from streamfn.mapping.delivery import refuse_destination
from streamfn.mapping.destinations import resolve_destination
from streamfn.mapping.options import ARN_PATTERN, RunOptions, check_meaning, check_ranges
from streamfn.mapping.position import check_position, starting_offsets
from streamfn.state.managed import Managed
from streamfn.state.owner import Ownership, is_owned
from streamfn.state.store import Store, StoredMapping

CREATE, GET, LIST = "CreateEventSourceMapping", "GetEventSourceMapping", "ListEventSourceMappings"
UPDATE, DELETE = "UpdateEventSourceMapping", "DeleteEventSourceMapping"

Answer = dict[str, Any]

_LATEST = ":$LATEST"
_METRICS = ("EventCount", "ErrorCount", "KafkaMetrics")
_SERVICES = ("kinesis", "dynamodb")


class Mappings:
    """The mappings of a data directory. `code_dir` is where handlers that are named from now on are looked for.

    The store is opened when it is needed: by `create`, when everything that does not need it has been checked.
    """

    def __init__(
        self, data: DataDir, open_store: Callable[[], Store], code_dir: Path, clock: Clock | None = None
    ) -> None:
        self._data = data
        self._open_store = open_store
        self._code_dir = code_dir
        self._clock = clock or SystemClock()

    @cached_property
    def _store(self) -> Store:
        return self._open_store()

    # ---- requests

    def create(self, asked: Mapping[str, Any]) -> Answer:
        """Make a mapping that begins at its starting position as it is now.

        Raises:
            RefusedError: a parameter is refused (see the module), or the name is taken; nothing was made.
        """
        check(asked, request.CREATE, required="FunctionName")
        self._check_ranges(CREATE, asked)
        camel = request.unsupported(asked, request.CREATE)
        if camel is not None:
            raise invalid(CREATE, f"Unsupported '{camel}' parameter for given event source mapping type.")
        source = self._source(asked.get("EventSourceArn"))
        self._check_on_success(CREATE, asked)
        handler, suffix = self._function(CREATE, asked["FunctionName"])
        if "StartingPosition" not in asked:
            null = "Value null at 'startingPosition' failed to satisfy constraint: Member must not be null."
            raise invalid(CREATE, f"1 validation error detected: {null}")
        stream = self._stream(source)
        uuid = str(uuids.uuid4())
        given = configuration.merged({}, asked)
        given.update(EventSourceArn=source if source.startswith("arn:") else stream.arn)
        given.update(FunctionArn=_function_arn(stream.arn, handler) + suffix)
        named = asked.get("Name", uuid)
        options = configuration.run_options(given, **configuration.target(handler), stream=stream.name, name=named)
        self._check_meaning(CREATE, options, stream, self._code_dir)
        enabled = bool(asked.get("Enabled", True))
        now_ms = self._clock.unix_ms()
        whole = {**configuration.stored(options), **configuration.kept(given)}
        mapping = StoredMapping(
            uuid, options.name, stream.id, stream.name, handler, str(self._code_dir), whole, 0, now_ms, now_ms
        )
        wanted = Managed(enabled, lifecycle.after_create(enabled), lifecycle.USER_ACTION, 1, now_ms)
        self._sweep()
        starts = starting_offsets(stream, options.starting_position, options.starting_position_timestamp)
        self._store.create(mapping, wanted, starts, lambda others: self._check_others(CREATE, mapping, others))
        bell.ring(self._data.locks_path)
        return self._answer(mapping, wanted.state)

    def get(self, which: str) -> Answer:
        """Show a mapping, by its UUID, its name, or `HANDLER@STREAM`.

        Raises:
            ServiceRefused: there is none.
        """
        mapping, state = self._found(GET, which)
        return self._answer(mapping, state)

    def list_(self, asked: Mapping[str, Any], *, everything: bool = False) -> Answer:
        """Show those made by `create`, of one function or stream if that is asked for; or `everything` there is.

        As in Lambda, a function or a stream that does not exist has no mappings.

        Raises:
            RefusedError: a parameter is unknown, or of the wrong type.
        """
        check(asked, request.LIST)
        found = []
        for mapping in self._store.mappings() if everything else [one for one, _ in self._store.all_managed()]:
            state = self._state(mapping)
            if state is not None:
                found.append(self._answer(mapping, state))
        source, function = asked.get("EventSourceArn"), asked.get("FunctionName")
        if source is not None:
            arns = {source} | {stream.arn for stream in self._data.streams() if stream.name == source}
            found = [one for one in found if one["EventSourceArn"] in arns]
        if function is not None:
            wanted = _bare_function(function)
            found = [one for one in found if wanted == _bare_function(one["FunctionArn"])]
        return {"EventSourceMappings": found[: asked.get("MaxItems")]}

    def update(self, which: str, asked: Mapping[str, Any]) -> Answer:
        """Change what is given of a mapping; what is not stays.

        Raises:
            RefusedError: there is none, or a parameter is refused; nothing was changed.
        """
        check(asked, request.UPDATE)
        self._check_ranges(UPDATE, asked)
        mapping, _ = self._found(UPDATE, which)
        if self._store.managed(mapping.uuid) is None:
            raise RefusedError(
                f"the mapping {mapping.name!r} was left behind by `streamfn run {mapping.handler}`, "
                "which says its options anew each time: make one with `streamfn mapping create`"
            )
        camel = request.unsupported(asked, request.UPDATE)
        if camel is not None:
            raise invalid(UPDATE, f"Unsupported '{camel}' parameter for given event source mapping type.")
        self._check_on_success(UPDATE, asked)
        function = None if "FunctionName" not in asked else self._function(UPDATE, asked["FunctionName"])
        stream = self._stream_of(mapping)
        enable = asked.get("Enabled")

        def changed(before: StoredMapping, wanted: Managed) -> tuple[StoredMapping, Managed]:
            if wanted.state == lifecycle.DELETING:
                raise refusals.in_use(UPDATE)
            given = configuration.merged(before.options, asked)
            after = before
            if function is not None:
                handler, suffix = function
                given["FunctionArn"] = _function_arn(_arn(before, stream), handler) + suffix
                after = before._replace(handler=handler, code_dir=str(self._code_dir))
                self._check_others(UPDATE, after, self._store.all_managed())
            options = configuration.run_options(
                given, **configuration.target(after.handler), stream=before.stream_name, name=before.name
            )
            self._check_meaning(UPDATE, options, stream, Path(after.code_dir))
            after = after._replace(options={**configuration.stored(options), **configuration.kept(given)})
            state = lifecycle.after_update(enable)
            enabled = wanted.enabled if enable is None else bool(enable)
            return after, wanted._replace(enabled=enabled, state=state, reason=lifecycle.USER_ACTION)

        try:
            mapping, wanted = self._store.alter(mapping.uuid, changed)
        except Fenced:
            raise refusals.not_found(UPDATE, which) from None
        bell.ring(self._data.locks_path)
        return self._answer(mapping, wanted.state)

    def delete(self, which: str) -> Answer:
        """Delete a mapping and its checkpoints: at once, or at the edge of a batch by the process that runs it.

        Raises:
            ServiceRefused: there is none.
            BusyError: `run HANDLER` runs it in some process.
        """
        mapping, _ = self._found(DELETE, which)
        answer = self._answer(mapping, lifecycle.DELETING)
        if self._store.managed(mapping.uuid) is not None:
            try:
                self._store.alter(mapping.uuid, _deleting)
            except Fenced:
                raise refusals.not_found(DELETE, which) from None
        try:
            with Ownership.acquire(self._data.locks_path / mapping.uuid):
                self._store.remove(mapping.uuid)
        except BusyError as error:
            if self._store.managed(mapping.uuid) is None:
                raise BusyError(f"mapping {mapping.title!r} is not deleted: it is {error}") from None
            bell.ring(self._data.locks_path)
        return answer

    # ---- what a request is checked for

    def _check_ranges(self, operation: str, asked: Mapping[str, Any]) -> None:
        given = configuration.merged({}, asked)
        try:
            check_ranges(configuration.run_options(given, handler="module.function", stream="stream"))
            _check_texts(asked)
        except RefusedError as error:
            raise violation(operation, str(error)) from None

    def _check_meaning(self, operation: str, options: RunOptions, stream: Stream | None, code_dir: Path) -> None:
        try:
            if stream is not None:
                check_position(stream, options.starting_position)
            check_meaning(options, now_ms=self._clock.unix_ms())
            check_filters(options.filters, None if stream is None else stream.kind, at_most=options.filters_max)
            destination = resolve_destination(options.on_failure, code_dir)
            if destination:
                refuse_destination(self._data, destination)
        except RefusedError as error:
            raise invalid(operation, str(error)) from None

    def _check_on_success(self, operation: str, asked: Mapping[str, Any]) -> None:
        if "OnSuccess" in asked.get("DestinationConfig", {}):
            reason = "Unsupported DestinationConfig parameter for given event source mapping type."
            raise invalid(operation, reason)

    def _source(self, given: str | None) -> str:
        """The event source that was asked for: an ARN of one of the two services, or a name."""
        if not given or (given.startswith("arn:") and given.split(":")[2] not in _SERVICES):
            raise invalid(CREATE, "Unrecognized event source.")
        return given

    def _stream(self, source: str) -> Stream:
        """The stream that a name or an ARN means; an ARN may be that of one of its consumers."""
        if source.startswith("arn:"):
            arn = source.partition("/consumer/")[0]
            for stream in self._data.streams():
                if stream.arn == arn:
                    return stream
            raise invalid(CREATE, f"Stream not found: {source}")
        found = self._data.find(source)
        if found is None:
            raise invalid(CREATE, f"Stream not found: {default_arn(source, KINESIS, 0)}")
        return found

    def _function(self, operation: str, given: str) -> tuple[str, str]:
        """The handler that is meant, and what its ARN ends in where a version was named."""
        handler, suffix = (given.removesuffix(_LATEST), _LATEST) if given.endswith(_LATEST) else (given, "")
        if is_stored_name(handler):
            return self._stored_function(operation, handler), suffix
        if not handler_exists(handler, self._code_dir):
            more = f"{handler!r} is no handler, module.function, that can be found from {self._code_dir}"
            raise invalid(operation, "Function does not exist", more)
        return handler, suffix

    def _stored_function(self, operation: str, given: str) -> str:
        """The name of the stored function that a name or an ARN means."""
        named = split_qualifier(given)
        name, version = (given, None) if named is None else named
        if version is not None:
            more = f"only {_LATEST[1:]} is there: the code of version {version} is not kept"
            raise invalid(operation, "Function does not exist", more)
        if not self._data.state_path.exists() or self._store.functions.get(name) is None:
            more = f"{name!r} is no stored function (streamfn function create), and no handler, module.function"
            raise invalid(operation, "Function does not exist", more)
        return name

    def _check_others(
        self, operation: str, mapping: StoredMapping, others: list[tuple[StoredMapping, Managed]]
    ) -> None:
        """Refuse a second mapping of the same function on the same stream."""
        name = function_name_of(mapping.handler)
        for other, _ in others:
            same = other.stream_id == mapping.stream_id and function_name_of(other.handler) == name
            if same and other.uuid != mapping.uuid:
                stream = self._stream_of(mapping)
                raise refusals.duplicate(operation, _arn(mapping, stream), name, other.uuid)

    # ---- what there is

    def _found(self, operation: str, which: str) -> tuple[StoredMapping, str]:
        mapping = self._store.find(which)
        state = None if mapping is None else self._state(mapping)
        if mapping is None or state is None:
            raise refusals.not_found(operation, which)
        return mapping, state

    def _state(self, mapping: StoredMapping) -> str | None:
        """The state that is shown; None if the mapping is as good as gone.

        A mapping that `run HANDLER` left behind is enabled while that runs it.
        """
        wanted = self._store.managed(mapping.uuid)
        lock = self._data.locks_path / mapping.uuid
        if wanted is None:
            return lifecycle.ENABLED if is_owned(lock) else lifecycle.DISABLED
        if lifecycle.in_transition(wanted.state) and not is_owned(lock):
            return lifecycle.settled(wanted.state, wanted.enabled)
        return wanted.state

    def _sweep(self) -> None:
        """Remove what was deleted while it ran in a process that then ended before it could."""
        for mapping, wanted in self._store.all_managed():
            if wanted.state == lifecycle.DELETING:
                try:
                    with Ownership.acquire(self._data.locks_path / mapping.uuid):
                        self._store.remove(mapping.uuid)
                except BusyError:
                    continue  # its process is about to

    def _stream_of(self, mapping: StoredMapping) -> Stream | None:
        """The mapping's stream, or that of the same name that has taken its place; None if it was deleted."""
        try:
            return self._data.stream_by_id(mapping.stream_id)
        except RefusedError:
            return self._data.find(mapping.stream_name)

    def _answer(self, mapping: StoredMapping, state: str) -> Answer:
        wanted = self._store.managed(mapping.uuid)
        stream_arn = _arn(mapping, self._stream_of(mapping))
        return configuration.answer(
            mapping.options,
            uuid=mapping.uuid,
            stream_arn=stream_arn,
            function_arn=_function_arn(stream_arn, mapping.handler),
            state=state,
            reason=lifecycle.USER_ACTION if wanted is None else wanted.reason,
            last_result=self._store.progress(mapping.uuid).last_result or lifecycle.NOTHING_YET,
            modified_ms=mapping.updated_ms if wanted is None else wanted.modified_ms,
        )


def _deleting(mapping: StoredMapping, wanted: Managed) -> tuple[StoredMapping, Managed]:
    return mapping, wanted._replace(enabled=False, state=lifecycle.DELETING, reason=lifecycle.USER_ACTION)


def _check_texts(asked: Mapping[str, Any]) -> None:
    """Refuse texts that the service's model refuses; our names of streams and handlers are beside it.

    Raises:
        RefusedError: in the service's words.
    """
    if asked.get("Name") == "":
        raise RefusedError("mapping name '' is not valid: leave it out for the UUID")
    metrics = asked.get("MetricsConfig", {}).get("Metrics", [])
    if not set(metrics) <= set(_METRICS):
        allowed = f"Member must satisfy constraint: [Member must satisfy enum value set: [{', '.join(_METRICS)}]]"
        raise _violation(f"[{', '.join(metrics)}]", "metricsConfig.metrics", allowed)
    source = asked.get("EventSourceArn")
    if source and not re.fullmatch(ARN_PATTERN if ":" in source else limits.STREAM_NAME_PATTERN, source):
        raise _violation(source, "eventSourceArn", f"Member must satisfy regular expression pattern: {ARN_PATTERN}")
    function = asked.get("FunctionName")
    if function == "":
        raise _violation(function, "functionName", "Member must have length greater than or equal to 1")
    if function is not None and len(function) > limits.FUNCTION_NAME_CHARS_MAX:
        least = f"Member must have length less than or equal to {limits.FUNCTION_NAME_CHARS_MAX}"
        raise _violation(function, "functionName", least)


def _violation(value: str, member: str, rule: str) -> RefusedError:
    return RefusedError(
        f"1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: {rule}"
    )


def _arn(mapping: StoredMapping, stream: Stream | None) -> str:
    given = mapping.options.get("EventSourceArn")
    return stream.arn if stream is not None else str(given or default_arn(mapping.stream_name, KINESIS, 0))


def _function_arn(stream_arn: str, handler: str) -> str:
    region = stream_arn.split(":")[3] or "us-east-1"
    return function_arn(region, function_name_of(handler))


def _bare_function(text: str) -> str:
    """A function's name, from a handler, the name itself, or its ARN; a version or alias stays."""
    name, suffix = (text.removesuffix(_LATEST), _LATEST) if text.endswith(_LATEST) else (text, "")
    return (name.split(":")[6] if name.startswith("arn:") and name.count(":") == 6 else function_name_of(name)) + suffix
