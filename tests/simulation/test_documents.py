"""docs/simulation.md tells of the bugs that are planted, all of them."""

from __future__ import annotations

import re
from pathlib import Path

from bugs import BUGS
from detection import DOCUMENT, words


def test_the_page_tells_of_every_planted_bug() -> None:
    rows = re.findall(r"^\| (R\d+) \| ([^:|]+):", Path(DOCUMENT).read_text("utf-8"), re.MULTILINE)
    assert rows == [(bug.rule, words(bug)) for bug in BUGS], "stale: run python tests/simulation/detection.py"
