"""Seeds and sizes of the crash tests; each run prints what it used."""

import pytest
from crash_world import RESERVE_BLOCK

from streamfn.log.shard import reserve


@pytest.fixture
def crash_seed(request):
    """What the random part is drawn with."""
    return request.config.getoption("--crash-seed")


@pytest.fixture
def crash_states(request):
    """How many crash states are judged."""
    return request.config.getoption("--crash-states")


@pytest.fixture(autouse=True)
def _small_reserve(monkeypatch):
    """Offsets are reserved a few at a time, as in the processes that go through crash states."""
    monkeypatch.setattr(reserve, "BLOCK", RESERVE_BLOCK)
