"""Errors of ours come out of every public call as they are, in no exception group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from streamfn.errors import HandlerImportError, StreamfnError


@contextmanager
def bare() -> Iterator[None]:
    """Take a single error out of the exception groups that Trio's nurseries wrap it in.

    The first error of ours stands for the others. A group without one of ours stays as it is, unless there is nothing
    in it but an interrupt: what is in it is then a bug, and where it came from matters.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        found = [error for error in _leaves(group) if not isinstance(error, trio.Cancelled)]
        ours = [error for error in found if isinstance(error, StreamfnError)]
        if ours:
            raise ours[0] from None
        if found and all(isinstance(error, KeyboardInterrupt | SystemExit) for error in found):
            raise found[0] from None
        raise


@asynccontextmanager
async def beside(task: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run `task` while the block lasts, then cancel it. What the block raises comes out as it is.

    When the task fails, the block is cancelled, and the task's error comes out in a group.
    """
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task)
        try:
            yield
        except BaseException as raised:
            error = raised
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error


def explain(error: HandlerImportError) -> None:
    """Note on the error what the handler's module printed and raised: Python shows notes below the traceback."""
    printed = error.log.decode("utf-8", "backslashreplace").rstrip()
    if printed:
        error.add_note(f"The module printed:\n{printed}")
    frames = error.document.get("stackTrace")
    if isinstance(frames, list) and frames:
        last = f"{error.document.get('errorType')}: {error.document.get('errorMessage')}"
        error.add_note("In the worker, traceback (most recent call last):\n" + "".join(map(str, frames)) + last)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
