"""The command line.  `main` is the console script; everything heavier is imported when it is needed."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line on this process' arguments and return its exit code."""
    _stand_in()
    from streamfn.cli.app import run

    return run()


def _stand_in() -> None:
    """Put /dev/null where a standard stream was closed: the next file that is opened would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            if null == number:
                os.set_inheritable(null, True)
            setattr(sys, name, os.fdopen(null, "w" if number else "r", closefd=False))
