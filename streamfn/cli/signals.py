"""The signals that end a command: a first one in an orderly way, a second one at once."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import trio

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# coreutils' timeout, shells and supervisors send a signal to the process and then to its whole group: that is one
# request, which comes twice. Nobody presses a key again so soon.
ECHO_S = 0.05


async def requests(receiver: AsyncIterator[int]) -> AsyncIterator[int]:
    """The signals of an open `trio.open_signal_receiver` without the echo of each."""
    last, last_s = 0, -ECHO_S
    async for number in receiver:
        now_s = trio.current_time()
        if number != last or now_s - last_s >= ECHO_S:
            yield number
        last, last_s = number, now_s
