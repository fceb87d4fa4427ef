"""What the tests of both doors share."""

import os
import time
from contextlib import contextmanager
from pathlib import Path

FUNCTIONS = Path(__file__).parent / "functions"


def children(pid=None):
    """The pids of this process' descendants: zygotes, workers, whatever they started."""
    found, todo = set(), [pid or os.getpid()]
    while todo:
        parent = todo.pop()
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                below = {int(word) for word in path.read_text().split()}
            except OSError:
                continue
            todo.extend(below - found)
            found |= below
    return found


def wait_for(condition, seconds=10.0):
    """Poll until `condition()` is true; fail after a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def count_fds():
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def nothing_left():
    """A second later no process and no descriptor is left that was not there before."""
    before = children(), count_fds()
    yield
    wait_for(lambda: children() <= before[0] and count_fds() <= before[1], 1.0)
