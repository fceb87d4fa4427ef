"""Where the workers ring: an eventfd for each, and one epoll of them that the runtime waits for.

A worker holds its own doorbell and nobody else's.  With one for all a handler could take the wake-ups that were
meant for others out of it, fill it, or make it block, and the runtime with it: what a descriptor is set to holds for
everyone who has it.  The runtime never reads a doorbell: the epoll tells of each ringing once (edge-triggered), and
costs a wake-up one system call, as reading would.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamfn.pool.worker import Worker

_FLAGS = select.EPOLLIN | select.EPOLLET


class Bells:
    """The doorbells of a pool.  `fileno` is readable when somebody has rung since the last `answer`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._own = make_bell()
        self._epoll.register(self._own, _FLAGS)
        self._workers: dict[int, Worker] = {}

    def close(self) -> None:
        """Free the descriptors, but for the workers'."""
        self._epoll.close()
        os.close(self._own)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._epoll.fileno()

    def hang(self, worker: Worker) -> None:
        """Listen for a worker."""
        self._workers[worker.doorbell] = worker
        self._epoll.register(worker.doorbell, _FLAGS)

    def take_down(self, worker: Worker) -> None:
        """Listen for it no more; its doorbell must be open still."""
        if self._workers.pop(worker.doorbell, None) is not None:
            self._epoll.unregister(worker.doorbell)

    def ring(self) -> None:
        """Ring for oneself."""
        os.eventfd_write(self._own, 1)

    def answer(self) -> list[Worker]:
        """Give the workers that have rung, and have the descriptor unreadable until somebody does again."""
        workers = self._workers
        return [workers[fd] for fd, _ in self._epoll.poll(0) if fd in workers]


def make_bell() -> int:
    """Make a doorbell."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
