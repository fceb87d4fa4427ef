"""Lines out of files and pipes, in bounded memory.

Bytes come in blocks; an empty block means that the pipe has been quiet for IDLE_S, so that what has been
read so far should not wait for more.  Lines come in lists, an empty list for an empty block.  A line ends
at a line feed, which is not part of it; nothing else is taken away.
"""

from __future__ import annotations

import math
import os
import select
import stat
import time
from collections.abc import Iterable, Iterator

from streamfn.limits import MIB, RECORD_BYTES_MAX

BLOCK_BYTES = 4 * MIB
IDLE_S = 0.1
# A pipe that is never quiet for so long is not waited for longer than this.
GATHER_S = 0.2
# A longer line is refused anyway: so much of it is kept as shows that it is too long.
LINE_BYTES_KEPT = RECORD_BYTES_MAX + 1


def read_blocks(fd: int) -> Iterator[bytes]:
    """Yield what `fd` holds until its end, at most BLOCK_BYTES at a time; waits while a pipe is silent.

    What came from a pipe is held back for at most GATHER_S, however steadily more comes.
    """
    if stat.S_ISREG(os.fstat(fd).st_mode):
        while block := os.read(fd, BLOCK_BYTES):
            yield block
        return
    ended = False
    while not ended:
        parts: list[bytes] = []
        size, quiet, until = 0, False, math.inf
        while size < BLOCK_BYTES and not quiet and not ended and time.monotonic() < until:
            if parts and not select.select([fd], [], [], IDLE_S)[0]:
                quiet = True
            elif part := os.read(fd, BLOCK_BYTES - size):
                if not parts:
                    until = time.monotonic() + GATHER_S
                parts.append(part)
                size += len(part)
            else:
                ended = True
        if parts:
            yield b"".join(parts)
        if quiet:
            yield b""


def split_lines(blocks: Iterable[bytes], skip: int = 0) -> Iterator[list[bytes]]:
    """Yield the lines of `blocks` behind the first `skip`; of an endless line little over LINE_BYTES_KEPT."""
    carried: list[bytes] = []
    carried_bytes = 0
    for block in blocks:
        end = block.rfind(b"\n")
        if end < 0:
            if not block:
                yield []
            elif carried_bytes < LINE_BYTES_KEPT:
                carried.append(block)
                carried_bytes += len(block)
            continue
        carried.append(block[:end])
        lines = b"".join(carried).split(b"\n")
        rest = block[end + 1 :]
        carried, carried_bytes = ([rest], len(rest)) if rest else ([], 0)
        if skip:
            skip, lines = max(0, skip - len(lines)), lines[skip:]
        if lines:
            yield lines
    if carried and not skip:
        yield [b"".join(carried)]
