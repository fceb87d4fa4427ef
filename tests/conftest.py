"""Options of the whole suite, and what each part of it took."""

from collections import Counter
from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption("--soak", action="store_true", help="also run what takes long")
    parser.addoption("--crash-states", type=int, default=200_000, help="how many crash states are judged")
    parser.addoption("--crash-seed", type=int, default=5, help="what random crashes and faults are drawn with")
    parser.addoption("--every-fault", action="store_true", help="let every system call fail in every way")


@pytest.fixture
def soak(request):
    """Whether the long version of a test was asked for."""
    return request.config.getoption("--soak")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--soak"):
        skip = pytest.mark.skip(reason="only with --soak")
        for item in items:
            if "soak" in item.keywords:
                item.add_marker(skip)


def pytest_terminal_summary(terminalreporter):
    """A line for each directory of tests: the gate has a limit, and this says who uses it up."""
    seconds, tests = Counter(), Counter()
    for report in (each for reports in terminalreporter.stats.values() for each in reports):
        if isinstance(report, pytest.TestReport):
            part = Path(report.nodeid.split("::")[0])
            part = part.parts[1] if len(part.parts) > 2 else part.name
            seconds[part] += report.duration
            tests[part] += report.when == "call"
    if sum(seconds.values()) > 10:
        terminalreporter.section("what each part took")
        for part, taken in seconds.most_common():
            terminalreporter.write_line(f"{taken:7.1f} s  {tests[part]:5d} tests  {part}")
