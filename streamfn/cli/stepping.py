"""`replay --pause-on-error`: its options, what is shown of a failed batch, and the question on the terminal."""

from __future__ import annotations

import functools
import os
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, NamedTuple, ParamSpec, TypeVar

import click
import orjson
import trio

from streamfn.cli.output import count_of, printable
from streamfn.functions.constraints import one_of, refuse
from streamfn.replay.stepping import ANSWERS, BISECT, QUIT, Stepping, check_writable

if TYPE_CHECKING:
    from streamfn.cli.live import LiveDisplay
    from streamfn.mapping.logs import LogWriter
    from streamfn.mapping.stepping import Stop

P = ParamSpec("P")
R = TypeVar("R")

# Of a batch so many records are shown, each so far, unless all are asked for.
RECORDS_SHOWN = 10
_CHARS_SHOWN = 300

LIST = "list"
_STANDARD_INPUT = 0


class SteppingFlags(NamedTuple):
    """What was said about failed batches, and about a second handler; None and False: nothing."""

    pause_on_error: bool
    on_error: str | None
    save_event: str | None
    diff: str | None

    @property
    def stops(self) -> bool:
        """The run stops at failed batches."""
        return self.diff is None and (self.pause_on_error or self.on_error is not None or self.save_event is not None)


def stepping_options(command: Callable[Concatenate[SteppingFlags, P], R]) -> Callable[P, R]:
    """Give a command the options as one `stepping: SteppingFlags`, its first argument. Bad ones exit 2."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        given = SteppingFlags(*(kwargs.pop(name) for name in SteppingFlags._fields))  # type: ignore[arg-type]
        if given.on_error is not None:
            refuse(list(one_of("onError", given.on_error, ANSWERS)))
        if given.diff is not None and (given.pause_on_error or given.on_error is not None):
            raise click.UsageError("--diff calls both handlers once for each batch, and stops at none")
        if given.save_event is not None:
            check_writable(Path(given.save_event))
        return command(given, *args, **kwargs)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


_OPTIONS = (
    click.option(
        "--pause-on-error",
        is_flag=True,
        help="Stop at a failed batch, show its records and the error, and ask what to do.",
    ),
    click.option(
        "--on-error",
        metavar="|".join(ANSWERS),
        help="Do that with every failed batch instead of asking.  [default, if nobody can be asked: quit]",
    ),
    click.option(
        "--save-event",
        metavar="FILE",
        help="Where the event of the failed batch goes, or the first that differs: streamfn invoke HANDLER -e FILE.",
    ),
    click.option(
        "--diff",
        metavar="HANDLER|NAME",
        help="Give the same batches to this handler, too, and say where results differ.",
    ),
)


def stepping_of(flags: SteppingFlags, handler: str, logs: str, writer: LogWriter, display: LiveDisplay) -> Stepping:
    """What decides about the failed batches of a replay of `handler`, whose log lines are of `logs`.

    Without a terminal to ask on, the answer is `quit`.
    """
    answer = flags.on_error
    if answer is None and not (sys.stdin.isatty() and sys.stderr.isatty()):
        answer = QUIT
    saved = None if flags.save_event is None else Path(flags.save_event)

    def show(stop: Stop, said: str | None) -> None:
        if said == BISECT:  # what is on the way to the record is not worth a screen
            writer.write(_head(stop) + f": {_error_line(stop)}; in halves\n", ours=True)
            return
        text = stop_text(stop, traceback=logs == "none")  # else it stands in the handler's log, just above
        if saved is not None:
            text += f"  the event is in {saved}: streamfn invoke {handler} -e {saved}\n"
        writer.write(text, ours=True)

    return Stepping(answer=answer, ask=Terminal(writer, display).ask, show=show, save_event=saved)


# ---- what is shown


def stop_text(stop: Stop, *, traceback: bool = True, all_records: bool = False) -> str:
    """A failed batch for people: whole lines, each with its newline."""
    lines = [_head(stop)]
    lines += records_text(stop, all_records=all_records)
    frames = _frames(stop.fault.document) if traceback else []
    if frames:
        lines.append("Traceback (most recent call last):")
        lines += [printable(line) for frame in frames for line in str(frame).rstrip("\n").split("\n")]
    lines.append(_error_line(stop))
    return "".join(f"{line}\n" for line in lines)


def _head(stop: Stop) -> str:
    what = count_of(len(stop.rows), "record") if stop.rows else "a call of a tumbling window, without records"
    times = "once" if stop.attempts == 1 else f"{stop.attempts} times"
    return f"streamfn: stopped: {stop.shard_id}, offset {stop.first_offset}: {what}, failed {times}"


def _error_line(stop: Stop) -> str:
    kind, message = printable(stop.fault.error_type), printable(stop.fault.message)
    return f"{kind}: {message}" if message else kind


def records_text(stop: Stop, *, all_records: bool) -> list[str]:
    """The records of a failed batch, decoded, as lines."""
    from streamfn.cli.tailing import text_line

    shown = stop.rows if all_records else stop.rows[:RECORDS_SHOWN]
    lines = []
    for row in shown:
        line = f"  {row.offset}  {text_line(stop.shard_id, row).decode()}"
        if not all_records and len(line) > _CHARS_SHOWN:
            line = line[: _CHARS_SHOWN - 1] + "…"
        lines.append(line)
    if len(stop.rows) > len(shown):
        lines.append(f"  and {count_of(len(stop.rows) - len(shown), 'more record')}")
    return lines


def _frames(document: bytes) -> list[object]:
    """The stack trace of an error document; none where there is none, or where it is a response."""
    try:
        found = orjson.loads(document)
    except orjson.JSONDecodeError:
        return []
    frames = found.get("stackTrace") if isinstance(found, dict) else None
    return frames if isinstance(frames, list) else []


# ---- the question


class Terminal:
    """Asks on a terminal, standard input, below what the log has written to standard error."""

    def __init__(self, writer: LogWriter, display: LiveDisplay, descriptor: int = _STANDARD_INPUT) -> None:
        self._writer = writer
        self._display = display
        self._descriptor = descriptor

    async def ask(self, stop: Stop) -> str:
        """Return the answer. Where the input has ended, or cannot be read from the background, it is `quit`."""
        answers = [answer for answer in (*ANSWERS[:-1], LIST, QUIT) if answer != BISECT or stop.can_bisect]
        question = ", ".join(f"[{answer[0]}]{answer[1:]}" for answer in answers) + "? "
        self._display.hold()
        with suppress(termios.error):
            termios.tcflush(self._descriptor, termios.TCIFLUSH)  # what was typed before is no answer
        try:
            while True:
                self._writer.write(question, ours=True)
                line = await self._line()
                answer = understood(line.decode("utf-8", "replace"), answers) if line else QUIT
                if answer == LIST:
                    self._writer.write(stop_text(stop, all_records=True), ours=True)
                elif answer is not None:
                    return answer
        finally:
            self._display.release()

    async def _line(self) -> bytes:
        await trio.lowlevel.wait_readable(self._descriptor)
        try:
            return os.read(self._descriptor, 4096)
        except OSError:
            return b""


def understood(text: str, answers: list[str]) -> str | None:
    """The answer that a line means: its first letters, or all of it; None if it means none of them."""
    word = text.strip().lower()
    return next((answer for answer in answers if word and answer.startswith(word)), None)
