"""Reading what the handlers of `functions/seen.py` wrote, and judging it: the runtime's word does not count here."""

from collections import defaultdict
from pathlib import Path


def invocations(path):
    """(shard, pid, [sequence numbers]) in the order of the file; a line that a kill cut off is none."""
    text = Path(path).read_text() if Path(path).exists() else ""
    rows = []
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            shard, pid, *numbers = line.split()
            rows.append((shard, int(pid), numbers))
    return rows


def deliveries(path):
    """Every delivery in order, by shard."""
    found = defaultdict(list)
    for shard, _, numbers in invocations(path):
        found[shard].extend(numbers)
    return found


def first_deliveries(numbers):
    """The sequence numbers in the order in which they were seen for the first time."""
    return list(dict.fromkeys(numbers))


def repeats(path):
    """How many deliveries were not the first of their record."""
    return sum(len(numbers) - len(set(numbers)) for numbers in deliveries(path).values())


def strays(marker):
    """Processes whose environment has the marker."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
