"""The live view of a real run, on a terminal that understands what is sent to it."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pyte
import pytest
from run_rig import FUNCTIONS, PATIENCE_S


class Terminal:
    """A `streamfn` process on a terminal of its own. `lines` is what stands there now."""

    def __init__(self, place, *arguments, columns=80, rows=24, **environment):
        self.near, far = pty.openpty()
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        settings = {**place.environment, "TERM": "xterm-256color", **environment}
        for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
            settings.pop(name, None) if name not in environment else None
        self.process = subprocess.Popen(
            place.command(*arguments), cwd=FUNCTIONS, env=settings, stdin=far, stdout=far, stderr=far,
            start_new_session=True,
        )  # fmt: skip
        os.close(far)
        self.sent = b""
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.process.kill()
        self.process.wait()
        os.close(self.near)

    @property
    def lines(self):
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def read(self, seconds):
        """Take what is sent within so many seconds; False when the process has closed the terminal."""
        if not select.select([self.near], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.near, 65536)
        except OSError:  # the other end is closed
            return False
        self.sent += data
        self._stream.feed(data)
        return True

    def shows(self, *patterns):
        """Wait until every pattern is found in a line of the screen."""
        deadline = time.monotonic() + PATIENCE_S
        while not all(any(re.search(pattern, line) for line in self.lines) for pattern in patterns):
            assert time.monotonic() < deadline, (patterns, self.lines)
            assert self.read(0.1) or self.lines, "it has ended"

    def ended(self):
        """Wait for the end; the exit code."""
        while self.read(0.1):
            assert self.process.poll() is None or select.select([self.near], [], [], 0)[0], self.lines
        return self.process.wait(PATIENCE_S)


@pytest.mark.parametrize("columns", [80, 200])
def test_the_picture_says_what_the_run_waits_for_and_is_gone_at_its_end(place, columns):
    place.stream(contents=["good"] * 30 + ["poison"])
    command = ["run", "failing.poison", "--stream", "s", "--batch-size", 10, "--until-caught-up"]
    with Terminal(place, *command, columns=columns) as terminal:
        terminal.shows(
            r"^failing\.poison@s .* \d:\d\d$",
            r"^━+─* +96%",
            r"^records +30 of 31 ",
            r"throughput +\d+/s",
            r"lag +1\b",
            r"iterator age +\d+(\.\d+)? (ms|s)",
            r"^latency +p50 [\d.]+ ms · p90 [\d.]+ ms · p99 [\d.]+ ms · max [\d.]+ m?s",
            r"^errors +\d+",
            r"again (in \d+(\.\d)? m?s|now): ValueError: poisoned",
        )
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() == 130
        # What the handler printed and what the run said stay, each on its own lines; the picture does not.
        text = "\n".join(terminal.lines)
        assert "throughput" not in text
        assert "━" not in text
        assert "[ERROR] ValueError: poisoned" in text
        assert terminal.lines[-1].startswith("resumes at shardId-000000000000 offset 30")


def test_without_colours_the_picture_is_the_same_and_a_dumb_terminal_gets_lines(place):
    place.stream(contents=["poison"])
    command = ["run", "failing.poison", "--stream", "s", "--logs", "none"]
    with Terminal(place, *command, NO_COLOR="1") as terminal:
        terminal.shows(r"again (in|now).* ValueError: poisoned", r"^records +0 ")
        assert not re.search(rb"\x1b\[[\d;]*3\dm", terminal.sent)
    with Terminal(place, *command, "--name", "other", TERM="dumb") as terminal:
        terminal.shows(r"^shardId-000000000000: 1 record from offset 0 failed \d+ times?,")
        assert b"\x1b" not in terminal.sent
