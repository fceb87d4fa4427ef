"""Options of the whole suite."""

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
