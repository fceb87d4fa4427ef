"""A function's code: what its digest is made of, and being told when it changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from streamfn.functions import code as code_module
from streamfn.functions.code import CodeFiles
from streamfn.functions.following import Following
from streamfn.state.functions import Code

HANDLER = "pkg.app.handler"


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tree(tmp_path, "pkg/__init__.py", "pkg/app.py", "other.py", "native.so", "notes.txt")


def digest(root: Path, handler: str = HANDLER) -> str:
    return CodeFiles(str(root), handler).code().digest


def test_the_digest_is_that_of_what_python_imports(root: Path) -> None:
    before = CodeFiles(str(root), HANDLER).code()
    code = ("pkg/__init__.py", "pkg/app.py", "other.py", "native.so")
    assert before.size == sum((root / name).stat().st_size for name in code)
    tree(root, "notes.md", "out.jsonl", ".hidden/a.py", "__pycache__/a.py", "node_modules/a.py", "venv/lib/a.py")
    (root / "venv" / "pyvenv.cfg").touch()
    tree(root, "data/format", "data/streams/1/a.py")
    assert CodeFiles(str(root), HANDLER).code() == before


@pytest.mark.parametrize("name", ["pkg/app.py", "other.py", "native.so", "pkg/new.py", "deep/down/new.py"])
def test_a_change_anywhere_is_another_digest_and_undone_the_same(root: Path, name: str) -> None:
    files = CodeFiles(str(root), HANDLER)
    before = files.code()
    path = root / name
    was = path.read_bytes() if path.exists() else None
    tree(root, name)
    path.write_text("# another\n")
    assert files.code().digest == digest(root) != before.digest
    if was is None:
        path.unlink()
    else:
        path.write_bytes(was)
    assert files.code() == before


def test_a_file_that_moves_is_a_change_and_one_that_is_touched_is_none(root: Path) -> None:
    before = digest(root)
    os.utime(root / "other.py")
    assert digest(root) == before
    (root / "other.py").rename(root / "moved.py")
    assert digest(root) != before


def test_a_change_of_the_same_size_within_one_tick_of_the_clock_is_seen(root: Path) -> None:
    files, path = CodeFiles(str(root), HANDLER), root / "other.py"
    path.write_text("x = 1\n")
    stamp = path.stat().st_mtime_ns
    before = files.code()
    path.write_text("x = 2\n")
    os.utime(path, ns=(stamp, stamp))
    assert files.code().digest != before.digest


def test_where_there_is_too_much_the_code_is_the_handlers_package(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_module, "DIRECTORIES_MAX", 3)
    tree(root, *(f"other/{n}/a.py" for n in range(5)), "app.py")
    packaged, alone = digest(root), digest(root, "app.handler")
    tree(root, "other/more.py")
    (root / "pkg" / "app.py").write_text("# another\n")
    assert digest(root) != packaged
    assert digest(root, "app.handler") == alone
    (root / "app.py").write_text("# another\n")
    assert digest(root, "app.handler") != alone


def test_what_cannot_be_read_or_is_gone_is_no_code(root: Path) -> None:
    (root / "gone.py").symlink_to(root / "nowhere.py")
    (root / "loop").symlink_to(root)
    before = digest(root)
    (root / "gone.py").unlink()
    assert digest(root) == before
    shutil.rmtree(root)
    assert CodeFiles(str(root), HANDLER).code().size == 0


# ---- following


class Told:
    """What a follower was told, and the waiting for it."""

    def __init__(self) -> None:
        self.codes: list[Code] = []
        self.said: list[str] = []
        self._more = trio.Event()

    async def changed(self, code: Code) -> None:
        self.codes.append(code)
        self._more.set()

    async def next(self) -> Code:
        with trio.fail_after(10):
            await self._more.wait()
        self._more = trio.Event()
        return self.codes[-1]


@asynccontextmanager
async def following(root: Path) -> AsyncIterator[Told]:
    told = Told()
    follower = Following(told.said.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        followed = await follower.watch(str(root), HANDLER)
        assert followed is not None
        follower.begin(followed, told.changed)
        yield told
        follower.end(followed)
        nursery.cancel_scope.cancel()
    follower.close()


def test_a_change_is_told_once_with_its_digest_and_what_is_no_code_is_not(root: Path) -> None:
    async def main() -> None:
        async with following(root) as told:
            await trio.sleep(0.2)  # the first digest is made
            tree(root, "out.txt", "__pycache__/app.py")
            os.utime(root / "other.py")
            (root / "other.py").write_text("# another\n")
            (root / "pkg" / "app.py").write_text("# another\n")
            assert (await told.next()).digest == digest(root)
            tree(root, "new/deep/module.py")
            assert (await told.next()).digest == digest(root)
            (root / "new" / "deep" / "module.py").write_text("# and that is followed, too\n")
            assert (await told.next()).digest == digest(root)
            (root / "draft").write_text("# as editors do it\n")
            (root / "draft").rename(root / "other.py")
            assert (await told.next()).digest == digest(root)
            assert len(told.codes) == 4
            assert told.said == []

    trio.run(main)


def test_what_was_changed_before_the_first_digest_is_told(root: Path) -> None:
    async def main() -> None:
        async with following(root) as told:
            (root / "other.py").write_text("# another\n")
            assert (await told.next()).digest == digest(root)

    trio.run(main)


def test_a_code_directory_that_is_replaced_by_another_is_followed(tmp_path: Path) -> None:
    code = tree(tmp_path / "code", "pkg/app.py")

    async def main() -> None:
        async with following(code) as told:
            await trio.sleep(0.2)  # the first digest is made
            code.rename(tmp_path / "before")
            await trio.sleep(0.3)
            assert not told.codes, "a directory that is away is no version"
            tree(tmp_path / "after", "pkg/app.py", "pkg/new.py").rename(code)
            assert (await told.next()).digest == digest(code)
            (code / "pkg" / "app.py").write_text("# another\n")
            assert (await told.next()).digest == digest(code)

    trio.run(main)


def test_where_the_system_allows_no_watch_that_is_said_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(24, "Too many open files")

    async def main() -> None:
        told = Told()
        follower = Following(told.said.append)
        assert await follower.watch(str(root), HANDLER) is None
        assert await follower.watch(str(root), HANDLER) is None
        (said,) = told.said
        assert said == "changes of code are not followed: Too many open files; see /proc/sys/fs/inotify"
        follower.close()

    monkeypatch.setattr("streamfn.log.storage.libc.inotify_init", refuse)
    trio.run(main)
