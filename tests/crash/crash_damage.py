"""Shards whose bytes are changed behind the log's back, and what a reader then delivers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from crash_world import SEGMENT_BYTES, newborn

from streamfn._native import ffi, lib
from streamfn.errors import LogError
from streamfn.log.catalog import age
from streamfn.log.catalog.stream import Shard
from streamfn.log.format import batch, changes
from streamfn.log.format.layout import DYNAMODB, LAYOUTS, Layout
from streamfn.log.segment.rows import changes as changes_of
from streamfn.log.shard import compact, retention
from streamfn.log.shard.chain import read_chain
from streamfn.log.shard.gaps import Gap
from streamfn.log.shard.reader import Message, ShardReader, records
from streamfn.log.shard.seal import seal
from streamfn.log.shard.writer import ShardWriter
from streamfn.testing.clock import VirtualClock
from streamfn.testing.disk import SimDisk
from streamfn.testing.volatile import Image
from streamfn.types import Change, NewChange, NewRecord, Record

New = Sequence[NewRecord] | Sequence[NewChange]


def plain(count: int, size: int = 40) -> list[NewRecord]:
    contents = [bytes((i * 7 + j) % 256 for j in range(size + i % 5)) for i in range(count)]
    return [NewRecord(content, f"key-{i}", 1000 + i) for i, content in enumerate(contents)]


def sourced(count: int) -> list[NewRecord]:
    """Of a de-aggregated stream: NULL in one, the other, both or neither of the nullable columns."""
    return [
        record._replace(
            source_sequence_number=f"4957{i:052d}" if i % 3 else None, source_subsequence_number=i if i % 2 else None
        )
        for i, record in enumerate(plain(count), 1)
    ]


def changed(count: int) -> list[NewChange]:
    return [
        NewChange(
            ("INSERT", "MODIFY", "REMOVE")[i % 3],
            b'{"id":{"N":"%d"}}' % i,
            new_image=b'{"id":{"N":"%d"},"s":{"S":"new"}}' % i if i % 3 != 2 else None,
            old_image=b'{"id":{"N":"%d"}}' % i if i % 3 else None,
            event_id=f"{i:032x}",
            creation_ms=1000 + i,
            size_bytes=20 + i,
            user_identity=b'{"type":"Service"}' if i % 4 == 2 else None,
        )
        for i in range(count)
    ]


KINDS: dict[str, New] = {
    "one record": plain(1, 100),
    "a hundred records": plain(100),
    "records with NULLs in two columns": sourced(12),
    "changes with NULLs in three columns": changed(12),
}


def message(given: New) -> tuple[bytes, Layout]:
    """One message as an append writes it, first offset 7, and its layout."""
    made = changes.from_changes(given, 5) if isinstance(given[0], NewChange) else batch.from_records(given, 5)
    (rows,) = made
    return bytes(rows.draft(7, b"49" + b"7" * 34, 5).finish(3, 7)), rows.layout


class Scanner:
    """Scans one message in place, as often as it is changed."""

    def __init__(self, content: bytes, layout: Layout) -> None:
        self.memory = ffi.new("uint8_t[]", content)
        self.length = len(content)
        self._layout = layout.id
        self._position = ffi.new("uint64_t *")
        self._next = ffi.new("uint64_t *")
        self._count = ffi.new("size_t *")
        self._out = ffi.new("sf_message[]", 4)

    def accepts(self, end: int | None = None) -> bool:
        """Whether it is taken for a message, of the first `end` bytes."""
        self._position[0], self._next[0] = 0, 7
        lib.sf_scan(
            self.memory,
            self.length if end is None else end,
            self._layout,
            self._position,
            self._next,
            1 << 60,
            self._out,
            4,
            self._count,
        )
        return bool(self._count[0])


class Log(NamedTuple):
    """A shard at rest: sealed segments and an active one, everything committed; and what is in it."""

    image: Image
    shard: Shard
    content: list[Record] | list[Change]

    def files(self) -> dict[str, int]:
        """What of each segment holds records (sealed: all of it; active: what was committed), by path, in bytes."""
        found = {}
        for path, content in self.image.files().items():
            if content is not None and path.endswith((".arrow", ".arrows")):
                found[path] = len(content.rstrip(b"\0")) if path.endswith(".arrows") else len(content)
        return found

    def with_file(self, path: str, content: bytes, *, reboot: bool = False) -> Image:
        """The same disk with another content of one file, perhaps found after a reboot."""
        number = _number(self.image, path)
        return Image({**self.image.nodes, number: content}, self.image.boots + reboot)


@functools.cache
def log(kind: str) -> Log:
    """A shard of three segments of that kind of record, two of them sealed."""
    image, shard = newborn("dynamodb" if kind.startswith("changes") else "kinesis")
    disk = SimDisk(image)
    shard = shard._replace(disk=disk)
    given = KINDS[kind]
    writer = ShardWriter.open(
        shard, wait_s=0, clock=VirtualClock(), segment_bytes=4 * SEGMENT_BYTES, threaded=False
    )
    append = writer.append_changes if isinstance(given[0], NewChange) else writer.append
    for part in range(3):
        start = writer.end_offset
        append(given)
        append(given[:2])
        writer.commit()
        if part < 2:
            writer._sealer.seal = lambda first, end, *_: None
            writer._roll()
            seal(shard, start, writer.end_offset, age.Moment(0, 0))
    writer.close()
    image = disk.crash().kept()
    return Log(image, shard, delivered(image, shard)[0])


@functools.cache
def cold(kind: str) -> Log:
    """The same with what is sealed merged into one segment and compressed."""
    whole = log(kind)
    disk = SimDisk(whole.image)
    compact.compact(whole.shard._replace(disk=disk), 10**12, cold_after_s=0)
    return whole._replace(image=disk.crash().kept())


@functools.cache
def trimmed(kind: str) -> Log:
    """The same without its first segment."""
    whole = log(kind)
    disk = SimDisk(whole.image)
    shard = whole.shard._replace(disk=disk)
    retention.trim(shard, retention.removable(read_chain(shard).links)[:1], 0)
    image = disk.crash().kept()
    return whole._replace(image=image, content=salvaged(image, shard)[0])


def salvaged(image: Image, shard: Shard) -> tuple[list[Record] | list[Change], list[Gap]]:
    """Everything that a reader delivers that goes on behind damage, and what it says is missing."""
    disk = SimDisk(image)
    found: list = []
    gaps: list[Gap] = []
    with ShardReader.open(shard._replace(disk=disk), 0, salvage=True) as reader:
        while (got := reader.poll(1 << 30)) or reader.gap:
            for one in got:
                found += rows_of(one)
            if not got:
                gaps.append(reader.skip())
    return found, gaps


def rows_of(message: Message) -> list[Record] | list[Change]:
    return changes_of(message) if LAYOUTS[message.cdata.layout] is DYNAMODB else records(message)


def delivered(image: Image, shard: Shard) -> tuple[list[Record] | list[Change], str]:
    """Everything that a reader delivers before it comes to the end or stops, and why it stopped ("": the end)."""
    disk = SimDisk(image)
    found: list = []
    try:
        with ShardReader.open(shard._replace(disk=disk), 0) as reader:
            while got := reader.poll(1 << 30):
                for one in got:
                    found += rows_of(one)
    except LogError as error:
        return found, str(error)
    finally:
        assert not disk.open_files, f"{disk.open_files} descriptors or mappings are still open"
    return found, ""


def _number(image: Image, path: str) -> int:
    number = 1
    for name in Path(path).parts[1:]:
        number = image.nodes[number][name]
    return number
