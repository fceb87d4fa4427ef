"""What processes say to the one that writes to a shard, and what it answers: bytes, and nothing else.

A frame is the length of its payload (u32), its kind (u8), the payload; all numbers are little-endian.

    HELLO     -> magic, version, who asks (16 bytes), the writer it lost (epoch), the puts it has no answer to
    WELCOME   <- the writer's epoch, and a verdict on each of those puts: see `tickets`
    PUT       -> number of the put, its durability, records
    PLACED    <- number of the put, offset of its first record, what sequence numbers begin with
    FAILED    <- number of the put, kind of error, text
    GOODBYE   <- what has no answer was not appended and never will be: ask who writes next; CLAIMED, if there is
                 somebody who asked for the shard and goes first
    RELEASE   -> let go of the shard; answered by the end of the connection, when its lock is free

Whatever arrives is checked before it is used: `Malformed` is all that decoding raises.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from streamfn import limits
from streamfn.errors import BusyError, DiskFull, FailedError, LogError, RefusedError, StreamfnError
from streamfn.log.storage.durability import INTERVAL_MS_MAX, Durability
from streamfn.types import NewChange, NewRecord

HELLO, WELCOME, PUT, PLACED, FAILED, GOODBYE, RELEASE = range(1, 8)

# A put of more is sent in several frames.  The largest record alone is less than two thirds of it.
FRAME_BYTES_MAX = 16 * limits.MIB
# Puts that a client may have under way: one is being synced while the next one is being written.
FLIGHTS_MAX = 2

CLAIMED = b"claimed"

_MAGIC = b"SFBR\x01"
_HEAD = struct.Struct("<IB")
_HELLO = struct.Struct("<5s16sIB")
_WELCOME = struct.Struct("<IB")
_VERDICT = struct.Struct("<Bq")
_PUT = struct.Struct("<QIBI")
_PLACED = struct.Struct("<QQ")
_FAILED = struct.Struct("<QB")
_LENGTH = struct.Struct("<I")
_INT = struct.Struct("<q")

New = NewRecord | NewChange

_PLAIN, _RECORDS, _CHANGES = range(3)
_SYNCED, _OS = 0, 0xFFFFFFFF
_NAMED = {_SYNCED: Durability("fsync"), _OS: Durability("os")}
_NONE, _NUMBER, _BYTES, _TEXT = range(4)
_INT_MAX = 2**63 - 1
_RECORD_TYPES: tuple[tuple[type, ...], ...] = (
    (bytes,), (str,), (int, type(None)), (str, type(None)), (str, type(None)), (int, type(None)),
)  # fmt: skip
_CHANGE_TYPES: tuple[tuple[type, ...], ...] = (
    (str,), (bytes,), (bytes, type(None)), (bytes, type(None)), (str,), (str, type(None)), (int, type(None)),
    (str, type(None)), (int, type(None)), (bytes, type(None)), (str,),
)  # fmt: skip
_NO_MORE = (None, None, None, None)

# Errors travel as the first of these that they are.
_ERRORS: tuple[type[StreamfnError], ...] = (DiskFull, LogError, BusyError, RefusedError, FailedError)


class Malformed(Exception):
    """What came is no frame of ours; the text says why."""


class Hello(NamedTuple):
    """A client, the epoch of the writer it lost (0: none), and its unanswered puts."""

    client: bytes
    lost_epoch: int
    puts: tuple[int, ...]


class Verdict(NamedTuple):
    """What became of a put: appended from offset `first` on, or not at all, or (`known` False) nobody can say."""

    known: bool
    first: int | None = None


class Welcome(NamedTuple):
    """The writer's epoch, what sequence numbers begin with, and the verdicts that were asked for, in order."""

    epoch: int
    base: str
    verdicts: tuple[Verdict, ...]


class Put(NamedTuple):
    """Records to append; `number` rises by one with each put of a client."""

    number: int
    durability: Durability
    records: Sequence[New]


class Placed(NamedTuple):
    """A put that is durable."""

    number: int
    first: int
    base: str


class Failed(NamedTuple):
    """A put that failed, as that of a local producer would have."""

    number: int
    error: StreamfnError


def split(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Take whole frames out of what was received: kind and payload; the rest stays.

    Raises:
        Malformed: a frame is larger than any of ours.
    """
    at = 0
    try:
        while len(buffer) - at >= _HEAD.size:
            length, kind = _HEAD.unpack_from(buffer, at)
            if length > FRAME_BYTES_MAX:
                raise Malformed(f"a frame of {length} bytes")
            end = at + _HEAD.size + length
            if len(buffer) < end:
                break
            payload = bytes(memoryview(buffer)[at + _HEAD.size : end])
            at = end  # whoever takes this one and no more leaves the rest
            yield kind, payload
    finally:
        del buffer[:at]


def frame(kind: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return _HEAD.pack(len(payload), kind) + payload


def encode_hello(hello: Hello) -> bytes:
    """See the top of the file."""
    fixed = _HELLO.pack(_MAGIC, hello.client, hello.lost_epoch, len(hello.puts))
    return frame(HELLO, fixed + struct.pack(f"<{len(hello.puts)}Q", *hello.puts))


def decode_hello(payload: bytes) -> Hello:
    """See the top of the file."""
    if len(payload) < _HELLO.size:
        raise Malformed("a hello that is cut")
    magic, client, epoch, count = _HELLO.unpack_from(payload)
    if magic != _MAGIC:
        raise Malformed("another protocol")
    if count > FLIGHTS_MAX or len(payload) != _HELLO.size + 8 * count:
        raise Malformed("a hello of another length")
    return Hello(client, epoch, struct.unpack_from(f"<{count}Q", payload, _HELLO.size))


def encode_welcome(welcome: Welcome) -> bytes:
    """See the top of the file."""
    verdicts = b"".join(
        _VERDICT.pack(verdict.known, -1 if verdict.first is None else verdict.first)
        for verdict in welcome.verdicts
    )
    return frame(
        WELCOME, _WELCOME.pack(welcome.epoch, len(welcome.verdicts)) + verdicts + welcome.base.encode()
    )


def decode_welcome(payload: bytes) -> Welcome:
    """See the top of the file."""
    try:
        epoch, count = _WELCOME.unpack_from(payload)
        at = _WELCOME.size + count * _VERDICT.size
        verdicts = tuple(
            Verdict(bool(known), None if first < 0 else first)
            for known, first in _VERDICT.iter_unpack(payload[_WELCOME.size : at])
        )
        if len(verdicts) != count:
            raise Malformed("a welcome that is cut")
        return Welcome(epoch, _digits(payload[at:]), verdicts)
    except struct.error as error:
        raise Malformed("a welcome that is cut") from error


def encode_put(put: Put) -> bytes:
    """See the top of the file."""
    records = put.records
    if all(record[2:] == _NO_MORE and len(record) == 6 for record in records):
        form, body = _PLAIN, _plain(records)
    else:
        form = _RECORDS if isinstance(records[0], NewRecord) else _CHANGES
        body = b"".join(_tagged(value) for record in records for value in record)
    mode = put.durability.interval_ms or (_SYNCED if put.durability.synced else _OS)
    return frame(PUT, _PUT.pack(put.number, mode, form, len(records)) + body)


def decode_put(payload: bytes) -> Put:
    """See the top of the file; limits of records are left to whoever appends them."""
    if len(payload) < _PUT.size:
        raise Malformed("a put that is cut")
    number, mode, form, count = _PUT.unpack_from(payload)
    # Before anything is made for each: no record is shorter.
    if not 0 < count <= (len(payload) - _PUT.size) // 6:
        raise Malformed(f"a put of {count} records in {len(payload)} bytes")
    if mode > INTERVAL_MS_MAX and mode != _OS:
        raise Malformed(f"a durability of {mode}")
    durability = _NAMED.get(mode) or Durability("interval", mode)
    return Put(number, durability, _decode_records(payload, form, count))


def encode_placed(placed: Placed) -> bytes:
    """See the top of the file."""
    return frame(PLACED, _PLACED.pack(placed.number, placed.first) + placed.base.encode())


def decode_placed(payload: bytes) -> Placed:
    """See the top of the file."""
    if len(payload) < _PLACED.size:
        raise Malformed("an answer that is cut")
    number, first = _PLACED.unpack_from(payload)
    return Placed(number, first, _digits(payload[_PLACED.size :]))


def encode_failed(failed: Failed) -> bytes:
    """See the top of the file."""
    name = next((n for n, kind in enumerate(_ERRORS) if isinstance(failed.error, kind)), len(_ERRORS) - 1)
    return frame(FAILED, _FAILED.pack(failed.number, name) + str(failed.error).encode(errors="replace"))


def decode_failed(payload: bytes) -> Failed:
    """See the top of the file."""
    if len(payload) < _FAILED.size or payload[_FAILED.size - 1] >= len(_ERRORS):
        raise Malformed("an answer that is cut")
    number, name = _FAILED.unpack_from(payload)
    return Failed(number, _ERRORS[name](payload[_FAILED.size :].decode(errors="replace")))


def _plain(records: Sequence[New]) -> bytes:
    """Records of data and key alone, which is nearly all of them: lengths first, then the bytes."""
    keys = [record[1].encode() for record in records]  # type: ignore[union-attr]
    data: list[bytes] = [record[0] for record in records]  # type: ignore[misc]
    lengths = struct.pack(f"<{2 * len(keys)}I", *map(len, keys), *map(len, data))
    return lengths + b"".join(keys) + b"".join(data)


def _decode_records(payload: bytes, form: int, count: int) -> Sequence[New]:
    try:
        if form == _PLAIN:
            return _decode_plain(payload, count)
        if form == _RECORDS:
            return [NewRecord(*values) for values in _decode_tagged(payload, count, _RECORD_TYPES)]
        if form == _CHANGES:
            return [NewChange(*values) for values in _decode_tagged(payload, count, _CHANGE_TYPES)]
    except (struct.error, UnicodeDecodeError, TypeError) as error:
        raise Malformed(f"records that are cut: {error}") from error
    raise Malformed(f"records of form {form}")


def _decode_plain(payload: bytes, count: int) -> list[NewRecord]:
    lengths = struct.unpack_from(f"<{2 * count}I", payload, _PUT.size)
    at = _PUT.size + 8 * count
    if at + sum(lengths) != len(payload):
        raise Malformed("records of another length")
    if count == 1:
        middle = at + lengths[0]
        return [NewRecord(payload[middle:], payload[at:middle].decode())]
    edges = [at]
    for length in lengths:
        edges.append(edges[-1] + length)
    parts = [payload[start:stop] for start, stop in pairwise(edges)]
    return [NewRecord(data, key.decode()) for key, data in zip(parts[:count], parts[count:], strict=True)]


def _tagged(value: object) -> bytes:
    if value is None:
        return b"\0"
    if isinstance(value, int):
        return bytes([_NUMBER]) + _INT.pack(value)
    content, tag = (value.encode(), _TEXT) if isinstance(value, str) else (value, _BYTES)
    assert isinstance(content, bytes)
    return bytes([tag]) + _LENGTH.pack(len(content)) + content


def _decode_tagged(payload: bytes, count: int, types: tuple[tuple[type, ...], ...]) -> Iterator[list[Any]]:
    at = _PUT.size
    for _ in range(count):
        values: list[Any] = []
        for allowed in types:
            value, at = _decode_value(payload, at)
            if not isinstance(value, allowed):
                raise Malformed(f"a {type(value).__name__} where none may be")
            values.append(value)
        yield values
    if at != len(payload):
        raise Malformed("records of another length")


def _decode_value(payload: bytes, at: int) -> tuple[bytes | str | int | None, int]:
    tag = payload[at] if at < len(payload) else 0xFF
    if tag == _NONE:
        return None, at + 1
    if tag == _NUMBER:
        return _INT.unpack_from(payload, at + 1)[0], at + 9
    if tag not in (_BYTES, _TEXT):
        raise Malformed(f"a value of kind {tag}")
    (length,) = _LENGTH.unpack_from(payload, at + 1)
    end = at + 5 + length
    if end > len(payload):
        raise Malformed("a value that is cut")
    content = payload[at + 5 : end]
    return content.decode() if tag == _TEXT else content, end


def _digits(text: bytes) -> str:
    if not text.isdigit() or len(text) > limits.SEQUENCE_DIGITS_MAX:
        raise Malformed("no sequence number")
    return text.decode()
