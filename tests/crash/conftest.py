"""Seeds and sizes of the crash tests; each run prints what it used."""

import pytest


@pytest.fixture
def crash_seed(request):
    """What the random part is drawn with."""
    return request.config.getoption("--crash-seed")


@pytest.fixture
def crash_states(request):
    """How many crash states are judged."""
    return request.config.getoption("--crash-states")
