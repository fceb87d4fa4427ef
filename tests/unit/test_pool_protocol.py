"""The datagrams between runtime and zygote."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

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


def spilled(content: bytes, seals: int) -> int:
    memfd = os.memfd_create("spill", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(memfd, content)
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, seals)
    return memfd


ALL_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@pytest.mark.parametrize("missing", [fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE])
def test_a_long_message_that_its_sender_could_still_change_is_not_read(missing: int) -> None:
    near, far = protocol.pair()
    with near, far:
        for seals, is_read in ((ALL_SEALS, True), (ALL_SEALS & ~missing, False)):
            memfd = spilled(b'{"op": "ready"}', seals)
            protocol.send_bytes(near, b'{"op": "long"}', [memfd])
            os.close(memfd)
            if is_read:
                assert protocol.receive(far) == ({"op": "ready"}, [])
            else:
                with pytest.raises(protocol.Garbled, match="not sealed"):
                    protocol.receive(far)


def test_a_long_message_in_a_pipe_or_a_file_is_not_waited_for(tmp_path: Path) -> None:
    near, far = protocol.pair()
    reader, writer = os.pipe()
    with near, far, open(tmp_path / "file", "wb+") as file:
        for fd in (reader, file.fileno()):
            protocol.send_bytes(near, b'{"op": "long"}', [fd])
            with pytest.raises(protocol.Garbled):
                protocol.receive(far)
    os.close(reader)
    os.close(writer)


def test_a_message_larger_than_any_of_ours_is_not_read() -> None:
    near, far = protocol.pair()
    memfd = os.memfd_create("spill", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memfd, 1 << 40)
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, ALL_SEALS)
    with near, far:
        protocol.send_bytes(near, b'{"op": "long"}', [memfd])
        with pytest.raises(protocol.Garbled, match="1099511627776 bytes"):
            protocol.receive(far)
    os.close(memfd)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"op": ["spawned"]}',
        b'{"op": "ready"}',
        b'{"op": "spawned", "token": 1, "pid": 2}',  # without its pidfd
        b'{"op": "exited", "token": "1", "status": 0}',
        b'{"op": "exited", "token": true, "status": 0}',
        b'{"op": "exited", "token": 1}',
        b'{"op": "refused", "token": 1, "reason": null}',
    ],
)
def test_a_message_without_the_shape_of_one_that_can_come_is_junk(body: bytes) -> None:
    near, far = protocol.pair()
    with near, far:
        protocol.send_bytes(near, body, [])
        with pytest.raises(protocol.Garbled):
            protocol.receive(far, protocol.OF_WORKERS)


def test_descriptors_that_a_message_should_not_have_are_closed() -> None:
    near, far = protocol.pair()
    with near, far, open(os.devnull) as file:
        before = len(os.listdir("/proc/self/fd"))
        for body in (b'{"op": "ready"}', b'{"op": "failed", "document": "x"}'):
            protocol.send_bytes(near, body, [file.fileno()] * 2)
            with pytest.raises(protocol.Garbled):
                protocol.receive(far, protocol.OF_ITSELF)
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_shape_leaves_room_for_more_fields() -> None:
    near, far = protocol.pair()
    with near, far:
        protocol.send(near, {"op": "refused", "token": 3, "reason": "no", "more": [1]})
        message = protocol.receive(far, protocol.OF_WORKERS)
        assert message is not None
        assert message.fields["more"] == [1]


@pytest.mark.parametrize("begins", ["restore", None, 7, ["restore"], {}])
def test_a_field_that_may_be_missing_has_its_type_where_it_is_there(begins: object) -> None:
    near, far = protocol.pair()
    with near, far:
        protocol.send(near, {"op": "ready", "begins": begins})
        if begins is None or isinstance(begins, str):
            assert protocol.receive(far, protocol.OF_INIT) == ({"op": "ready", "begins": begins}, [])
        else:
            with pytest.raises(protocol.Garbled, match="begins"):
                protocol.receive(far, protocol.OF_INIT)
