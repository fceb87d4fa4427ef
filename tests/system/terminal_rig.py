"""Commands on a terminal of their own."""

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from contextlib import contextmanager

from run_rig import FUNCTIONS


def on_terminal(place, *arguments, cwd=FUNCTIONS):
    """A command on a terminal of its own: its process and the master's descriptor."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        place.command(*arguments), cwd=cwd, env={**place.environment, "TERM": "xterm"},
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(slave)
    return process, master


@contextmanager
def terminal(place, *arguments, cwd=FUNCTIONS):
    """The same while the block lasts; killed at its end if it still runs."""
    process, master = on_terminal(place, *arguments, cwd=cwd)
    try:
        yield process, master
    finally:
        process.kill()
        process.wait()
        os.close(master)


def read_until(master, text, seconds=15):
    """What is shown, up to `text`."""
    found, deadline = "", time.monotonic() + seconds
    while text not in found:
        assert time.monotonic() < deadline, found
        if select.select([master], [], [], 0.05)[0]:
            try:
                found += os.read(master, 65536).decode(errors="replace")
            except OSError:  # the other side is gone
                raise AssertionError(f"ended without {text!r}:\n{found}") from None
    return found
