"""The segments of a shard as a chain: each begins where the one before it ends.

A crash can leave files beside it: the unsealed form of a sealed segment, segments whose records lie in a merged one
as well, segments that were trimmed, one without a record before a loss.  The chain knows which those are.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from streamfn.log.catalog.stream import Shard
from streamfn.log.format.footer import Footer
from streamfn.log.segment.sealed import facts
from streamfn.log.segment.segment import SegmentFile, list_files
from streamfn.log.shard import gaps
from streamfn.log.shard.gaps import Ledger

# How often a shard is looked at anew whose files change meanwhile: by its writer, while another thread seals.
_LOOKS = 5


class Link(NamedTuple):
    """A segment of the chain.

    `end_offset` is what its own footer says, or where the next one begins or a gap before that; None for the last one,
    while it is not sealed.  `bytes` is what it takes on the disk, `modified_ms` when its file was changed last.
    """

    file: SegmentFile
    end_offset: int | None
    footer: Footer | None
    bytes: int
    modified_ms: int


class Chain(NamedTuple):
    """`links` in order, and the files beside them, which nobody needs."""

    links: list[Link]
    leftovers: list[SegmentFile]


def read_chain(shard: Shard, ledger: Ledger | None = None) -> Chain:
    """Look at every segment file of a shard; by its ledger, or by the one given.

    Raises:
        LogDamaged: the ledger of what is gone is not as it was written.
        OSError: a file cannot be read.
    """
    for _ in range(_LOOKS - 1):
        try:
            return _look(shard, gaps.read(shard) if ledger is None else ledger)
        except FileNotFoundError:  # sealed, merged or replaced between the list and the look at it
            continue
    return _look(shard, gaps.read(shard) if ledger is None else ledger)


def _look(shard: Shard, ledger: Ledger) -> Chain:
    files = list_files(shard)
    starts = sorted({file.first_offset for file in files})
    sealed = {file.first_offset for file in files if file.sealed}
    links: list[Link] = []
    leftovers: list[SegmentFile] = []
    end = ledger.horizon
    for file in files:
        if not file.sealed and file.first_offset in sealed:
            leftovers.append(file)
            continue
        found = facts(shard.disk, file.path, sealed=file.sealed)
        following = bisect_right(starts, file.first_offset)
        stop = ledger.start_before(starts[following]) if following < len(starts) else None
        if found.footer is not None:
            stop = found.footer.end_offset
        if stop is not None and stop <= max(end, file.first_offset):
            leftovers.append(file)
            continue
        links.append(Link(file, stop, found.footer, found.stored_bytes, found.modified_ms))
        end = stop if stop is not None else end
    return Chain(links, leftovers)
