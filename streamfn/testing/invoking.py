"""The workers of `run_mapping`: they call the handler in this process, as production's do in their own."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from streamfn.events import document, partial, window
from streamfn.events.partial import Failed, Partly, is_whole
from streamfn.events.response import MarshalError, marshal
from streamfn.limits import RESPONSE_BYTES_MAX
from streamfn.testing.builders import VirtualContext, context_type
from streamfn.testing.clock import NS_PER_S, TimeIsUp, VirtualClock
from streamfn.testing.engine import Judged
from streamfn.testing.environments import Environment
from streamfn.testing.pool import Ending, Entry, Outcome
from streamfn.testing.results import Batch, OutcomeName
from streamfn.testing.scripts import Dies, Raises, Returns, Script, Step, Throttled
from streamfn.testing.stream import MemoryStream
from streamfn.types import Fault

_THROTTLED = Fault("TooManyRequestsException", "Rate Exceeded.", b'{"message":"Rate Exceeded."}')
_NAMES: dict[Outcome, OutcomeName] = {
    Outcome.OK: "succeeded",
    Outcome.FAILED: "failed",
    Outcome.THROTTLED: "throttled",
    Outcome.TIMED_OUT: "timed out",
    Outcome.CRASHED: "died",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSetup:
    """What a function is, and what its answers are read for."""

    handler: Callable[..., Any] | Script
    name: str
    timeout_seconds: float
    memory_limit_in_mb: int
    windowed: bool
    reports_failures: bool


class InProcess:
    """Calls a real handler for any number of workers.  `batches` is what happened."""

    def __init__(self, stream: MemoryStream, clock: VirtualClock, function: FunctionSetup, start_ns: int) -> None:
        self.batches: list[Batch] = []
        self.requests: dict[tuple[str, int], str] = {}  # by record: the last invocation that had it
        self._stream = stream
        self._clock = clock
        self._function = function
        self._start_ns = start_ns
        self._environments: list[InEnvironment] = []
        self._context: type[VirtualContext] = context_type(function.name, function.memory_limit_in_mb, clock)

    # ---- the workers' side

    def environment(self) -> InEnvironment:
        """One more worker, with an environment of its own."""
        handler = self._function.handler
        made = InEnvironment(self, None if isinstance(handler, Script) else Environment(handler, self._clock))
        self._environments.append(made)
        return made

    def end(self) -> None:
        """The runtime ends, and so do all workers."""
        for each in self._environments:
            each.end()

    def started(self, entry: Entry, environment: Environment | None) -> Ending:
        """Call the handler in that environment, or do what its script says."""
        function, request_id = self._function, str(uuid.UUID(int=entry.invocation, version=4))
        event = self._stream.event(entry.shard, entry.offsets, entry.envelope)
        self.requests.update(((entry.shard, offset), request_id) for offset in entry.offsets)
        handler = function.handler
        if isinstance(handler, Script):
            ending = self._play(handler.next_step(event), event, request_id)
        else:
            assert environment is not None
            call = environment.begin()
            context = self._context(request_id, function.timeout_seconds)
            ending = self._call(lambda: call(event, context), request_id)
        self._write_down(entry, ending, request_id)
        return ending

    def _play(self, step: Step, event: Any, request_id: str) -> Ending:
        clock = self._clock

        def act() -> Any:
            match step:
                case Returns(value, seconds):
                    clock.sleep(seconds)
                    return value(event) if callable(value) else value
                case Raises(error, seconds):
                    clock.sleep(seconds)
                    raise error.with_traceback(None)
                case _:
                    clock.sleep(self._function.timeout_seconds)
            return None

        if isinstance(step, Throttled):
            return Ending(0, Outcome.THROTTLED, fault=_THROTTLED)
        if isinstance(step, Dies):
            fault = document.exited(request_id, step.reason)
            return Ending(int(step.seconds * NS_PER_S), Outcome.CRASHED, fault=fault)
        return self._call(act, request_id)

    def _call(self, act: Callable[[], Any], request_id: str) -> Ending:
        """What production's worker and runtime make of what the handler does."""
        timeout_s = self._function.timeout_seconds
        fault: Fault | None = None
        outcome, payload = Outcome.FAILED, b""
        with self._clock.invocation(int(timeout_s * NS_PER_S)) as spent:
            try:
                payload = marshal(act())
            except TimeIsUp:
                outcome, fault = Outcome.TIMED_OUT, document.timed_out(request_id, timeout_s)
            except MarshalError as error:
                fault = document.marshal_error(error, request_id)
            except SystemExit as leave:
                outcome, fault = Outcome.CRASHED, document.exited(request_id, f"exit status {_status(leave)}")
            except Exception as error:  # a handler may raise anything: this is the border to the user's code
                fault = document.from_exception(error, request_id)
            else:
                if len(payload) > RESPONSE_BYTES_MAX:
                    fault = document.too_large(RESPONSE_BYTES_MAX)
                else:
                    outcome = self._kind_of(payload)
        return Ending(spent(), outcome, payload if fault is None else b"", fault)

    def _kind_of(self, payload: bytes) -> Outcome:
        function = self._function
        if function.windowed or (function.reports_failures and not is_whole(payload)):
            return Outcome.RESPONDED
        return Outcome.OK

    # ---- what becomes of it

    def _write_down(self, entry: Entry, ending: Ending, request_id: str) -> None:
        started_ns = self._clock.monotonic_ns() - self._start_ns
        done, name = len(entry.offsets), _NAMES.get(ending.outcome, "succeeded")
        if ending.outcome is Outcome.RESPONDED:
            verdict = judge(self._stream, self._function, entry, ending.payload).verdict
            match verdict:
                case Partly(part):
                    done, name = part, "partly"
                case Failed():
                    done, name = 0, "failed"
        elif ending.outcome is not Outcome.OK:
            done = 0
        self.batches.append(
            Batch(
                event=None
                if ending.outcome is Outcome.THROTTLED
                else self._stream.event(entry.shard, entry.offsets, entry.envelope),
                shard_id=entry.shard,
                sequence_numbers=self._stream.sequence_numbers(entry.shard, entry.offsets),
                attempt=entry.attempt,
                started=started_ns / 1e9,
                ended=(started_ns + ending.duration_ns) / 1e9,
                seconds=ending.duration_ns / 1e9,
                outcome=name,
                request_id=request_id,
                done=done,
                response=_loads(ending.payload),
                error=None if ending.fault is None else _loads(ending.fault.document),
            )
        )


class InEnvironment:
    """The `pool.Script` of one worker: its invocations share an environment until one of them ends it."""

    def __init__(self, process: InProcess, environment: Environment | None) -> None:
        self._process = process
        self._environment = environment

    def started(self, entry: Entry) -> Ending:
        """Call the handler, or do what its script says."""
        ending = self._process.started(entry, self._environment)
        if ending.outcome in (Outcome.CRASHED, Outcome.TIMED_OUT):
            self.end()
        return ending

    def ended(self, entry: Entry, ending: Ending | None) -> None:
        """It is over."""

    def reap_delay_ns(self) -> int:
        """The runtime looks at once."""
        return 0

    def end(self) -> None:
        """Let go of what the environment has."""
        if self._environment is not None:
            self._environment.end()


def judge(stream: MemoryStream, function: FunctionSetup, entry: Entry, payload: bytes) -> Judged:
    """What a response that is not a certain success says."""
    numbers = stream.sequence_numbers(entry.shard, entry.offsets)
    if not function.windowed:
        return Judged(partial.judge(payload, numbers))
    verdict, state = window.judge(payload, numbers if function.reports_failures else None)
    return Judged(verdict, None if isinstance(verdict, Failed) else state)


def _status(leave: SystemExit) -> int:
    """How the interpreter would have ended: a text is printed, and is status 1."""
    if leave.code is None:
        return 0
    return leave.code & 0xFF if isinstance(leave.code, int) else 1


def _loads(payload: bytes) -> Any:
    try:
        return orjson.loads(payload) if payload else None
    except orjson.JSONDecodeError:
        return payload
