"""What columns the messages of a segment have: one table for each kind of record.

A segment has one layout for all its messages, told by the schema it begins with.  native/include/sf_layout.h
has the same tables without names, for the scanner, the merge and the event builder, and says in which order
a message's buffers lie.
"""

from __future__ import annotations

from typing import NamedTuple

from streamfn._native import lib
from streamfn.limits import SEQUENCE_DIGITS_GIVEN
from streamfn.log.format.flatbuffer import Scalar, Table, Text


class Column(NamedTuple):
    """A column: its name and its type in Arrow's Schema.fbs (number and table).

    `fixed` says that it has 8 bytes a value (otherwise it is text or bytes, with offsets), `nullable` that it may
    be null.
    """

    name: str
    arrow_type: int
    type_table: Table
    fixed: bool = False
    nullable: bool = False


# What a buffer of a message holds.
VALIDITY, OFFSETS, BYTES, VALUES = range(4)


class Layout:
    """The columns of a segment, and what follows from them.

    `id` is sf_layout.h's number.  `buffers` are the buffers that a message carries, in canonical order: what each
    holds, and its place among those that Arrow counts (`arrow_buffers`: it counts a validity bitmap for every column).
    `nullable` are the columns that may be null, each with the index of its bitmap in `buffers`.  `sequence` is the
    index in `buffers` of the sequence number's offsets, `time` that of the time of arrival or creation; `texts` are
    those of the bytes of texts.  `row_bytes` is roughly what a row takes beside its texts: offsets, numbers, and a
    sequence number given here.
    """

    __slots__ = (
        "arrow_buffers", "buffers", "columns", "id", "name", "names", "nullable", "row_bytes", "sequence", "texts",
        "time",
    )  # fmt: skip

    def __init__(self, number: int, name: str, columns: tuple[Column, ...], time: str) -> None:
        self.id = number
        self.name = name
        self.columns = columns
        self.names = tuple(column.name for column in columns)
        buffers: list[tuple[int, int]] = []
        starts: dict[str, int] = {}
        self.arrow_buffers = 0
        nullable: list[tuple[int, int]] = []
        for index, column in enumerate(columns):
            place = self.arrow_buffers
            if column.nullable:
                nullable.append((index, len(buffers)))
                buffers.append((VALIDITY, place))
            starts[column.name] = len(buffers)
            if column.fixed:
                buffers.append((VALUES, place + 1))
            else:
                buffers += [(OFFSETS, place + 1), (BYTES, place + 2)]
            self.arrow_buffers += 2 if column.fixed else 3
        self.buffers = tuple(buffers)
        sizes = (1, 4, 0, 8)
        self.row_bytes = sum(sizes[what] for what, _ in buffers) + SEQUENCE_DIGITS_GIVEN
        self.nullable = tuple(nullable)
        self.texts = tuple(index for index, (what, _) in enumerate(buffers) if what == BYTES)
        self.sequence = starts["sequence_number"]
        self.time = starts[time]

    def __repr__(self) -> str:
        return f"<Layout {self.name} of {len(self.columns)} columns>"

    def holds(self, other: Layout) -> bool:
        """Whether rows of the other layout fit, with nulls in what they have not."""
        return self.columns[: len(other.columns)] == other.columns


# Numbers of Arrow's Schema.fbs.
_INT, _BINARY, _UTF8, _TIMESTAMP, _MILLISECOND = 2, 4, 5, 10, 1
_NOTHING = Table({})


def _text(name: str, *, nullable: bool = False) -> Column:
    return Column(name, _UTF8, _NOTHING, nullable=nullable)


def _int64(name: str, *, nullable: bool = False) -> Column:
    return Column(name, _INT, Table({0: Scalar("i", 64), 1: Scalar("B", 1)}), fixed=True, nullable=nullable)


def _time(name: str) -> Column:
    return Column(name, _TIMESTAMP, Table({0: Scalar("h", _MILLISECOND), 1: Text("UTC")}), fixed=True)


_RECORD = (
    _text("sequence_number"),
    _text("partition_key"),
    _time("approximate_arrival_timestamp"),
    Column("data", _BINARY, _NOTHING),
)
_SOURCE = (
    _text("source_sequence_number", nullable=True),
    _int64("source_subsequence_number", nullable=True),
)
_CHANGE = (
    _text("event_id"),
    _text("event_name"),
    _text("event_version"),
    _text("sequence_number"),
    _time("approximate_creation_date_time"),
    _text("keys"),
    _text("new_image", nullable=True),
    _text("old_image", nullable=True),
    _int64("size_bytes"),
    _text("stream_view_type"),
    _text("user_identity", nullable=True),
)

KINESIS = Layout(lib.SF_KINESIS, "KINESIS", _RECORD, "approximate_arrival_timestamp")
KINESIS_SOURCE = Layout(
    lib.SF_KINESIS_SOURCE, "KINESIS_SOURCE", _RECORD + _SOURCE, "approximate_arrival_timestamp"
)
DYNAMODB = Layout(lib.SF_DYNAMODB, "DYNAMODB", _CHANGE, "approximate_creation_date_time")
LAYOUTS = (KINESIS, KINESIS_SOURCE, DYNAMODB)


def initial(kind: str) -> Layout:
    """Return the layout that a shard of that kind ("kinesis" or "dynamodb") begins with."""
    return DYNAMODB if kind == "dynamodb" else KINESIS
