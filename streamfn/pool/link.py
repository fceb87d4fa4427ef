"""The runtime's end of the socket to one zygote.

The user's code runs in the zygote (Init) and can write to the socket as the zygote does.  So every message is
checked before it is believed: its shape, that a pidfd is one, and of a process that this zygote has made.  The
runtime signals what it is given there; it could be had to kill others, or itself.  A zygote that breaks a rule is
killed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence

import trio

from streamfn.pool import linux, protocol
from streamfn.pool.confine.shelf import Shelf
from streamfn.pool.launch import ZygoteProcess

# How long an orderly end may take before the zygote is killed too: everything is to be gone in a second.
_CLOSE_S = 0.6
# The zygote sees a worker's end when we do, and needs a fraction of a millisecond to say how it ended.
_DETAIL_S = 0.5
_SPAWN_S = 10.0


class _Expected:
    """What the zygote will say about one worker."""

    __slots__ = ("ended", "error", "pid", "pidfd", "spawned", "status")

    def __init__(self) -> None:
        self.spawned = trio.Event()
        self.ended = trio.Event()
        self.pid = 0
        self.pidfd = -1
        self.error = ""
        self.status: int | None = None


class ZygoteLink:
    """One zygote.  `initialise`, then `run` in one task while others `spawn`; `close` at the end.

    Owns the process handle and the socket.
    """

    def __init__(self, process: ZygoteProcess, control: socket.socket) -> None:
        self.process = process
        self._control = control
        self._expected: dict[int, _Expected] = {}
        self._gone = trio.Event()
        self._serving = False
        self.shelf: Shelf | None = None  # what a sandbox's segments are opened through

    @property
    def is_gone(self) -> bool:
        """Whether the zygote has ended (or its socket has)."""
        return self._gone.is_set()

    async def wait_gone(self) -> None:
        """Wait until it has ended."""
        await self._gone.wait()

    async def initialise(
        self, fields: Mapping[str, object], limit_s: float, doors: Sequence[int] = (), *, shelved: str | None = None
    ) -> protocol.Message | None:
        """Have it do Init and return what it says; None if it died.  trio.TooSlowError after `limit_s`.

        `doors` are those of its control group; `shelved` is the directory whose read-only mount a warden sends first.
        """
        runtime = os.pidfd_open(os.getpid())
        try:
            await self._send(fields, [runtime, *doors])
        finally:
            os.close(runtime)
        with trio.fail_after(limit_s):
            message = await self._receive(protocol.OF_INIT)
            if message is not None and message.fields["op"] == "shelf" and shelved is not None:
                self.shelf = Shelf(shelved, message.fds[0])
                message = await self._receive(protocol.OF_INIT)
        if message is not None and message.fields["op"] == "shelf":  # not its warden's: the user's code is a liar
            protocol.close_all(message.fds)
            self.process.kill()
            return None
        self._serving = message is not None and message.fields["op"] == "ready"
        return message

    async def run(self) -> None:
        """Take in what the zygote says until it is gone."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, nursery.cancel_scope)
                while (message := await self._receive(protocol.OF_WORKERS)) is not None:
                    self._take(message)
                    await trio.lowlevel.checkpoint()  # it may write faster than we read
                nursery.cancel_scope.cancel()
        finally:
            self._gone.set()
            for expected in self._expected.values():
                expected.spawned.set()
                expected.ended.set()

    async def _watch(self, scope: trio.CancelScope) -> None:
        # A process that Init has forked may hold the socket open: its end alone does not tell.
        await trio.lowlevel.wait_readable(self.process.pidfd)
        scope.cancel()

    def _take(self, message: protocol.Message) -> None:
        fields, fds = message
        expected = self._expected.get(fields["token"])
        if expected is None:  # nobody waits for it any more
            protocol.close_all(fds)
        elif fields["op"] == "spawned":
            pid = self._pid_of(fds[0])
            if expected.spawned.is_set() or pid is None:
                protocol.close_all(fds)
                self.process.kill()
                return
            expected.pid, expected.pidfd = pid, fds[0]  # the number that was said could be anybody's
            expected.spawned.set()
        elif fields["op"] == "refused":
            if expected.spawned.is_set():
                self.process.kill()
                return
            expected.error = fields["reason"]
            expected.spawned.set()
        else:
            try:
                linux.describe_exit(fields["status"])
            except (ValueError, OverflowError):  # no process ends like that
                self.process.kill()
                return
            expected.status = fields["status"]
            expected.ended.set()

    def _pid_of(self, pidfd: int) -> int | None:
        """Give the number of a process that the zygote has made, -1 if it is reaped; None: no pidfd of one."""
        try:
            pid = linux.pidfd_pid(pidfd)
            if pid > 0 and not linux.is_descendant(pid, self.process.pid):
                pid = linux.pidfd_pid(pidfd)  # it may have been reaped meanwhile
                return pid if pid < 0 else None
        except (OSError, ValueError):
            return None
        return pid

    async def spawn(self, token: int, index: int, fds: Sequence[int], *, fresh: bool) -> tuple[int, int] | None:
        """Fork a worker with these descriptors: its pid (-1: reaped already) and the caller's pidfd.

        None: the zygote is gone.

        `fresh` says whether the execution environment `index` begins with it, or goes on after its process has died.

        OSError if the system refuses the fork.  `forget` the token in the end, whatever happens.
        """
        expected = self._expected[token] = _Expected()
        try:
            await self._send({"op": "spawn", "token": token, "index": index, "fresh": fresh}, fds)
            with trio.move_on_after(_SPAWN_S) as scope:
                await expected.spawned.wait()
        except BaseException:
            if expected.pidfd >= 0:
                os.close(expected.pidfd)
            raise
        if scope.cancelled_caught:
            self.process.kill()
        if expected.error:
            raise OSError(expected.error)
        return (expected.pid, expected.pidfd) if expected.pid else None

    async def wipe(self, index: int) -> None:
        """Tell the zygote that the execution environment `index` is over: what it kept for it goes."""
        await self._send({"op": "wipe", "index": index}, [])

    async def exit_detail(self, token: int) -> str:
        """Say how a worker ended, once it has."""
        expected = self._expected[token]
        with trio.move_on_after(_DETAIL_S):
            await expected.ended.wait()
        # Workers of a zygote that died were killed by its end.
        return "signal: killed" if expected.status is None else linux.describe_exit(expected.status)

    def forget(self, token: int) -> None:
        """Nobody waits for news of this worker any more."""
        self._expected.pop(token, None)

    async def close(self) -> None:
        """End the zygote and with it every descendant; shielded, and takes well under a second."""
        with trio.CancelScope(shield=True):
            self._control.close()
            if self.shelf is not None:
                self.shelf.close()
            if not self._serving:
                self.process.kill()
            with trio.move_on_after(_CLOSE_S) as scope:
                await trio.lowlevel.wait_readable(self.process.pidfd)
            if scope.cancelled_caught:
                self.process.kill()
                await trio.lowlevel.wait_readable(self.process.pidfd)
            if self.process.exit_detail() != "exit status 0":
                # It is not reaped yet, so the session's number is still its own.
                linux.kill_session(self.process.pid)
            self.process.reap()

    async def _send(self, fields: Mapping[str, object], fds: Sequence[int]) -> None:
        while True:
            try:
                return protocol.send(self._control, fields, fds)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._control.fileno())
            except (BrokenPipeError, ConnectionResetError):
                return None  # `run` and `initialise` see the end by themselves

    async def _receive(self, shapes: protocol.Shapes) -> protocol.Message | None:
        while True:
            try:
                return protocol.receive(self._control, shapes)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._control.fileno())
            except protocol.Garbled:
                self.process.kill()
                return None
