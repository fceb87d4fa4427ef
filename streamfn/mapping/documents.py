"""Documents for workers: JSON in a descriptor of memory, introduced like a segment and named by a batch's first extent.

A document lives for one delivery; whoever introduced it has the worker let go of it.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from streamfn.pool.worker import Worker

# Documents have ids beside those of segments, which begin with 1.
_ids = itertools.count(1 << 62)


def introduce(worker: Worker, text: bytes, header: bytes) -> int | None:
    """Give a worker a document and return the name it has there; None when its socket is full, or it goes away.

    None too while the system is short of descriptors or memory: it is tried again as with a full socket.
    """
    try:
        descriptor = os.memfd_create("streamfn-document", os.MFD_CLOEXEC)
    except OSError:
        return None
    try:
        written = 0
        while written < len(text):
            written += os.write(descriptor, text[written:])
        name = next(_ids)
        worker.introduce(name, descriptor, header)
    except (trio.WouldBlock, OSError):
        return None
    finally:
        os.close(descriptor)
    return name
