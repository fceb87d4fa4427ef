"""A place of its own for every test of this directory."""

import pytest
from run_rig import Place


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)
