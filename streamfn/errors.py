"""Our exception hierarchy.

    StreamfnError
        RefusedError             the caller asked for something we refuse, before anything was made
        FailedError              it was allowed, and could not be done
            BusyError            another process owns what is needed
            HandlerImportError   the handler's module or function cannot be loaded
            LogError             the shard log cannot go on
                LogDamaged       bytes on disk are not what we wrote
                DiskFull         appends are refused until there is room
                ShardClosed      the shard was split or merged: its children take the records
            Fenced               another owner has taken the mapping over
        PoolClosed               *you* closed the pool and used it again

The first level says whose move it is: the caller's (exit code 2), the machine's or the operator's
(exit code 1), the programmer's.  That a handler fails is not in this tree: it is a value (`Fault`),
because the retry policy, not an `except`, decides what follows.
"""

from __future__ import annotations

from pathlib import PurePath


class StreamfnError(Exception):
    """Everything we raise on purpose.  The text is one line, made to be read by a user."""

    exit_code = 1


class RefusedError(StreamfnError):
    """What was asked for is refused; nothing has been made or changed."""

    exit_code = 2


class FailedError(StreamfnError):
    """What was asked for could not be done."""


class BusyError(FailedError):
    """Another process owns the shard or the mapping; the text names its pid."""


class HandlerImportError(FailedError):
    """The handler cannot be loaded.

    `document` is Lambda's error document, stack trace included; `log` is what its Init has printed, `init_ns` how long
    it took (0: not known), `phase` Lambda's word for when that was: `init`, or `invoke` for a second try,
    for as long as an invocation may take.
    """

    def __init__(self, message: str, document: dict[str, object], log: bytes = b"") -> None:
        super().__init__(message)
        self.document = document
        self.log = log
        self.init_ns = 0
        self.phase = "init"


class LogError(FailedError):
    """The shard log cannot go on."""


class LogDamaged(LogError):
    """Bytes on disk are not what was written; the text names file, position and the range of records.

    `path` and `byte` say where, `first_offset` is the first record that is not there, and `end_offset` the next
    one that is, or the end of what was committed; each is None where it does not apply or is not known.
    """

    def __init__(
        self,
        message: str,
        *,
        path: PurePath | None = None,
        byte: int | None = None,
        first_offset: int | None = None,
        end_offset: int | None = None,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.byte = byte
        self.first_offset = first_offset
        self.end_offset = end_offset


class DiskFull(LogError):
    """There is too little free space to append."""


class ShardClosed(LogError):
    """The shard was split or merged: its stream, read again, has others for its hash keys."""


class Fenced(FailedError):
    """A newer owner has taken the mapping over; nothing of the older one may be committed."""


class PoolClosed(StreamfnError):
    """The pool was closed and then used again: a bug in the calling program."""
