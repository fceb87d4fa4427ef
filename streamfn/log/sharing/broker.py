"""What a process that needs a shard for itself can ask of the one that writes to it."""

from __future__ import annotations

import time

from streamfn.log.catalog.stream import Shard
from streamfn.log.sharing import frames, rendezvous


def request_release(shard: Shard, wait_s: float = 5.0) -> bool:
    """Ask the process that serves a shard's writer to let go of the shard; call it before taking the lock.

    That process makes durable what was put, answers it, closes its writer and lets others go first: its next
    put waits until the lock is free again.  Returns True once it has let go, False if nobody serves the shard
    (then the lock is free, or its holder is one that must be waited for) or it did not within `wait_s` seconds.
    Never raises.
    """
    connection = rendezvous.connect(shard)
    if connection is None:
        return False
    deadline = time.monotonic() + wait_s
    with connection:
        try:
            connection.sendall(frames.frame(frames.RELEASE))
            while (left := deadline - time.monotonic()) > 0:
                connection.settimeout(left)
                if not connection.recv(4096):
                    return True
        except ConnectionError:
            return True  # it has ended
        except OSError:
            return False
    return False
