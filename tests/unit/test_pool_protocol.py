"""The datagrams between runtime and zygote."""

from __future__ import annotations

import os
import socket

import pytest

from streamfn.pool import protocol


def test_messages_arrive_in_order_with_their_descriptors() -> None:
    near, far = protocol.pair()
    with near, far, open(os.devnull) as file:
        protocol.send(near, {"op": "a"}, [file.fileno(), file.fileno()])
        protocol.send(near, {"op": "b", "text": "ü"})
        first, second = protocol.receive(far), protocol.receive(far)
        assert first is not None
        assert second == ({"op": "b", "text": "ü"}, [])
        assert first.fields == {"op": "a"}
        assert len(first.fds) == 2
        assert not any(map(os.get_inheritable, first.fds))
        protocol.close_all(first.fds)


def test_a_long_message_arrives_whole_and_after_its_descriptors() -> None:
    near, far = protocol.pair()
    text = "x" * 1_000_000
    with near, far, open(os.devnull) as file:
        before = len(os.listdir("/proc/self/fd"))
        protocol.send(near, {"op": "failed", "document": text}, [file.fileno()])
        message = protocol.receive(far)
        assert message is not None
        assert message.fields == {"op": "failed", "document": text}
        assert len(message.fds) == 1
        protocol.close_all(message.fds)
        assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_to_receive_is_blocking_and_the_end_is_none() -> None:
    near, far = protocol.pair()
    with near:
        with pytest.raises(BlockingIOError):
            protocol.receive(near)
        far.close()
        assert protocol.receive(near) is None


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"\xff", b'{"op": "long"}', b"x" * 100_000, b"[" * 30_000], ids=lambda body: str(body[:9])
)
def test_junk_is_said_to_be_junk_and_its_descriptors_are_closed(body: bytes) -> None:
    near, far = protocol.pair()
    with near, far, open(os.devnull) as file:
        protocol.send_bytes(near, body, [file.fileno()])
        before = len(os.listdir("/proc/self/fd"))
        if body.startswith(b'{"op"'):  # the "memfd" is no memfd
            with pytest.raises(protocol.Garbled):
                protocol.receive(far)
        else:
            with pytest.raises(protocol.Garbled):
                protocol.receive(far)
        assert len(os.listdir("/proc/self/fd")) == before


def test_more_descriptors_than_are_ever_sent_are_refused() -> None:
    near, far = protocol.pair()
    with near, far, open(os.devnull) as file:
        protocol.send_bytes(near, b"{}", [file.fileno()] * (protocol.FDS_MAX * 4))
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(protocol.Garbled):
            protocol.receive(far)
        assert len(os.listdir("/proc/self/fd")) == before


def test_the_ends_differ_in_blocking_only() -> None:
    near, far = protocol.pair()
    with near, far:
        assert (near.getblocking(), far.getblocking()) == (False, True)
        assert near.type == far.type == socket.SOCK_SEQPACKET
        assert not near.get_inheritable()
