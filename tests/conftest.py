"""Options of the whole suite, how it is spread over processes, and what each part of it took.

A run of the whole suite takes three processes at once (pytest-xdist): most tests wait, for processes and for time to
pass, and while one waits another runs; one of the three waits most of the time for what explores crash states. A file's
tests stay together, in their order, so what a module's fixtures make is made once. What is run by name or path runs in
this process, as ever; `-n 0` does that for everything.
"""

import importlib.util
from collections import Counter
from pathlib import Path

import hypothesis
import pytest

# How long an example takes says what else the machine does: no test depends on it.
hypothesis.settings.register_profile("streamfn", deadline=None)
hypothesis.settings.load_profile("streamfn")

PROCESSES = 3

# What begins first, because it takes longest; everything else follows in its order. What is not named here is quick.
LONGEST = (
    "crash/test_crash_states.py",
)


@pytest.hookimpl(tryfirst=True)  # xdist makes the processes in the same hook
def pytest_cmdline_main(config):
    """Spread the whole suite, unless somebody wants to look at it while it runs."""
    option = config.option
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    watched = option.usepdb or option.capture == "no" or option.collectonly
    if hasattr(config, "workerinput") or not importlib.util.find_spec("xdist"):
        return  # one of the processes; or there can be none
    if option.numprocesses is None and whole and not watched:
        option.numprocesses = PROCESSES
        option.dist = "loadfile"
        option.loadscopereorder = False

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
    items.sort(key=lambda item: _place(item.path))
    if not config.getoption("--soak"):
        skip = pytest.mark.skip(reason="only with --soak")
        for item in items:
            if "soak" in item.keywords:
                item.add_marker(skip)


def _place(path):
    name = f"{path.parent.name}/{path.name}"
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def pytest_terminal_summary(terminalreporter):
    """What tests counted, and a line for each directory of them: the gate has a limit, and this says who uses it up."""
    seconds, tests, figures = Counter(), Counter(), []
    for report in (each for reports in terminalreporter.stats.values() for each in reports):
        if isinstance(report, pytest.TestReport):
            part = Path(report.nodeid.split("::")[0])
            part = part.parts[1] if len(part.parts) > 2 else part.name
            seconds[part] += report.duration
            tests[part] += report.when == "call"
            figures += [text for name, text in report.user_properties if name == "figure" and report.when == "call"]
    if figures:
        terminalreporter.section("what was counted")
        for text in figures:
            terminalreporter.write_line(text)
    if sum(seconds.values()) > 10:
        terminalreporter.section("what each part took")
        for part, taken in seconds.most_common():
            terminalreporter.write_line(f"{taken:7.1f} s  {tests[part]:5d} tests  {part}")
