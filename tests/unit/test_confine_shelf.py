"""A file is handed out by the name it has on the shelf, or not at all while that name is another file's."""

import os

import pytest

from streamfn.pool.confine.shelf import Shelf


@pytest.fixture
def shelf(tmp_path):
    made = Shelf(str(tmp_path), os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))  # any directory will do for a mount
    yield made
    made.close()


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_bytes(b"records")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    yield fd
    os.close(fd)


def test_a_file_is_opened_again_by_its_name(shelf, file):
    again = shelf.opened(file)
    assert again is not None
    assert os.pread(again, 7, 0) == b"records"
    os.close(again)


def test_a_file_without_a_name_and_memory_need_no_shelf(shelf, file, tmp_path):
    (tmp_path / "file").unlink()
    assert shelf.opened(file) is None
    memory = os.memfd_create("document")
    assert shelf.opened(memory) is None
    os.close(memory)


def test_a_file_that_is_being_renamed_is_not_handed_out_as_it_is(shelf, file, tmp_path, monkeypatch):
    (tmp_path / "other").write_bytes(b"")
    before = os.listdir("/proc/self/fd")
    for name in ("other", "gone"):
        monkeypatch.setattr(os, "readlink", lambda path, name=name: str(tmp_path / name))
        with pytest.raises(FileNotFoundError):
            shelf.opened(file)
    assert os.listdir("/proc/self/fd") == before
