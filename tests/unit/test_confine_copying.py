"""Copies of code that only root may read."""

import os
import stat

from streamfn.pool.confine import copying

NOTHING = frozenset()


def made(root):
    (root / "code/below").mkdir(parents=True)
    (root / "code/data").mkdir()
    (root / "code/app.py").write_text("x = 1")
    (root / "code/below/run").write_text("#!/bin/sh")
    (root / "code/data/secret").write_text("s")
    (root / "code/link").symlink_to("below/run")
    os.mkfifo(root / "code/pipe")
    os.chmod(root / "code/below/run", 0o700)
    os.chmod(root / "code/app.py", 0o600)
    os.chmod(root / "code/below", 0o700)
    return str(root / "code")


def test_a_copy_has_everything_but_what_was_left_out_and_all_may_read_it(tmp_path):
    code = made(tmp_path)
    (tmp_path / "copy").mkdir()
    copying.copy_for_all(code, str(tmp_path / "copy"), frozenset({f"{code}/data"}))
    copy = tmp_path / "copy"
    assert sorted(os.listdir(copy)) == ["app.py", "below", "data", "link"]
    assert os.listdir(copy / "data") == []
    assert (copy / "app.py").read_text() == "x = 1"
    assert stat.S_IMODE(os.stat(copy / "app.py").st_mode) == 0o644
    assert stat.S_IMODE(os.stat(copy / "below/run").st_mode) == 0o755
    assert stat.S_IMODE(os.stat(copy / "below").st_mode) & 0o055 == 0o055
    assert os.readlink(copy / "link") == "below/run"


def test_what_others_may_not_read_is_seen_wherever_it_lies(tmp_path):
    code = made(tmp_path)
    os.chmod(tmp_path / "code", 0o755)
    assert not copying.is_readable_by_all(code, NOTHING)
    os.chmod(tmp_path / "code/app.py", 0o644)
    os.chmod(tmp_path / "code/below", 0o755)
    assert not copying.is_readable_by_all(code, NOTHING)
    os.chmod(tmp_path / "code/below/run", 0o755)
    os.chmod(tmp_path / "code/pipe", 0o644)
    assert copying.is_readable_by_all(code, NOTHING)
    os.chmod(tmp_path / "code/data/secret", 0o600)
    assert not copying.is_readable_by_all(code, NOTHING)
    assert copying.is_readable_by_all(code, frozenset({f"{code}/data"}))
