"""The command line.  `main` is the console script; everything heavier is imported when it is needed."""

from __future__ import annotations


def main() -> int:
    """Run the command line on this process' arguments and return its exit code."""
    from streamfn.cli.app import run

    return run()
