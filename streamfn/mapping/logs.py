"""What handlers write, as Lambda's log lines on the runtime's standard error.

`LogLines` turns the bytes that one invocation wrote into START, the lines, END and REPORT, as CloudWatch shows them;
`LogWriter` writes them from a thread of its own, so that a slow reader of standard error never holds the runtime or a
handler up: beyond a bound lines are dropped, counted and said.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from streamfn.errors import HandlerImportError
from streamfn.events import document
from streamfn.limits import LOG_LINE_BYTES_MAX, MIB
from streamfn.types import Fault

if TYPE_CHECKING:
    from streamfn.pool.lane import Answer
    from streamfn.pool.worker import Worker

QUEUE_BYTES_MAX = 4 * MIB

# Control characters are shown, not obeyed: a handler must not be able to repaint the user's terminal or to forge a
# line break. Tab stays.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x09), *range(0x0A, 0x20), *range(0x7F, 0xA0))}


class Usage(NamedTuple):
    """What an invocation's REPORT says beside its duration.

    `memory_size_mb` None: no limit; `memory_used_mb` None: nobody could look. `init_ns` is that of the environment, in
    its first invocation; `restore_ns` stands in its place where hooks have restored it from a snapshot.
    """

    memory_size_mb: int | None
    memory_used_mb: int | None
    init_ns: int = 0
    restore_ns: int | None = None

    @classmethod
    def of(cls, worker: Worker, answer: Answer) -> Usage:
        """Of the worker that has just given the answer."""
        size, used = worker.environment.memory_mb, worker.environment.peak_mb()
        return cls(size, used, worker.init_ns, worker.restore_ns) if answer.is_first else cls(size, used)


class LogSink(Protocol):
    """Where log lines go."""

    def write(self, text: str, *, ours: bool = False) -> None:
        """Take whole lines, each with its newline; called from the reap loop, so it neither blocks nor raises.

        What handlers write must not push out what is said of the run itself, which is `ours`.
        """


class LogLines:
    """The log of one function's invocations.

    `which`: `failed` writes invocations that printed or failed, `all` every one, `none` nothing.
    """

    def __init__(self, sink: LogSink, which: str) -> None:
        self._sink = sink
        self.which = which
        self._begun: dict[int, bytes] = {}  # invocation → the unfinished last line of what was printed so far

    def note(self, text: str) -> None:
        """A line of ours among the function's."""
        if self.which != "none":
            self._sink.write(our_line(text), ours=True)

    def init(self, log: bytes) -> None:
        """What the function's Init wrote."""
        if self.which != "none" and log:
            self._sink.write(shown_log(log))

    def init_failed(self, error: HandlerImportError) -> None:
        """An Init of the function failed, and why: what it wrote, the error, and Lambda's INIT_REPORT."""
        if self.which != "none":
            frames = error.document.get("stackTrace")
            kind, message = (str(error.document.get(key, "")) for key in ("errorType", "errorMessage"))
            text = document.log_text(kind, message, frames if isinstance(frames, list) else [])
            shown = shown_log(error.log) + shown_log(text.encode("utf-8", "backslashreplace"))
            self._sink.write(shown + init_report_line(error))

    def partial(self, invocation: int, request_id: str, log: bytes) -> None:
        """A running invocation wrote something: its whole lines go out at once."""
        if self.which == "none":
            return
        begun = invocation in self._begun
        lines, rest = _split(self._begun.get(invocation, b"") + log)
        self._begun[invocation] = rest
        head = "" if begun else f"START RequestId: {request_id} Version: $LATEST\n"
        self._sink.write(head + "".join(lines))

    def wants(self, invocation: int) -> bool:
        """Whether `ended` must be told although nothing more was printed: all are, and one that has begun."""
        return self.which == "all" or invocation in self._begun

    def ended(
        self,
        invocation: int,
        request_id: str,
        log: bytes,
        *,
        duration_ns: int,
        fault: Fault | None,
        usage: Usage,
        dropped: int = 0,
    ) -> None:
        """An invocation is over; `log` is what `partial` has not been given, `dropped` bytes of it were skipped."""
        begun = invocation in self._begun
        log = self._begun.pop(invocation, b"") + log
        if self.which == "none" or not (self.which == "all" or fault is not None or log or begun):
            return
        text = shown_log(log)
        if dropped:
            text += f"[{dropped} more bytes]\n"
        if fault is not None:
            text += _how_it_ended(fault, request_id)
        if fault is not None and fault.error_type == document.OUT_OF_MEMORY:
            usage = usage._replace(memory_used_mb=usage.memory_size_mb)  # it had all of it, whoever could look or not
        report = report_line(request_id, duration_ns, usage)
        head = [] if begun else [f"START RequestId: {request_id} Version: $LATEST\n"]
        self._sink.write("".join([*head, text, f"END RequestId: {request_id}\n", report]))


def our_line(text: str) -> str:
    """A line of ours; what a handler has said, an error's message, may be in it."""
    return f"streamfn: {text.translate(_ESCAPES)}\n"


def report_line(request_id: str, duration_ns: int, usage: Usage) -> str:
    """The REPORT line of an invocation.

    Lambda bills the Init of an environment with its first invocation, since August 2025 for every function (AWS
    Compute Blog, "AWS Lambda standardizes billing for INIT Phase"); the sum of both is rounded up.
    """
    init_ns = 0 if usage.restore_ns is not None else usage.init_ns
    size = "no limit" if usage.memory_size_mb is None else f"{usage.memory_size_mb} MB"
    fields = [
        f"REPORT RequestId: {request_id}",
        f"Duration: {duration_ns / 1e6:.2f} ms",
        f"Billed Duration: {billed_ms(duration_ns + init_ns)} ms",
        f"Memory Size: {size}",
    ]
    if usage.memory_used_mb is not None:
        fields.append(f"Max Memory Used: {usage.memory_used_mb} MB")
    if init_ns:
        fields.append(f"Init Duration: {init_ns / 1e6:.2f} ms")
    if usage.restore_ns is not None:
        fields.append(f"Restore Duration: {usage.restore_ns / 1e6:.2f} ms")
        fields.append(f"Billed Restore Duration: {billed_ms(usage.restore_ns)} ms")
    return "\t".join([*fields, "\n"])


def init_report_line(error: HandlerImportError) -> str:
    """The INIT_REPORT line of an Init that failed; none where there was no time to measure."""
    if not error.init_ns:
        return ""
    kind = str(error.document.get("errorType", "")).translate(_ESCAPES)
    status = "Status: timeout" if kind == document.TIMED_OUT else f"Status: error\tError Type: {kind}"
    phase = "restore" if kind == document.AFTER_RESTORE else error.phase
    return f"INIT_REPORT Init Duration: {error.init_ns / 1e6:.2f} ms\tPhase: {phase}\t{status}\n"


def billed_ms(duration_ns: int) -> int:
    """What Lambda bills for so long: whole milliseconds, one that has begun is whole."""
    return -(-duration_ns // 1_000_000)


def _how_it_ended(fault: Fault, request_id: str) -> str:
    """What Lambda itself writes when it was not the handler that ended the invocation."""
    if fault.error_type == document.TIMED_OUT:
        now = time.time_ns() // 1_000_000
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1000))
        return f"{at}.{now % 1000:03d}Z {request_id} {fault.message.partition('Error: ')[2]}\n"
    ended = fault.error_type in (document.EXITED, document.OUT_OF_MEMORY)
    return f"{fault.message}\n{fault.error_type}\n" if ended else ""


def shown_log(log: bytes) -> str:
    """What was written, as whole lines that can be shown."""
    lines, rest = _split(log)
    return "".join([*lines, _line(rest)] if rest else lines)


def _split(log: bytes) -> tuple[list[str], bytes]:
    """The whole lines in `log`, and what follows the last line end."""
    *whole, rest = log.split(b"\n")
    if len(rest) > LOG_LINE_BYTES_MAX:
        whole.append(rest)
        rest = b""
    return [_line(line) for line in whole], rest


def _line(line: bytes) -> str:
    cut = ""
    if len(line) > LOG_LINE_BYTES_MAX:
        cut = f" [{len(line) - LOG_LINE_BYTES_MAX} more bytes]"
        line = line[:LOG_LINE_BYTES_MAX]
    text = line.decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = text.translate(_ESCAPES)
    return f"{text}{cut}\n"


class LogWriter:
    """Hands text to `emit` from a thread of its own, so that a slow reader holds up nothing but itself.

    `emit` may block, and may raise OSError when nobody reads any more: then the rest is dropped.
    """

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._queue: deque[str] = deque()
        self._queued_chars = 0
        self._dropped = 0
        self._show: Callable[[], None] | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="streamfn-log", daemon=True)
        self._thread.start()

    def write(self, text: str, *, ours: bool = False) -> None:
        """See `LogSink`. Beyond about 4 MiB that wait, lines are dropped and counted; ours beyond twice as much."""
        with self._changed:
            if self._queued_chars > (2 * QUEUE_BYTES_MAX if ours else QUEUE_BYTES_MAX):
                self._dropped += text.count("\n")
                return
            self._queue.append(text)
            self._queued_chars += len(text)
            self._changed.notify()

    def show(self, function: Callable[[], None]) -> None:
        """Call `function` in the thread when it is free; of several that wait only the last one is called."""
        with self._changed:
            self._show = function
            self._changed.notify()

    def close(self, wait_s: float = 2.0) -> None:
        """Write what is left, for at most `wait_s`: a reader that has stopped reading does not hold up the exit."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(wait_s)

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except OSError:
            with self._changed:
                self._queued_chars = 2 * QUEUE_BYTES_MAX + 1  # nobody reads any more: everything is dropped from now on
                self._queue.clear()

    def _step(self) -> bool:
        with self._changed:
            while not (self._queue or self._show or self._closed):
                self._changed.wait()
            text = "".join(self._queue)
            self._queue.clear()
            self._queued_chars = 0
            dropped, self._dropped = self._dropped, 0
            show, self._show = self._show, None
            closed = self._closed
        if dropped:
            text += f"streamfn: {dropped} log lines dropped, because standard error is read too slowly\n"
        if text:
            self._emit(text)
        if show is not None:
            show()
        return bool(text) or not closed


def to_standard_error(text: str) -> None:
    """Write to descriptor 2, whatever `sys.stderr` has become; OSError when nobody reads."""
    view = memoryview(text.encode("utf-8", "backslashreplace"))
    while view:
        view = view[os.write(2, view) :]
