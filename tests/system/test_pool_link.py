"""What the runtime believes of a zygote, whose socket the user's Init can write to as well."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from pool_rig import count_fds, until
from trio.testing import trio_test

from streamfn.pool import linux, protocol
from streamfn.pool.launch import ZygoteProcess
from streamfn.pool.link import ZygoteLink

# It prints the numbers of a child and of a grandchild, and waits.
FAMILY = "sleep 600 & echo $!; (sleep 600 & echo $!; wait) & wait"


class Scene:
    """A link to a process that is no zygote, its far end, and that process's descendants."""

    def __init__(self, link: ZygoteLink, far: socket.socket, family: list[int]) -> None:
        self.link = link
        self.far = far
        self.family = family

    def say(self, fds: list[int] | None = None, **fields: object) -> None:
        protocol.send(self.far, fields, fds or [])

    async def spawn(self, token: int = 1) -> tuple[int, int] | None:
        try:
            return await self.link.spawn(token, 0, [], fresh=True)
        finally:
            self.link.forget(token)

    async def killed(self) -> bool:
        await until(lambda: not self.lives())
        return True

    def lives(self) -> bool:
        return os.waitid(os.P_PIDFD, self.link.process.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    popen = subprocess.Popen(["sh", "-c", FAMILY], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert popen.stdout is not None
    family = [int(popen.stdout.readline()) for _ in range(2)]
    near, far = protocol.pair()
    link = ZygoteLink(ZygoteProcess(popen.pid, popen), near)
    try:
        with far, trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run)
                yield Scene(link, far, family)
                nursery.cancel_scope.cancel()
    finally:
        link.process.kill()
        await link.close()
        popen.stdout.close()


@pytest.mark.parametrize("member", [0, 1], ids=["child", "grandchild"])
@trio_test
async def test_a_descendant_of_the_zygote_is_a_worker_whatever_number_was_said(member: int) -> None:
    async with scene() as stage:
        pidfd = os.pidfd_open(stage.family[member])
        stage.say([pidfd], op="spawned", token=1, pid=1)
        os.close(pidfd)
        born = await stage.spawn()
        assert born is not None
        assert born[0] == stage.family[member]
        os.close(born[1])
        assert stage.lives()


@trio_test
async def test_a_worker_that_has_been_reaped_already_is_one() -> None:
    async with scene() as stage:
        popen = subprocess.Popen(["true"])
        pidfd = os.pidfd_open(popen.pid)
        popen.wait()
        stage.say([pidfd], op="spawned", token=1, pid=popen.pid)
        os.close(pidfd)
        born = await stage.spawn()
        assert born is not None
        assert born[0] == -1, "a number that is another's by now is not believed"
        os.close(born[1])


@pytest.mark.parametrize("whose", ["the runtime's", "a stranger's"])
@trio_test
async def test_a_pidfd_of_somebody_else_ends_the_zygote(whose: str) -> None:
    """Taken for a worker, its process would be killed at the next timeout."""
    before = count_fds()
    async with scene() as stage:
        stranger = subprocess.Popen(["sleep", "600"])
        pidfd = os.pidfd_open(os.getpid() if whose == "the runtime's" else stranger.pid)
        stage.say([pidfd], op="spawned", token=1, pid=stage.family[0])
        os.close(pidfd)
        assert await stage.spawn() is None
        assert await stage.killed()
        assert stranger.poll() is None
        stranger.kill()
        stranger.wait()
    assert count_fds() == before


@pytest.mark.parametrize("path", ["/dev/null", "/proc/self/stat"])
@trio_test
async def test_what_is_no_pidfd_ends_the_zygote(path: str) -> None:
    async with scene() as stage:
        with open(path) as file:
            stage.say([file.fileno()], op="spawned", token=1, pid=stage.family[0])
        assert await stage.spawn() is None
        assert await stage.killed()


@trio_test
async def test_a_second_process_for_one_worker_ends_the_zygote() -> None:
    before = count_fds()
    async with scene() as stage:
        for member in stage.family:
            pidfd = os.pidfd_open(member)
            stage.say([pidfd], op="spawned", token=1, pid=member)
            os.close(pidfd)
        born = await stage.link.spawn(1, 0, [], fresh=True)
        await stage.link.wait_gone()
        assert born is not None
        os.close(born[1])
        assert await stage.killed()
    assert count_fds() == before


@trio_test
async def test_a_worker_that_is_there_and_refused_ends_the_zygote_and_leaves_no_descriptor() -> None:
    before = count_fds()
    async with scene() as stage:
        pidfd = os.pidfd_open(stage.family[0])
        stage.say([pidfd], op="spawned", token=1, pid=stage.family[0])
        os.close(pidfd)
        stage.say(op="refused", token=1, reason="no")
        born = await stage.link.spawn(1, 0, [], fresh=True)
        assert born is not None
        os.close(born[1])
        assert await stage.killed()
    assert count_fds() == before


@pytest.mark.parametrize("status", [0x7F, 2**70, -1, 0xFF, 0x13 << 8 | 0x7F])
@trio_test
async def test_an_end_that_no_process_has_ends_the_zygote(status: int) -> None:
    async with scene() as stage:
        pidfd = os.pidfd_open(stage.family[0])
        stage.say([pidfd], op="spawned", token=1, pid=stage.family[0])
        os.close(pidfd)
        born = await stage.link.spawn(1, 0, [], fresh=True)
        assert born is not None
        os.close(born[1])
        stage.far.sendall(json.dumps({"op": "exited", "token": 1, "status": status}).encode())
        await stage.link.wait_gone()
        assert await stage.link.exit_detail(1) == "signal: killed"
        assert await stage.killed()


@pytest.mark.parametrize("body", [b"{}", b'{"op": "ready"}', b'{"op": "exited"}', b'{"op": "exited", "token": []}'])
@trio_test
async def test_a_message_that_cannot_come_ends_the_zygote(body: bytes) -> None:
    async with scene() as stage:
        stage.far.sendall(body)
        await stage.link.wait_gone()
        assert await stage.killed()


@pytest.mark.parametrize(
    "body", [b"{}", b'{"op": "spawned", "token": 1, "pid": 1}', b'{"op": "failed", "document": 7}']
)
@trio_test
async def test_a_message_that_cannot_come_of_init_ends_the_zygote(body: bytes) -> None:
    async with scene() as stage:
        near, far = protocol.pair()
        link = ZygoteLink(stage.link.process, near)
        with near, far:
            far.sendall(body)
            assert await link.initialise({"op": "init"}, 5) is None
        assert await stage.killed()


@trio_test
async def test_a_zygote_that_never_stops_talking_leaves_the_runtime_its_time() -> None:
    async with scene() as stage:
        flood = os.fork()
        if flood == 0:
            try:
                while True:
                    stage.far.sendall(b'{"op": "exited", "token": 0, "status": 0}')
            finally:
                os._exit(0)
        for _ in range(1000):
            await trio.lowlevel.checkpoint()
        assert not stage.link.is_gone
        os.kill(flood, signal.SIGKILL)
        os.waitpid(flood, 0)


def test_who_descends_from_whom() -> None:
    own = os.getpid()
    assert linux.is_descendant(own, own)
    assert linux.is_descendant(own, os.getppid())
    assert not linux.is_descendant(os.getppid(), own)
    assert not linux.is_descendant(2**22, own)
