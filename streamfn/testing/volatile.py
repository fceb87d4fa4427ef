"""What a disk in memory has for certain, and what it has only until the power goes.

What processes see at once is *live*.  What a power loss leaves for certain is *durable*: content and length
of a file as of its last sync, entries of a directory as of its last.  Everything in between is a *choice*
that each power loss makes anew:

    content    each 512-byte sector of each write (or hole) is there or not, whatever became of the others
    length     one of those the file has had since its last sync
    entries    each create, rename and unlink has happened or not, whatever became of the others

Harsher than any file system is on purpose, with one thing taken for granted: a rename is whole.  A sync of a
file says nothing about its name, a sync of a directory nothing about what is in its files.  A sync that fails
leaves the file's changes as they are in memory, and no later sync writes them (the kernel takes their pages
for clean); only what is written anew reaches the disk.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

SECTOR_BYTES = 512
ROOT = 1


class Image(NamedTuple):
    """A disk at rest: content of files and entries of directories by node number, and boots so far."""

    nodes: Mapping[int, bytes | Mapping[str, int]]
    boots: int

    def key(self) -> int:
        """Return a hash of everything that can be reached by name."""
        return hash(frozenset(self.files().items()))

    def files(self) -> dict[str, bytes | None]:
        """Return the content of files by path, and None for each directory."""
        found: dict[str, bytes | None] = {}
        waiting = [("", ROOT)]
        while waiting:
            path, number = waiting.pop()
            node = self.nodes[number]
            if isinstance(node, bytes):
                found[path] = node
            else:
                found[path] = None
                waiting += [(f"{path}/{name}", child) for name, child in node.items()]
        return found


class Entry(NamedTuple):
    """A change of a directory: `name` now stands for `node` (None: for nothing); a rename took it from `source`."""

    name: str
    node: int | None
    source: str | None = None

    def apply(self, entries: dict[str, int]) -> None:
        """Make the change."""
        if self.source is not None and entries.get(self.source) == self.node:
            del entries[self.source]
        if self.node is None:
            entries.pop(self.name, None)
        else:
            entries[self.name] = self.node


class Sector(NamedTuple):
    """A change of one sector of a file; `lost` after a failed sync: no later one writes it."""

    position: int
    content: bytes
    lost: bool = False


class FileState(NamedTuple):
    """A file at one moment: its content, what of it is durable and what is not, its lengths since the last sync."""

    live: bytes
    durable: bytes
    sectors: tuple[Sector, ...]
    sizes: tuple[int, ...]

    def after(self, picks: Sequence[int]) -> bytes:
        """Return the content where `picks` says of each sector whether it is there, then which length it has."""
        if len(picks) == 1 and len(self.sizes) == 1:
            return self.durable
        size = self.sizes[picks[-1]]
        content = bytearray(self.durable)
        for sector, kept in zip(self.sectors, picks, strict=False):
            if kept:
                overlay(content, sector.content, sector.position)
        del content[size:]
        return bytes(content.ljust(size, b"\0"))


class DirectoryState(NamedTuple):
    """A directory at one moment: its entries, those that are durable, and the changes that are not."""

    live: Mapping[str, int]
    durable: Mapping[str, int]
    changes: tuple[Entry, ...]

    def after(self, picks: Sequence[int]) -> Mapping[str, int]:
        """Return the entries where `picks` says of each change whether it has happened."""
        if not picks:
            return self.durable
        entries = dict(self.durable)
        for change, kept in zip(self.changes, picks, strict=True):
            if kept:
                change.apply(entries)
        return entries


class Crash:
    """A moment in the life of a disk, and what may be found if everything ends there.

    `choices` has the number of alternatives of each independent choice; alternative 0 is always what was
    there at the last sync, the last one what is live.
    """

    def __init__(self, nodes: Mapping[int, FileState | DirectoryState], boots: int) -> None:
        """Private: use `SimDisk.crash`."""
        self._nodes = nodes
        self._boots = boots
        self.choices: list[int] = []
        for node in nodes.values():
            if isinstance(node, FileState):
                self.choices += [2] * len(node.sectors) + [len(node.sizes)]
            else:
                self.choices += [2] * len(node.changes)

    def killed(self) -> Image:
        """Return the disk after the processes ended and the system went on: everything is there."""
        return Image({number: node.live for number, node in self._nodes.items()}, self._boots)

    def image(self, picks: Sequence[int]) -> Image:
        """Return the disk after a loss of power; `picks` takes one alternative of each choice."""
        nodes: dict[int, bytes | Mapping[str, int]] = {}
        at = 0
        for number, node in self._nodes.items():
            taken = len(node.sectors) + 1 if isinstance(node, FileState) else len(node.changes)
            nodes[number] = node.after(picks[at : at + taken])
            at += taken
        return Image(nodes, self._boots + 1)

    @property
    def combinations(self) -> int:
        """How many ways there are to pick."""
        return prod(self.choices)

    def states(self, limit: int, chance: random.Random) -> Iterator[Image]:
        """Yield disks that a loss of power may leave, no two alike: all there are if `combinations` is at most `limit`.

        Otherwise `limit` at most: nothing and everything kept, each change alone kept and alone lost, and then
        what `chance` draws.
        """
        seen = set()
        few = self.combinations <= limit
        for picks in product(*map(range, self.choices)) if few else self._drawn(2 * limit, chance):
            image = self.image(picks)
            key = image.key()
            if key not in seen:
                seen.add(key)
                yield image
                if len(seen) == limit:
                    return

    def _drawn(self, attempts: int, chance: random.Random) -> Iterator[list[int]]:
        last = [number - 1 for number in self.choices]
        yield [0] * len(last)
        yield last
        for at, highest in enumerate(last):
            if highest:
                yield [0] * at + [highest] + [0] * (len(last) - at - 1)
                yield [*last[:at], 0, *last[at + 1 :]]
        for _ in range(attempts):
            kept = chance.choice((0.2, 0.5, 0.8))
            yield [
                (chance.random() < kept) * highest if highest < 2 else chance.randint(0, highest)
                for highest in last
            ]


class File:
    """A file: its content in memory, and what a sync would have to write."""

    __slots__ = ("durable", "links", "live", "sectors", "sizes")

    def __init__(self, content: bytes = b"") -> None:
        self.live = bytearray(content)
        self.durable = content
        self.sectors: list[Sector] = []
        self.sizes = [len(content)]
        self.links = 0

    def write(self, content: bytes, position: int) -> None:
        """Change content, and the length where it is written past the end."""
        overlay(self.live, content, position)
        self._note_size()
        at = 0
        while at < len(content):
            length = SECTOR_BYTES - (position + at) % SECTOR_BYTES
            self.sectors.append(Sector(position + at, content[at : at + length]))
            at += length

    def truncate(self, size: int) -> None:
        """Change the length."""
        if size < len(self.live):
            del self.live[size:]
            # What is cut off must not come back when the file grows again.
            self.sectors.append(Sector(size, bytes(max(0, max(self.sizes) - size))))
        else:
            self.live.extend(bytes(size - len(self.live)))
        self._note_size()

    def _note_size(self) -> None:
        if len(self.live) != self.sizes[-1]:
            self.sizes.append(len(self.live))

    def sync(self) -> None:
        """Make everything durable but what an earlier sync has lost."""
        lost = [sector for sector in self.sectors if sector.lost]
        if lost:
            content = bytearray(self.durable)
            written = set()
            for sector in self.sectors:
                if not sector.lost:
                    overlay(content, sector.content, sector.position)
                    written.add(sector.position // SECTOR_BYTES)
            self.durable = bytes(content[: len(self.live)].ljust(len(self.live), b"\0"))
            self.sectors = [sector for sector in lost if sector.position // SECTOR_BYTES not in written]
        else:
            self.durable = bytes(self.live)
            self.sectors = []
        self.sizes = [len(self.live)]

    def sync_failed(self) -> None:
        """Take everything for written that was not."""
        self.sectors = [sector._replace(lost=True) for sector in self.sectors]

    def state(self) -> FileState:
        """Freeze this moment."""
        return FileState(bytes(self.live), self.durable, tuple(self.sectors), tuple(self.sizes))


class Directory:
    """A directory: names and node numbers."""

    __slots__ = ("changes", "durable", "links", "live")

    def __init__(self, entries: Mapping[str, int]) -> None:
        self.live = dict(entries)
        self.durable = dict(entries)
        self.changes: list[Entry] = []
        self.links = 0

    def change(self, entry: Entry) -> None:
        """Add, remove or rename an entry."""
        entry.apply(self.live)
        self.changes.append(entry)

    def sync(self) -> None:
        """Make the entries durable."""
        self.durable = dict(self.live)
        self.changes = []

    def state(self) -> DirectoryState:
        """Freeze this moment."""
        return DirectoryState(dict(self.live), self.durable, tuple(self.changes))


def overlay(content: bytearray, written: bytes, position: int) -> None:
    """Write into a file's content; what is skipped reads as zeros."""
    if position > len(content):
        content.extend(bytes(position - len(content)))
    content[position : position + len(written)] = written
