"""A worker from its fork to its main loop, the same whether its zygote has done Init or it does that itself.

    fork ─▶ [exec: start method spawn] ─▶ its own group, its seat, its streams ─▶ [Init] ─▶ [begin] ─▶ main

Main's `begin`, if it has one, is what each worker does for itself before it takes work. An Init that is done here is
reported, and so is a `begin` of which the zygote knew that it has something to do.

With start method "spawn" the child of the zygote becomes a fresh interpreter, so nothing of any Init is in it:
what it has to know (`Birth`) comes in a memfd.  Nothing here imports more than a worker needs.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from streamfn.pool import boot, linux, pages, protocol
from streamfn.pool.confine import cgroup, rlimits
from streamfn.pool.confine.limits import Limits
from streamfn.pool.seat import Seat

# Bound before any handler can put something else in its place.
_exit = os._exit


class Birth(NamedTuple):
    """What a new worker is told beside its descriptors.  JSON-able, unless the settings hold a callable."""

    main: str
    settings: Mapping[str, Any]
    code_dir: str
    number: int
    debug: bool
    limits: Mapping[str, Any]
    holding: Mapping[str, Any]  # confine.rlimits.Holding
    workers: int  # of this function, at most
    isolation: Mapping[str, Any]


def find_main(birth: Birth) -> ModuleType:
    """Import the worker's main, and put the code directory first on the path.

    Behind our own imports, so that a file of the user's cannot take their place.
    """
    module = importlib.import_module(birth.main)
    sys.path.insert(0, birth.code_dir)
    return module


def live(birth: Birth, fds: Sequence[int], find: Callable[[], ModuleType], initialised: Sequence[object]) -> int:
    """Be a worker until its main returns; give the exit code.

    `initialised` holds the state that Init has left in the zygote, and what the worker begins with (`protocol`); empty:
    Init is done here.
    """
    cgroup.enter(fds[protocol.SEAT_FDS :])
    os.setpgid(0, 0)
    linux.name_process(f"sf-worker-{birth.number}")
    seat = Seat(birth.number, fds[: protocol.SEAT_FDS], debug=birth.debug)
    rlimits.limit_worker(Limits.from_json(birth.limits), rlimits.Holding(**birth.holding), birth.workers)
    _tidy_interpreter()
    pages.keep_freed()
    try:
        module = find()
        state = initialised[0] if initialised else module.init(birth.settings)
        begin = getattr(module, "begin", None)
        if begin is not None:
            state = begin(state, forked=bool(initialised))
    except protocol.InitFailed as failure:
        seat.report({"op": "failed", "document": failure.document.decode(errors="replace")})
        return failure.status
    except (Exception, SystemExit) as error:
        seat.report({"op": "failed", "document": document_of(error)})
        return 1
    if not initialised or initialised[1] is not None:
        seat.report({"op": "ready"})
    return _serve_rings(module, state, seat)


def _serve_rings(module: ModuleType, state: object, seat: Seat) -> int:
    """Run the main, and say why it ended where that can be read, whatever a handler has made of the streams."""
    try:
        module.main(state, seat)
    except SystemExit as leave:
        code, text = _ending(leave)
        seat.flush_stdio()
        seat.log(text)
        return code
    except BaseException:  # the boundary
        seat.flush_stdio()
        seat.log(traceback.format_exc())
        return 1
    return 0


def end_with(run: Callable[[], int]) -> NoReturn:
    """Run a child's life and end the process: nothing may unwind into the loop that forked it."""
    code = 1
    try:
        try:
            code = run()
        except SystemExit as leave:
            code, text = _ending(leave)
            sys.stderr.write(text)
        except BaseException:  # the boundary
            traceback.print_exc()
        flush()
    finally:
        _exit(code)


def become_fresh(birth: Birth, fds: Sequence[int]) -> NoReturn:
    """Turn this child into a new interpreter, which goes on in `serve`.  OSError if there is none."""
    note = linux.growing_memfd("streamfn-birth", append=False)
    os.write(note, json.dumps([birth._asdict(), list(fds)]).encode())
    for fd in (note, *fds):
        os.set_inheritable(fd, True)
    os.execv(sys.executable, boot.command("birth", note))


def serve(note: int) -> NoReturn:
    """Be the worker that the memfd `note` tells of, in a fresh interpreter; ends the process."""

    def run() -> int:
        with open(note, "rb") as file:
            file.seek(0)
            fields, fds = json.loads(file.read())
        for fd in fds:
            os.set_inheritable(fd, False)
        birth = Birth(**fields)
        return live(birth, fds, lambda: find_main(birth), ())

    end_with(run)


def flush() -> None:
    """Write out what is buffered, or each worker would write it again."""
    for name in ("stdout", "stderr"):
        with suppress(Exception):  # a handler may have put anything in their place
            getattr(sys, name).flush()


def document_of(error: BaseException) -> str:
    """A plain error document for what a main's `init` should not have raised."""
    name = "Runtime.ExitError" if isinstance(error, SystemExit) else type(error).__name__
    frames = traceback.format_list(traceback.extract_tb(error.__traceback__))
    return json.dumps({"errorMessage": str(error), "errorType": name, "requestId": "", "stackTrace": frames})


def _tidy_interpreter() -> None:
    """Give a worker its own randomness, and standard streams that write every line at once."""
    random.seed()
    numpy_random: ModuleType | None = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    for stream in (sys.stdout, sys.stderr):
        # A line that has been printed must survive the worker's being killed.
        with suppress(OSError, ValueError, AttributeError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _ending(leave: SystemExit) -> tuple[int, str]:
    """What the interpreter would make of it: an exit code, and what it would print."""
    if leave.code is None:
        return 0, ""
    if isinstance(leave.code, int):
        return leave.code & 0xFF, ""
    return 1, f"{leave.code}\n"
