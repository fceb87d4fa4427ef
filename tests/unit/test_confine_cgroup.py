"""Where control groups can be made, from what the kernel says of them."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from streamfn.pool.confine import cgroup
from streamfn.pool.confine.cgroup import CPU, MEMORY, PIDS, Group, Place, standing
from streamfn.pool.confine.locking import is_own_name, own_name

VERSION_1 = """\
25 1 0:23 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
26 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
27 25 0:25 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
28 25 0:26 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
29 25 0:27 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
30 25 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""
OWN_1 = "5:pids:/\n4:memory:/user/1000\n3:cpu,cpuacct:/\n1:name=systemd:/init\n0::/init\n"
VERSION_2 = "31 25 0:29 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
SCOPE = "/user.slice/user-1000.slice/user@1000.service/app.slice/run.scope"


def test_version_1_has_a_hierarchy_for_each_controller_and_an_empty_one_of_version_2() -> None:
    found = standing(VERSION_1, OWN_1)
    assert {(place.path.as_posix(), place.version, place.controllers) for place in found} == {
        ("/sys/fs/cgroup/cpu,cpuacct", 1, frozenset({CPU})),
        ("/sys/fs/cgroup/memory/user/1000", 1, frozenset({MEMORY})),
        ("/sys/fs/cgroup/pids", 1, frozenset({PIDS})),
        ("/sys/fs/cgroup/unified/init", 2, frozenset()),
    }


def test_version_2_has_one_group() -> None:
    assert standing(VERSION_2, f"0::{SCOPE}\n") == [Place(Path("/sys/fs/cgroup" + SCOPE), 2, frozenset())]


def test_what_a_container_does_not_see_of_the_hierarchy_is_no_place() -> None:
    mounted = "31 25 0:29 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    assert standing(mounted, "0::/docker/abc/sub\n") == [Place(Path("/sys/fs/cgroup/sub"), 2, frozenset())]
    assert standing(mounted, "0::/docker/abcd\n") == []
    assert standing(mounted, "0::/../other\n") == []


def test_names_of_mount_points_are_unescaped() -> None:
    mounted = "31 25 0:29 / /sys/my\\040cgroups rw - cgroup2 cgroup2 rw\n"
    assert standing(mounted, "0::/\n") == [Place(Path("/sys/my cgroups"), 2, frozenset())]


class Tree:
    """A hierarchy of version 2 as its files show it; directories stand for groups."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def group(self, name: str, *, has: str, hands_down: str, processes: str = "1 2") -> Path:
        path = self.root / name if name else self.root
        path.mkdir(exist_ok=True)
        for file, text in (
            ("cgroup.controllers", has),
            ("cgroup.subtree_control", hands_down),
            ("cgroup.procs", processes),
        ):
            (path / file).write_text(text)
        return path


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    root = tmp_path / "root"
    mounted = f"31 25 0:29 / {root} rw - cgroup2 cgroup2 rw\n"
    monkeypatch.setattr(Path, "read_text", _reading(mounted, Path.read_text))
    return Tree(root)


def _reading(mounted: str, real):  # type: ignore[no-untyped-def]
    said = {"/proc/self/mountinfo": mounted, "/proc/self/cgroup": "0::/slice/scope\n"}
    return lambda path, *rest, **more: said.get(str(path)) or real(path, *rest, **more)


def test_the_nearest_group_upwards_that_hands_down_is_taken(tree: Tree) -> None:
    tree.group("", has="cpu memory pids", hands_down="cpu memory pids")
    slice_ = tree.group("slice", has="cpu memory pids", hands_down="memory pids")
    tree.group("slice/scope", has="memory pids", hands_down="")
    found = cgroup.survey()
    assert found.places == [Place(slice_, 2, frozenset({MEMORY, PIDS}))]
    assert list(found.lacking) == [CPU]


def test_who_is_alone_in_his_group_takes_that(tree: Tree) -> None:
    tree.group("", has="cpu memory pids", hands_down="cpu memory pids")
    tree.group("slice", has="memory pids", hands_down="memory pids")
    scope = tree.group("slice/scope", has="memory pids", hands_down="", processes=f"{os.getpid()}\n")
    assert cgroup.survey().places == [Place(scope, 2, frozenset({MEMORY, PIDS}))]


def test_where_nothing_is_handed_down_it_is_said_for_every_controller(tree: Tree) -> None:
    tree.group("", has="memory", hands_down="")
    tree.group("slice", has="", hands_down="")
    tree.group("slice/scope", has="", hands_down="")
    found = cgroup.survey()
    assert found.places == []
    assert set(found.lacking) == {CPU, MEMORY, PIDS}
    assert all("hands that controller down" in why for why in found.lacking.values())


def test_only_what_a_runtime_has_made_is_swept_away(tmp_path: Path) -> None:
    theirs = tmp_path / "streamfn-web.slice"
    for home in (theirs, tmp_path / "streamfn-1-1", ours := tmp_path / own_name(cgroup.PREFIX)):
        home.mkdir()
    with subprocess.Popen(["sleep", "60"]) as process:
        (theirs / "worker").mkdir()
        (theirs / "worker" / "cgroup.procs").write_text(f"{process.pid}\n")
        cgroup.sweep(tmp_path)
        assert process.poll() is None
        process.kill()
    assert not ours.exists()
    assert theirs.exists()
    assert not is_own_name(own_name(cgroup.PREFIX), "streamfn-tmp-")


def test_a_runtime_waits_for_no_other_one_with_its_number() -> None:
    assert own_name("streamfn-") != own_name("streamfn-")


def test_a_group_of_version_2_is_killed_by_kernels_that_have_no_file_for_it(tmp_path: Path) -> None:
    home = tmp_path / "group"
    home.mkdir()
    with subprocess.Popen(["sleep", "60"]) as process:
        (home / "cgroup.procs").write_text(f"{process.pid}\n")
        assert not Group([Place(home, 2, frozenset({PIDS}))]).end()
        assert process.wait(5) == -signal.SIGKILL
