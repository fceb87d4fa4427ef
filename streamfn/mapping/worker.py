"""The worker's main: ring entry → event → handler → completion.

`init` runs once, in the zygote: it prepares logging as Lambda does and imports the handler; `before_fork` runs hooks
before the snapshot.  In every worker `begin` runs those behind it and makes what is the environment's own, and `main`
runs for ever: it claims the next entry, builds the event straight from the mapped segment, calls the handler and
answers.  Nothing here imports trio, pyarrow or click: a worker pays for what its handler imports and no more (a test
looks at `sys.modules`).

The loop is the hot path: its locals are bound once, and it does nothing for an invocation that the
invocation does not need.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

import orjson

from streamfn import _events
from streamfn._native import ffi, lib
from streamfn.events import arrow, document, partial
from streamfn.events.response import MarshalError, marshal
from streamfn.functions.environment import ON_DEMAND, log_stream_name
from streamfn.limits import RESPONSE_BYTES_MAX
from streamfn.mapping import calling, snapshot
from streamfn.mapping.calling import Handler, Instance
from streamfn.mapping.context import LambdaContext, context_class
from streamfn.mapping.handler import InitError, load_handler
from streamfn.mapping.source import DOCUMENT_HEADER, EVENT_HEADER, native_source
from streamfn.pool.confine.rlimits import give_way
from streamfn.pool.protocol import BEGIN, RESTORE, InitFailed
from streamfn.pool.request_id import request_id
from streamfn.pool.seat import Seat
from streamfn.types import Fault

# Of the extents at an address, so many of them: an event, or a record batch.
Build = Callable[[int, int, dict[int, _events.Segment]], Any]

# Eight bytes each of a `struct ArrowArray` (native/events/arrow.h).
ARROW_ARRAY_WORDS = 10

# How long the desk sleeps at a stretch: signal handlers of the user's module run in between.
SLICE_NS = 100_000_000

# Bound before any handler can put something else in their places.
_exit, _close, _fstat, _pread = os._exit, os.close, os.fstat, os.pread

# No timeout (debugging) is a deadline that no clock of ours reaches.
NEVER_NS = 2**62


class State(NamedTuple):
    """What the zygote prepared for every worker.  `handler` is what invocations call once the worker has begun."""

    handler: Handler | Instance
    function_arn: str
    request_base: str
    timeout_ns: int
    judge: str | None = None  # what a response means; see `_outcomes`
    provisioned: int = 0  # so many workers are kept warm; they are the first
    limited: bool = False  # whether a MemoryError means that the function's memory is used up
    columns: bool = False  # whether the handler takes record batches
    measured: bool = False  # whether to stamp when an event has been built


class Unreachable(Exception):
    """A batch's segments cannot be had any more."""


class RequestIdFilter(logging.Filter):
    """Adds `aws_request_id` to log records, as Lambda's does."""

    current = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, with the id of the invocation that runs."""
        record.aws_request_id = RequestIdFilter.current
        return True


def init(settings: Mapping[str, Any]) -> State:
    """Init: prepare logging, import the handler.

    `settings`: handler (its name), callable (the handler itself, in a forked zygote), path (the whole of
    `sys.path`; empty: as it is), layers (what goes on it behind the code directory), function_arn, request_base,
    timeout_s (None: no limit), judge (None or missing: whatever can be marshalled is success; "batch_item_failures":
    the response says what failed; "window": the mapping looks at every response), provisioned (how many workers are
    kept warm), memory_mb (None: no limit), measured (stamp when an event has been built).

    Raises:
        InitFailed: with Lambda's error document.
    """
    given: Handler | None = settings.get("callable")
    if given is not None:
        logging.getLogger().handlers.clear()  # those of the process this one was forked from
    _prepare_logging()
    if settings["path"]:
        sys.path[:] = settings["path"]
    place = 0 if given is not None else 1  # the code directory is first
    sys.path[place:place] = settings.get("layers", ())
    # Python tells a cached module from a changed source by its size and whole seconds: code that was just changed must
    # not come out of a cache that we have written.
    sys.dont_write_bytecode = True
    snapshot.provide()
    try:
        handler = load_handler(settings["handler"]) if given is None else calling.shape(given)
    except InitError as error:
        if settings.get("memory_mb") is not None and isinstance(error.__cause__, MemoryError):
            give_way()
            raise InitFailed(document.out_of_memory("").document) from error
        raise InitFailed(error.fault.document) from error
    if calling.is_async(handler):
        import_module("streamfn.mapping.loop")  # asyncio: here, so that workers need not
    columns = calling.marked(handler, arrow.MARK)
    if columns:
        if settings.get("judge") == "window":
            raise InitFailed(document.arrow_refused(arrow.WINDOWED).document)
        arrow.prepare()
    timeout_s = settings["timeout_s"]
    timeout_ns = NEVER_NS if timeout_s is None else int(timeout_s * 1_000_000_000)
    return State(
        handler,
        settings["function_arn"],
        settings["request_base"],
        timeout_ns,
        settings.get("judge"),
        settings.get("provisioned", 0),
        settings.get("memory_mb") is not None,
        columns,
        settings.get("measured", False),
    )


def before_fork(state: State) -> str | None:
    """Run the hooks before the snapshot; return what workers will do before they are ready (`protocol`).

    Raises:
        InitFailed: a hook raised.
    """
    try:
        snapshot.run_before()
    except (Exception, SystemExit) as error:  # the border to the user's code
        fault = document.hook_failed(error, document.BEFORE_SNAPSHOT)
        raise InitFailed(fault.document, snapshot.BEFORE_STATUS) from error
    if snapshot.has_after_hooks():
        return RESTORE
    return BEGIN if isinstance(state.handler, Instance) else None


def begin(state: State, *, forked: bool) -> State:
    """Do what every environment does for itself before it takes work, and return the state for `main`.

    Hooks behind the restore (in a process that was `forked` from the one that did Init), then the event loop of an
    async handler, then the instance of a handler class.

    Raises:
        InitFailed: a hook, or the class, raised.
    """
    if forked:
        try:
            snapshot.run_after()
        except (Exception, SystemExit) as error:  # the border to the user's code
            fault = document.hook_failed(error, document.AFTER_RESTORE)
            raise InitFailed(fault.document, snapshot.AFTER_STATUS) from error
    handler = state.handler
    loop = import_module("streamfn.mapping.loop").EventLoop() if calling.is_async(handler) else None
    if isinstance(handler, Instance):
        module = handler.cls.__module__
        try:
            handler = handler.make()
        except (Exception, SystemExit) as error:  # the border to the user's code
            raise InitFailed(document.init_error(error, module).document) from error
    return state._replace(handler=handler if loop is None else loop.calling(handler))


def _prepare_logging() -> None:
    """The root logger as Lambda sets it up: level WARNING, one handler, times in UTC."""
    logging.Formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stdout)
    form = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s"
    handler.setFormatter(logging.Formatter(form, "%Y-%m-%dT%H:%M:%S"))
    handler.addFilter(RequestIdFilter())
    logging.getLogger().addHandler(handler)


class Segments(dict[int, _events.Segment]):
    """The segments this worker has mapped, by id; one that is missing is on its way through the socket.

    `documents` are JSON (`DOCUMENT_HEADER`), `events` are whole events as JSON (`EVENT_HEADER`); they come and go the
    same way.
    """

    def __init__(self, seat: Seat) -> None:
        super().__init__()
        self.documents: dict[int, bytes] = {}
        self.events: dict[int, bytes] = {}
        self._seat = seat

    def receive(self, segment_id: int) -> None:
        """Take descriptors from the socket until `segment_id` is there.

        The runtime sends a descriptor before it submits the first extent that needs it, so this does not wait.
        """
        while segment_id not in self and segment_id not in self.documents and segment_id not in self.events:
            received_id, header, descriptor = self._seat.receive_segment()
            size = _fstat(descriptor).st_size
            if header in (DOCUMENT_HEADER, EVENT_HEADER):
                kept = self.documents if header == DOCUMENT_HEADER else self.events
                kept[received_id] = _pread(descriptor, size, 0)
                _close(descriptor)
                continue
            address = lib.sf_map(descriptor, size)
            _close(descriptor)
            if not address:
                raise OSError(ffi.errno, f"cannot map segment {received_id} of {size} bytes")
            where = int(ffi.cast("uintptr_t", address))
            self[received_id] = _events.Segment(native_source(header), where, size, owned=True)

    def retire(self, segment_id: int) -> None:
        """Let a mapping go; one that never arrived is taken from the socket first, so that it does not stay there.

        A record batch that a handler still holds keeps it.
        """
        self.receive(segment_id)
        if self.documents.pop(segment_id, None) is None and self.events.pop(segment_id, None) is None:
            del self[segment_id]


def main(state: State, seat: Seat) -> NoReturn:
    """Serve the rings until the process is ended from outside, or its descriptors are lost."""
    os.environ["AWS_LAMBDA_LOG_STREAM_NAME"] = log_stream_name()
    if seat.index >= state.provisioned:
        os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"] = ON_DEMAND
    context_type = context_class(os.environ, state.function_arn)
    _rebind_logging()
    segments = Segments(seat)
    desk, work = seat.desk, ffi.new("sf_work *")
    next_entry = lib.sf_desk_next
    build, build_selected = _columns(work) if state.columns else (_events.build, _build_selected(work))
    if state.judge == "window":
        build, build_selected = _with_document(build, segments), _with_document(build_selected, segments)
    seat.watch()
    invoke = _invoker(state, seat, segments, context_type, build)
    invoke_selected = _invoker(state, seat, segments, context_type, build_selected)
    while True:
        kind = next_entry(desk, work, SLICE_NS)
        if kind == 0:  # SF_NEXT_INVOKE
            if not invoke(work):
                _exit(1)
        elif kind == 4:  # SF_NEXT_SELECTED
            if not invoke_selected(work):
                _exit(1)
        elif kind == 1:  # SF_NEXT_RETIRE
            segments.retire(work.segment_id)
            if not lib.sf_desk_retired(desk):
                _exit(1)
        elif kind == 3:  # SF_NEXT_LOST: the handler closed our descriptors; nothing may be written any more
            _exit(1)


def _rebind_logging() -> None:
    """The forked process has a standard output of its own: the root handler follows it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and any(
            isinstance(each, RequestIdFilter) for each in handler.filters
        ):
            handler.setStream(sys.stdout)


def _build_selected(work: Any) -> Build:
    """Return what builds the event of a batch with selected rows, `work` being the entry that has been claimed."""
    build = _events.build
    return lambda extents, count, segments: build(extents, count, segments, work.selection, work.selected)


def _columns(work: Any) -> tuple[Build, Build]:
    """Return what builds the record batches of an Arrow handler, and those of selected rows of the entry `work`."""
    room = ffi.new("uint64_t[]", ARROW_ARRAY_WORDS)
    array = int(ffi.cast("uintptr_t", room))
    export, import_batch = _events.export, arrow.importer()

    def build(extents: int, count: int, segments: dict[int, _events.Segment], room: Any = room) -> Any:
        return import_batch(array, export(array, extents, count, segments))

    def build_selected(extents: int, count: int, segments: dict[int, _events.Segment], room: Any = room) -> Any:
        return import_batch(array, export(array, extents, count, segments, work.selection, work.selected))

    return build, build_selected


def _with_document(build: Build, segments: Segments) -> Build:
    """Return what builds events whose first extent, without rows, names the document of what stands beside `Records`.

    It raises KeyError, as `build` does, where that or a segment has not come yet.
    """

    def build_both(extents: int, count: int, mapped: dict[int, _events.Segment]) -> Any:
        first = ffi.cast("sf_extent *", extents)
        beside = json.loads(segments.documents[first.segment_id])
        event = build(int(ffi.cast("uintptr_t", first + 1)) if count > 1 else 0, count - 1, mapped)
        event.update(beside)
        return event

    return build_both


def _invoker(
    state: State, seat: Seat, segments: Segments, context_type: type[LambdaContext], build: Build
) -> Callable[[Any], bool]:
    """One invocation as a closure over everything that does not change between two of them."""
    handler, timeout_ns, base = state.handler, state.timeout_ns, state.request_base
    assert not isinstance(handler, Instance), "the worker has not begun"
    desk, finish, give_back, flush = seat.desk, lib.sf_desk_finish, lib.sf_desk_return, seat.flush_stdio
    identify, outcome_of, limited = RequestIdFilter, _outcomes(state.judge), state.limited
    measured, called = state.measured, lib.sf_desk_called

    def invoke(work: Any) -> bool:
        fault: Fault | None
        invocation = request_id(base, work.invocation)
        extents, count = work.extents, work.extent_count
        try:
            event = build(extents, count, segments)
        except KeyError as missing:
            try:
                event = _event_after_receiving(missing.args[0], extents, count, segments, build)
            except Unreachable as lost:
                seat.log(f"streamfn: this worker gets no segments any more, and ends: {lost}\n")
                if identify.current:  # what earlier handlers have done to this process is not this batch's fault
                    give_back(desk)
                return False  # else it is Init's, which every other worker has from it, too: the batch has failed
        identify.current = invocation
        if measured:
            called(desk)
        try:
            result = handler(event, context_type(invocation, work.started_ns + timeout_ns))
            answer = marshal(result)
        except MarshalError as error:
            fault = document.marshal_error(error, invocation)
        except MemoryError as error:
            fault = None if limited else document.from_exception(error, invocation)
        except Exception as error:  # a handler may raise anything: this is the border to the user's code
            fault = document.from_exception(error, invocation)
        except SystemExit:
            raise
        except BaseException as error:  # KeyboardInterrupt, CancelledError: they end the process, as in Lambda
            _log_fault(seat, document.from_exception(error, invocation))
            raise SystemExit(1) from None
        else:
            if seat.forked:
                seat.leave_fork()
            if len(answer) <= RESPONSE_BYTES_MAX:
                sound = flush()
                return finish(desk, 0 if outcome_of is None else outcome_of(answer), answer, len(answer)) and sound
            fault = document.too_large(RESPONSE_BYTES_MAX)
        if seat.forked:
            seat.leave_fork()
        if fault is None:
            del event  # with the exception and its frames it is most of what there is to be let go
            _run_out(seat, invocation)
        sound = flush()
        _log_fault(seat, fault)
        return finish(desk, 1, fault.document, len(fault.document)) and sound

    return invoke


def _run_out(seat: Seat, invocation: str) -> NoReturn:
    """Answer that the function's memory is used up, and end: what is left of it is not to be gone on with."""
    give_way()
    fault = document.out_of_memory(invocation)
    seat.flush_stdio()
    lib.sf_desk_finish(seat.desk, 1, fault.document, len(fault.document))
    _exit(1)


def _outcomes(judge: str | None) -> Callable[[bytes], int] | None:
    """Return what gives the outcome of a response, or None where every response is a success.

    Only what is success for certain may be SF_OK: behind it the worker goes on with the lane. The mapping judges the
    rest.
    """
    ok, partly = lib.SF_OK, lib.SF_PARTLY
    if judge == "batch_item_failures":
        return lambda answer: ok if partial.is_whole(answer) else partly
    if judge == "window":
        return lambda answer: partly
    assert judge is None, judge
    return None


def _event_after_receiving(segment_id: int, extents: int, count: int, segments: Segments, build: Build) -> Any:
    """Build an event whose segments have not all been mapped yet, or that has come as it is (and is no batch's)."""
    while True:
        try:
            segments.receive(segment_id)
        except Exception as error:
            raise Unreachable(repr(error)) from error
        whole = segments.events.get(segment_id)
        if whole is not None:
            return json.loads(whole)
        try:
            return build(extents, count, segments)
        except KeyError as missing:
            segment_id = missing.args[0]


def _log_fault(seat: Seat, fault: Fault) -> None:
    """The error in the log, in Lambda's form."""
    frames = orjson.loads(fault.document).get("stackTrace") or []
    seat.log(document.log_text(fault.error_type, fault.message, frames))
