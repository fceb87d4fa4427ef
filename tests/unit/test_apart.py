"""Directories that a command works in: nobody else's, and nothing is left of one."""

import os
import subprocess
import sys

import pytest

from streamfn.doors.apart import directory_apart, store_apart
from streamfn.errors import FailedError


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def test_it_is_there_for_its_owner_and_gone_at_the_end(temporary):
    with directory_apart("test-") as path:
        (path / "file").write_text("x")
        assert path.parent == temporary
        assert path.stat().st_mode & 0o777 == 0o700
        with directory_apart("test-") as other:
            assert other != path
        assert (path / "file").exists()
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_has_left_is_swept_up_and_nothing_else(temporary):
    script = (
        "import os, signal\nfrom streamfn.doors.apart import store_apart\n"
        "with store_apart() as path:\n    path.write_text('x')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(temporary)}, check=False)
    (temporary / "streamfn-store-mine").mkdir()
    assert len(list(temporary.iterdir())) == 2
    with store_apart() as path:
        assert sorted(temporary.iterdir()) == sorted([path.parent.parent, temporary / "streamfn-store-mine"])


def test_a_directory_that_cannot_be_made_is_named(temporary, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(temporary / "missing"))
    with pytest.raises(FailedError, match=r"cannot make .*missing/test-.*: No such file"), directory_apart("test-"):
        pass
