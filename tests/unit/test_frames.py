"""Frames between processes: what is encoded is decoded, and nothing that arrives raises anything but Malformed."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfn.errors import BusyError, DiskFull, FailedError, LogDamaged, LogError, RefusedError
from streamfn.log.sharing import frames
from streamfn.log.sharing.frames import Failed, Hello, Malformed, Placed, Put, Verdict, Welcome
from streamfn.log.storage.durability import FSYNC, OS, Durability, interval
from streamfn.types import NewChange, NewRecord

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
digits = st.text("0123456789", min_size=1, max_size=129)
modes = st.sampled_from([FSYNC, OS, interval(1), interval(3_600_000)])
whole = st.integers(0, 2**63 - 1)
plain = st.tuples(st.binary(max_size=50), texts).map(lambda pair: NewRecord(*pair))
full = st.builds(
    NewRecord, st.binary(max_size=50), texts, st.none() | whole, st.none() | digits, st.none() | digits,
    st.none() | whole,
)  # fmt: skip
images = st.none() | st.binary(max_size=30)
changed = st.builds(
    NewChange, texts, st.binary(max_size=20), images, images, texts, st.none() | texts, st.none() | whole,
    st.none() | digits, st.none() | whole, images, texts,
)  # fmt: skip
puts = st.builds(
    Put,
    st.integers(0, 2**64 - 1),
    modes,
    st.lists(plain, min_size=1, max_size=6)
    | st.lists(full, min_size=1, max_size=6)
    | st.lists(changed, min_size=1, max_size=6),
)

DECODERS = (
    frames.decode_hello, frames.decode_welcome, frames.decode_put, frames.decode_placed, frames.decode_failed,
)  # fmt: skip


def payload(frame: bytes) -> bytes:
    ((_, content),) = frames.split(bytearray(frame))
    return content


@given(puts)
def test_a_put_arrives_as_it_was(put: Put) -> None:
    assert frames.decode_put(payload(frames.encode_put(put))) == put


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**32 - 1), st.lists(whole, max_size=2))
def test_a_hello_arrives_as_it_was(client: bytes, epoch: int, unanswered: list[int]) -> None:
    hello = Hello(client, epoch, tuple(unanswered))
    assert frames.decode_hello(payload(frames.encode_hello(hello))) == hello


@given(whole, digits, st.lists(st.builds(Verdict, st.booleans(), st.none() | whole), max_size=3))
def test_answers_arrive_as_they_were(number: int, base: str, verdicts: list[Verdict]) -> None:
    welcome = Welcome(number & 0xFFFFFFFF, base, tuple(verdicts))
    assert frames.decode_welcome(payload(frames.encode_welcome(welcome))) == welcome
    placed = Placed(number, number, base)
    assert frames.decode_placed(payload(frames.encode_placed(placed))) == placed


@pytest.mark.parametrize(
    ("error", "arrives_as"),
    [
        (DiskFull("full"), DiskFull), (LogError("gone"), LogError), (LogDamaged("bad"), LogError),
        (RefusedError("no"), RefusedError), (BusyError("busy"), BusyError), (FailedError("x"), FailedError),
    ],
)  # fmt: skip
def test_an_error_arrives_as_what_it_is_for_the_caller(error: FailedError, arrives_as: type) -> None:
    failed = frames.decode_failed(payload(frames.encode_failed(Failed(7, error))))
    assert (failed.number, type(failed.error), str(failed.error)) == (7, arrives_as, str(error))


@given(st.lists(puts, max_size=4), st.data())
def test_frames_come_out_whole_however_they_were_cut(sent: list[Put], data: st.DataObject) -> None:
    stream = b"".join(frames.encode_put(put) for put in sent)
    buffer, got = bytearray(), []
    while stream:
        size = data.draw(st.integers(1, max(1, len(stream))))
        buffer += stream[:size]
        stream = stream[size:]
        got += [frames.decode_put(content) for _, content in frames.split(buffer)]
    assert got == sent
    assert not buffer


def test_who_takes_one_frame_leaves_the_others() -> None:
    buffer = bytearray(frames.frame(frames.GOODBYE) + frames.frame(frames.RELEASE, b"x"))
    for kind, _ in frames.split(buffer):
        assert kind == frames.GOODBYE
        break
    assert list(frames.split(buffer)) == [(frames.RELEASE, b"x")]


def test_a_frame_that_says_it_is_huge_is_refused_before_it_has_come() -> None:
    with pytest.raises(Malformed, match="a frame of"):
        list(frames.split(bytearray(b"\xff\xff\xff\x7f\x03")))


def test_20_000_smears_raise_nothing_but_malformed() -> None:
    """Whole frames with bytes changed, cut off, put in or taken from another one."""
    rng = random.Random(20_000)
    records = [NewRecord(b"data" * 9, "key"), NewRecord(b"", "k" * 200)]
    seeds = [
        payload(frame)
        for frame in (
            frames.encode_put(Put(1, FSYNC, records)),
            frames.encode_put(Put(2, OS, [record._replace(sequence_number="9" * 129) for record in records])),
            frames.encode_put(Put(3, interval(9), [NewChange("INSERT", b"{}", b"{}", None)])),
            frames.encode_hello(Hello(b"c" * 16, 3, (1, 2))),
            frames.encode_welcome(Welcome(3, "4" * 36, (Verdict(True, 5), Verdict(False)))),
            frames.encode_placed(Placed(1, 2, "4" * 36)),
            frames.encode_failed(Failed(1, LogError("x"))),
        )
    ]
    decoded = 0
    for _ in range(20_000):
        content = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(content) + 1)
            match rng.randrange(4):
                case 0:
                    content[at : at + 1] = rng.randbytes(1)
                case 1:
                    del content[at : at + rng.randint(1, 20)]
                case 2:
                    content[at:at] = rng.randbytes(rng.randint(1, 20))
                case 3:
                    content[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"))
        for decode in DECODERS:
            with contextlib.suppress(Malformed):
                decode(bytes(content))
                decoded += 1
    assert decoded, "some smears are frames still"


@pytest.mark.parametrize("text", ["fsync", "os", "interval(5)"])
def test_a_durability_is_written_as_it_is_read(text: str) -> None:
    assert str(Durability.parse(text)) == text


def test_a_durability_has_three_names() -> None:
    assert Durability.parse("interval:100") == interval(100)
    for bad in ("", "sync", "interval", "interval(0)", "interval(-1)", "interval(3600001)", "interval(1.5)", "os "):
        with pytest.raises(RefusedError):
            Durability.parse(bad)
