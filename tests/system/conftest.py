"""A place of its own for every test of this directory."""

import sys

import pytest
from run_rig import FUNCTIONS, Place

sys.path.append(str(FUNCTIONS))  # the catalogue of hostile handlers is read by their tests too


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)
