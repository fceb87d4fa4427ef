"""A single invocation: an event of any kind, one worker, one answer.

    event ─▶ document ─▶ ring entry whose one extent names it ─▶ worker: the document is the event ─▶ answer

The rings know nothing of it: an extent without rows has named a document before, and which header that came with tells
the worker what it is. A worker with other things staged takes the call in its turn; what did not begin there, because
the worker went away, is taken to another one.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import trio

from streamfn._native import ffi
from streamfn.errors import HandlerImportError, PoolClosed
from streamfn.functions.refusals import ServiceRefused
from streamfn.functions.starting import function_config
from streamfn.limits import EVENT_BYTES_MAX
from streamfn.mapping import documents
from streamfn.mapping.logs import LogLines, Usage
from streamfn.mapping.outcome import fault_of
from streamfn.mapping.source import EVENT_HEADER
from streamfn.pool.lane import FailureKind
from streamfn.pool.pool import open_pool
from streamfn.types import Fault

if TYPE_CHECKING:
    from streamfn.functions.configuration import Configuration
    from streamfn.pool.function import Function
    from streamfn.pool.lane import Answer, LaneSeat
    from streamfn.pool.pool import Pool
    from streamfn.pool.worker import Worker

INVOKE = "Invoke"

# A call that finds no worker, or no room, looks again so soon. Nothing waits so but a call that cannot begin.
_AGAIN_S = 0.002


class Invocation(NamedTuple):
    """What came of a call.

    `payload` is the handler's response as JSON, or Lambda's error document where there is a `fault`. Times are
    CLOCK_MONOTONIC nanoseconds.
    """

    request_id: str
    payload: bytes
    fault: Fault | None
    started_ns: int
    finished_ns: int

    @property
    def result(self) -> Any:
        """What the handler returned, as it comes out of JSON; None when it failed."""
        return None if self.fault is not None else json.loads(self.payload)

    @property
    def error(self) -> dict[str, Any] | None:
        """Lambda's error document; None when the handler returned."""
        found: dict[str, Any] | None = None if self.fault is None else json.loads(self.payload)
        return found

    @property
    def function_error(self) -> str | None:
        """Lambda's X-Amz-Function-Error."""
        return None if self.fault is None else "Unhandled"


class Caller:
    """Calls functions of a pool. `refold` is told of a function when no call is on one of its workers any more."""

    def __init__(self, pool: Pool, refold: Callable[[Function], None]) -> None:
        self._pool = pool
        self._refold = refold
        self._calls: Counter[Worker] = Counter()

    def is_on(self, worker: Worker) -> bool:
        """Whether a call waits for the worker, whose answers are then told one by one."""
        return self._calls[worker] > 0

    async def invoke(self, function: Function, event: bytes, logs: LogLines) -> Invocation:
        """Call a function once with an event, which is JSON, and wait for what comes of it.

        Cancellation: what has not begun does not begin; what has, runs to its end or timeout, and nobody hears of it.

        Raises:
            PoolClosed: the function was stopped before there was an answer.
        """
        while True:
            worker = await self._free(function)
            call = _Call(self._pool, function, worker, logs, lambda: self._left(function, worker))  # noqa: B023
            self._calls[worker] += 1
            worker.fold = False  # a response is wanted, not that there was one
            try:
                found = await call.answered() if call.submit(event) else None
            finally:
                call.let_go()
            if found is not None:
                return found
            await trio.sleep(_AGAIN_S)

    async def _free(self, function: Function) -> Worker:
        """The worker with the least to do, as soon as there is one; that somebody waits makes the function grow."""
        waiting = object()
        try:
            while True:
                if function.is_stopped:
                    raise PoolClosed(f"{function.config.name} was stopped")
                worker = function.choose(waiting)
                if worker is not None and worker.room > 0:
                    return worker
                await trio.sleep(_AGAIN_S)
        finally:
            function.forget(waiting)

    def _left(self, function: Function, worker: Worker) -> None:
        self._calls[worker] -= 1
        if not self._calls[worker]:
            del self._calls[worker]
            self._refold(function)


class _Call:
    """One call on one worker. It is the pool's lane client: its callbacks do not wait and do not raise."""

    def __init__(
        self, pool: Pool, function: Function, worker: Worker, logs: LogLines, left: Callable[[], None]
    ) -> None:
        self._left = left
        self._pool = pool
        self._function = function
        self._worker = worker
        self._logs = logs
        self._seat: LaneSeat | None = None
        self._name: int | None = None
        self._over = trio.Event()
        self._found: Invocation | None = None
        self._abandoned = False
        self._gone = False

    def submit(self, event: bytes) -> bool:
        """Stage the call; False when there is no room."""
        try:
            self._seat = self._worker.seat_lane(self)
        except trio.WouldBlock:
            return False
        self._name = documents.introduce(self._worker, event, EVENT_HEADER)
        if self._name is None:
            return False
        extents: Any = ffi.new("sf_extent[]", 1)
        extents[0].segment_id = self._name
        if not self._seat.submit(extents, 1, time.monotonic_ns()):
            return False
        self._seat.publish()
        return True

    async def answered(self) -> Invocation | None:
        """Wait for the answer; None if the worker went away before it began, or the function was stopped."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_stopped, nursery.cancel_scope)
                await self._over.wait()
                nursery.cancel_scope.cancel()
        except trio.Cancelled:
            self._abandoned = True
            if self._seat is not None:
                self._seat.revoke()
            raise
        return self._found

    async def _wait_stopped(self, scope: trio.CancelScope) -> None:
        """A function that is stopped answers nobody."""
        await self._function.wait_stopped()
        scope.cancel()

    def let_go(self) -> None:
        """Give back what the worker keeps for the call, as soon as nothing of it is in flight."""
        if self._gone:
            return
        if self._seat is not None and self._seat.in_flight:
            self._abandoned = True
            return
        self._gone = True
        if self._name is not None:
            self._worker.let_go(self._name)
        if self._seat is not None:
            self._seat.leave()
        self._left()

    # ---- the pool's callbacks

    def succeeded(self, batches: int, finished_ns: int) -> None:
        """Not told while the worker's answers are kept apart; a handler that wrote to its rings returned nothing."""
        self._end(Invocation("", b"null", None, finished_ns, finished_ns))

    def completed(self, answer: Answer) -> None:
        """The handler returned."""
        self._answer(answer, None)

    def failed(self, answer: Answer, kind: FailureKind) -> None:
        """The handler failed; or it returned what a mapping would look into."""
        fault = None
        if kind is not FailureKind.RESPONSE:
            fault = fault_of(answer, kind, self._request_id(answer), self._function.config.timeout_s)
        self._answer(answer, fault)

    def returned(self, batches: int) -> None:
        """It did not begin."""
        self._end(None)

    def recalled(self) -> None:
        """There is nothing to stage behind it."""

    def printed(self, invocation: int, log: bytes) -> None:
        """It runs for some time, and wrote something."""
        self._logs.partial(invocation, self._pool.request_id(invocation), log)

    def _request_id(self, answer: Answer) -> str:
        return self._pool.request_id(answer.invocation)

    def _answer(self, answer: Answer, fault: Fault | None) -> None:
        request_id = self._request_id(answer)
        if answer.log or answer.log_dropped or fault is not None or self._logs.wants(answer.invocation):
            self._logs.ended(
                answer.invocation,
                request_id,
                answer.log,
                duration_ns=max(0, answer.finished_ns - answer.started_ns),
                fault=fault,
                usage=Usage.of(self._worker, answer),
                dropped=answer.log_dropped,
            )
        payload = answer.payload if fault is None else fault.document
        self._end(Invocation(request_id, payload, fault, answer.started_ns, answer.finished_ns))

    def _end(self, found: Invocation | None) -> None:
        self._found = found
        self._over.set()
        if self._abandoned:
            self.let_go()


async def invoke_once(
    configuration: Configuration, event: bytes, logs: LogLines, *, debug: bool = False, data_dir: str = ""
) -> Invocation:
    """Start a function with one worker, call it once, and stop it.

    A function that cannot be loaded is an answer, too: Lambda's error document of its Init.  `data_dir` is what a
    sandbox does not show.

    Raises:
        RefusedError, FailedError: it cannot be started on this machine.
    """
    async with open_pool(fold=False) as pool:
        config = await trio.to_thread.run_sync(
            lambda: function_config(
                configuration, workers=1, request_base=pool.request_base, debug=debug, data_dir=data_dir
            )
        )
        try:
            function = await pool.start(config)
            for text in function.shortcomings:
                logs.note(text)
        except HandlerImportError as error:
            logs.init_failed(error)
            document = {"errorMessage": str(error), "errorType": "Runtime.Unknown", **error.document}
            payload = orjson.dumps(document)
            fault = Fault(str(document["errorType"]), str(document["errorMessage"]), payload)
            return Invocation(str(document.get("requestId", "")), payload, fault, 0, 0)
        logs.init(function.init_log)
        return await Caller(pool, lambda function: None).invoke(function, event, logs)


def checked_event(text: bytes) -> bytes:
    """An event as it was given, which is JSON of any kind; `{}` where nothing was given.

    Raises:
        RefusedError: it is none, or is too large, in Lambda's words.
    """
    if len(text) > EVENT_BYTES_MAX:
        reason = f"Request must be smaller than {EVENT_BYTES_MAX} bytes for the {INVOKE} operation"
        raise ServiceRefused(INVOKE, "RequestTooLargeException", reason, f"the event has {len(text)}")
    if not text.strip():
        return b"{}"
    try:
        json.loads(text.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        reason = "Could not parse request body into json: Could not parse payload into json"
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ServiceRefused(INVOKE, "InvalidRequestContentException", f"{reason}: {why}") from None
    return text


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")
