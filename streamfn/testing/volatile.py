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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import NamedTuple, TypeVar

SECTOR_BYTES = 512
ROOT = 1
_CONTENTS_MAX = 32

_Value = TypeVar("_Value")


class Image(NamedTuple):
    """What is found on a disk: content of files and entries of directories by node number, and boots so far.

    `unsynced` has what was not synced where the system went on: those nodes as they were.
    """

    nodes: Mapping[int, bytes | Mapping[str, int]]
    boots: int
    unsynced: Mapping[int, FileState | DirectoryState] = {}

    def key(self) -> int:
        """Return a hash of everything that can be reached by name, and of what could still be lost of it."""
        unsynced = tuple((number, node.fingerprint()) for number, node in self.unsynced.items())
        return hash((frozenset(self.files().items()), unsynced))

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


class SectorChange(NamedTuple):
    """A write to one sector, from byte `start` in it; `lost` after a failed sync: no later one writes it."""

    start: int
    content: bytes
    lost: bool = False


class FileState(NamedTuple):
    """A file at one moment.

    `sectors` has for each sector that was written since the last sync its position and every content it may
    have, what is durable first and what is live last; `sizes` the same for the length.
    """

    live: bytes
    durable: bytes
    sectors: tuple[tuple[int, tuple[bytes, ...]], ...]
    sizes: tuple[int, ...]
    changes: Mapping[int, tuple[SectorChange, ...]]

    def fingerprint(self) -> object:
        """Return what two equal states have in common, hashable."""
        return self.durable, self.sectors, self.sizes

    @property
    def choices(self) -> list[int]:
        """The number of alternatives of each sector, and of the length."""
        return [*(len(contents) for _, contents in self.sectors), len(self.sizes)]

    def after(self, picks: Sequence[int]) -> bytes:
        """Return the content for one alternative of each choice."""
        if not any(picks):
            return self.durable
        content = bytearray(self.durable)
        for (position, contents), pick in zip(self.sectors, picks, strict=False):
            if pick:
                overlay(content, contents[pick], position)
        size = self.sizes[picks[-1]]
        return bytes(content[:size].ljust(size, b"\0"))


class DirectoryState(NamedTuple):
    """A directory at one moment: its entries, those that are durable, and the changes that are not."""

    live: Mapping[str, int]
    durable: Mapping[str, int]
    changes: tuple[Entry, ...]

    def fingerprint(self) -> object:
        """Return what two equal states have in common, hashable."""
        return frozenset(self.durable.items()), self.changes

    @property
    def choices(self) -> list[int]:
        """Two alternatives of each change."""
        return [2] * len(self.changes)

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
            self.choices += node.choices

    def killed(self) -> Image:
        """Return the disk after the processes ended and the system went on: all is there, and not yet durable."""
        live = {number: node.live for number, node in self._nodes.items()}
        unsynced = {number: node for number, node in self._nodes.items() if node.changes or prod(node.choices) > 1}
        return Image(live, self._boots, unsynced)

    def image(self, picks: Sequence[int]) -> Image:
        """Return the disk after a loss of power; `picks` takes one alternative of each choice."""
        nodes: dict[int, bytes | Mapping[str, int]] = {}
        at = 0
        for number, node in self._nodes.items():
            taken = len(node.choices)
            nodes[number] = node.after(picks[at : at + taken])
            at += taken
        return Image(nodes, self._boots + 1)

    def lost(self) -> Image:
        """Return the disk after a loss of power that took everything that was not synced."""
        return self.image([0] * len(self.choices))

    def kept(self) -> Image:
        """Return the disk after a loss of power that took nothing."""
        return self.image([number - 1 for number in self.choices])

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

    __slots__ = ("changes", "durable", "links", "live", "sizes")

    def __init__(self, content: bytes = b"", state: FileState | None = None) -> None:
        self.live = bytearray(content)
        self.durable = content if state is None else state.durable
        self.changes = {number: list(changes) for number, changes in state.changes.items()} if state else {}
        self.sizes = list(state.sizes) if state else [len(content)]
        self.links = 0

    def write(self, content: bytes, position: int) -> None:
        """Change content, and the length where it is written past the end."""
        overlay(self.live, content, position)
        self._note(content, position)

    def truncate(self, size: int) -> None:
        """Change the length."""
        if size < len(self.live):
            cut = bytes(max(*self.sizes, len(self.live)) - size)
            del self.live[size:]
            self._note(cut, size)  # it must not come back when the file grows again
        else:
            self.live.extend(bytes(size - len(self.live)))
            self._note(b"", size)

    def _note(self, content: bytes, position: int) -> None:
        if len(self.live) != self.sizes[-1]:
            self.sizes.append(len(self.live))
        at = 0
        while at < len(content):
            number, start = divmod(position + at, SECTOR_BYTES)
            change = SectorChange(start, content[at : at + SECTOR_BYTES - start])
            self.changes.setdefault(number, []).append(change)
            at += SECTOR_BYTES - start

    def sync(self) -> None:
        """Make everything durable but what an earlier sync has lost."""
        lost = {}
        durable = bytearray(self.durable)
        for number, changes in self.changes.items():
            for change in changes:
                if not change.lost:
                    overlay(durable, change.content, number * SECTOR_BYTES + change.start)
            if all(change.lost for change in changes):
                lost[number] = changes
        self.durable = bytes(durable[: len(self.live)].ljust(len(self.live), b"\0")) if lost else bytes(self.live)
        self.changes = lost
        self.sizes = [len(self.live)]

    def sync_failed(self) -> None:
        """Take everything for written that was not."""
        for changes in self.changes.values():
            changes[:] = [change._replace(lost=True) for change in changes]

    def state(self) -> FileState:
        """Freeze this moment."""
        sectors = tuple((number * SECTOR_BYTES, self._contents(number)) for number in sorted(self.changes))
        sizes = _from_first_to_last(self.sizes[0], self.sizes, self.sizes[-1])
        changes = {number: tuple(self.changes[number]) for number in self.changes}
        return FileState(bytes(self.live), self.durable, sectors, sizes, changes)

    def _contents(self, number: int) -> tuple[bytes, ...]:
        """Return what a sector may hold; of very many possibilities only the first."""
        at = number * SECTOR_BYTES
        durable = self.durable[at : at + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0")
        found = dict.fromkeys([durable])
        last = bytearray(durable)
        for start, content, _ in self.changes[number]:
            overlay(last, content, start)
            for known in list(found)[:_CONTENTS_MAX]:
                found[known[:start] + content + known[start + len(content) :]] = None
        return _from_first_to_last(durable, found, bytes(last))


class Directory:
    """A directory: names and node numbers."""

    __slots__ = ("changes", "durable", "links", "live")

    def __init__(self, entries: Mapping[str, int], state: DirectoryState | None = None) -> None:
        self.live = dict(entries)
        self.durable = dict(entries if state is None else state.durable)
        self.changes = list(state.changes) if state else []
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


def _from_first_to_last(first: _Value, between: Iterable[_Value], last: _Value) -> tuple[_Value, ...]:
    """Return all values once, with these at the ends; one that is at both ends twice, unless it is alone."""
    others = dict.fromkeys(between)
    others.pop(first, None)
    others.pop(last, None)
    return (first,) if first == last and not others else (first, *others, last)


def overlay(content: bytearray, written: bytes, position: int) -> None:
    """Write into a file's content; what is skipped reads as zeros."""
    if position > len(content):
        content.extend(bytes(position - len(content)))
    content[position : position + len(written)] = written
