"""Assertions of the C core are in every build: also in the one that runs here, and with NDEBUG."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "native"

# A lane's number is below the factor; there is no factor of 0.
FALSE = """
from streamfn._native import ffi, lib
lib.sf_group(ffi.new("uint8_t[1]"), ffi.NULL, 1, 0, ffi.new("uint32_t[1]"), ffi.new("uint32_t[2]"))
"""


def test_an_assertion_fires_in_the_module_that_is_installed() -> None:
    done = subprocess.run([sys.executable, "-c", FALSE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGABRT
    assert re.search(r"rows\.c:\d+: this must hold, and does not: factor >= 1", done.stderr)


def test_an_assertion_fires_in_a_build_with_ndebug(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source = tmp_path / "false.c"
    source.write_text(
        '#include "sf_assert.h"\nint main(int count, char **v) { (void)v; SF_ASSERT(count == 2); return 0; }\n'
    )
    program = str(tmp_path / "false")
    command = [compiler, "-std=c11", "-DNDEBUG", "-O3", f"-I{NATIVE / 'include'}", str(source), "-o", program]
    subprocess.run(command, check=True, timeout=60)
    assert subprocess.run([program, "true"], check=False).returncode == 0
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGABRT
    assert "does not: count == 2" in done.stderr


def test_nothing_is_asserted_that_a_build_could_leave_out() -> None:
    for path in sorted([*NATIVE.rglob("*.c"), *NATIVE.rglob("*.h")]):
        plain = re.findall(r"(?<![_\w])assert\(", path.read_text())
        assert not plain, f"{path.name}: say SF_ASSERT (sf_assert.h)"
