"""Taking apart what the Kinesis Producer Library has put into one record.

    F3 89 9A C2 | protobuf | MD5 of the protobuf, 16 bytes

    message AggregatedRecord {
        repeated string partition_key_table = 1;
        repeated string explicit_hash_key_table = 2;
        repeated Record records = 3;
    }
    message Record {
        required uint64 partition_key_index = 1;
        optional uint64 explicit_hash_key_index = 2;
        required bytes data = 3;
        repeated Tag tags = 4;
    }

What is not wholly that is an ordinary record, as it is for Kinesis' own client library.
"""

from __future__ import annotations

from hashlib import md5
from typing import Any, NamedTuple

from streamfn.errors import RefusedError
from streamfn.limits import PARTITION_KEY_CHARS_MAX

MAGIC = b"\xf3\x89\x9a\xc2"
_DIGEST_BYTES = 16
_LABELS = {"optional": 1, "required": 2, "repeated": 3}
_TYPES = {"uint64": 4, "string": 9, "bytes": 12, "message": 11}
_PACKAGE = "streamfn.kpl"
_MESSAGES = {
    "Tag": (("required", "string", "key"), ("optional", "string", "value")),
    "Record": (
        ("required", "uint64", "partition_key_index"),
        ("optional", "uint64", "explicit_hash_key_index"),
        ("required", "bytes", "data"),
        ("repeated", "message", "tags", "Tag"),
    ),
    "AggregatedRecord": (
        ("repeated", "string", "partition_key_table"),
        ("repeated", "string", "explicit_hash_key_table"),
        ("repeated", "message", "records", "Record"),
    ),
}


class UserRecord(NamedTuple):
    """A record as the producer was given it."""

    partition_key: str
    data: bytes


class Deaggregator:
    """Takes aggregated records apart; needs the protobuf package."""

    def __init__(self) -> None:
        """Describe the messages to protobuf.

        Raises:
            RefusedError: protobuf is not installed; the text says how to install it.
        """
        try:
            self._message, self._error = _message_class()
        except ImportError as error:
            raise RefusedError(
                f"--deaggregate needs the protobuf package ({error}): pip install 'streamfn[kpl]'"
            ) from None

    def user_records(self, data: bytes) -> list[UserRecord] | None:
        """Return what was put into a record's data, in its order; None if the record is an ordinary one."""
        if not data.startswith(MAGIC) or len(data) < len(MAGIC) + _DIGEST_BYTES:
            return None
        body = data[len(MAGIC) : -_DIGEST_BYTES]
        if md5(body, usedforsecurity=False).digest() != data[-_DIGEST_BYTES:]:
            return None
        message = self._message()
        try:
            message.ParseFromString(body)
            keys = list(message.partition_key_table)
        except (self._error, UnicodeDecodeError):
            return None
        # What is not UTF-8 comes as bytes, or raises, as the version of protobuf pleases.
        if not all(isinstance(key, str) and 1 <= len(key) <= PARTITION_KEY_CHARS_MAX for key in keys):
            return None
        if any(record.partition_key_index >= len(keys) for record in message.records):
            return None
        # One that holds nothing stays what it is: taken apart it would vanish.
        return [UserRecord(keys[record.partition_key_index], record.data) for record in message.records] or None


def _message_class() -> tuple[Any, type[Exception]]:
    """Return the class of AggregatedRecord and what it raises when it cannot read one.

    It is made from the description above: there is no generated code that could go stale.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.message import DecodeError

    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (label, kind, field, *inner) in enumerate(fields, start=1):
            described = message.field.add(name=field, number=number, label=_LABELS[label], type=_TYPES[kind])
            if inner:
                described.type_name = f".{_PACKAGE}.{inner[0]}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName(f"{_PACKAGE}.AggregatedRecord")
    return message_factory.GetMessageClass(found), DecodeError
