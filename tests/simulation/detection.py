"""Write docs/simulation.md's table of planted bugs: `python tests/simulation/detection.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from bugs import BUGS, Bug, found_by
from plan import Plan

SEEDS = 600
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "simulation.md"
BEGIN, END = "<!-- detection: begin -->\n", "<!-- detection: end -->\n"


def first_seed(bug: Bug) -> tuple[int, str]:
    """The first seed whose world shows a bug, and by which name."""
    for seed in range(SEEDS):
        names = found_by(bug, Plan.draw(seed)) & bug.names
        if names:
            return seed, ", ".join(sorted(names))
    raise SystemExit(f"{SEEDS} seeds, and nobody noticed {bug.title}")


def words(bug: Bug) -> str:
    """A bug's name, in words."""
    return re.sub(r"(?<=.)([A-Z])", lambda match: " " + match[1].lower(), bug.title)


def table() -> str:
    """The rows, in the order of the rules."""
    rows = ["| rule | planted bug | seeds to detection | found as |", "|---|---|---|---|"]
    for bug in BUGS:
        seed, names = first_seed(bug)
        rows.append(f"| {bug.rule} | {words(bug)}: {bug.text[0].lower()}{bug.text[1:]} | {seed + 1} | {names} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Put the table into the page."""
    before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}{table()}{END}{after}", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
