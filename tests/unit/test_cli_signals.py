"""Signals that end a command: what counts as a second one."""

from __future__ import annotations

import signal

import trio
import trio.testing

from streamfn.cli.signals import ECHO_S, requests

INT, TERM = signal.SIGINT, signal.SIGTERM


def heard(*sent: tuple[int, float]) -> list[int]:
    """What is heard of signals sent after these pauses, in seconds."""
    found: list[int] = []

    async def main() -> None:
        send, receive = trio.open_memory_channel[int](10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver, send)
            async for number in requests(receive):
                found.append(number)

    async def deliver(send: trio.MemorySendChannel[int]) -> None:
        async with send:
            for number, pause_s in sent:
                await trio.sleep(pause_s)
                await send.send(number)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return found


def test_a_signal_sent_to_the_process_and_to_its_group_is_one_request():
    assert heard((TERM, 0), (TERM, 0.001)) == [TERM]


def test_a_key_pressed_twice_is_two_requests():
    assert heard((INT, 0), (INT, 3 * ECHO_S)) == [INT, INT]


def test_another_signal_is_another_request_however_soon():
    assert heard((INT, 0), (TERM, 0)) == [INT, TERM]
