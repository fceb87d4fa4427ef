"""What a result says of the machine it was measured on, and when it calls it noisy."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from streamfn.measure.machine import differences, environment, quota_cores, said
from streamfn.measure.noise import Others, _judged, _reasons, complaints, probe

HYBRID = "0::/user.slice/app\n"
OLD = "4:memory:/docker/1\n2:cpu,cpuacct:/docker/1\n0::/\n"
MOUNTS = (
    "30 20 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    "31 20 0:27 {shown} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)


def tree(root: Path, files: dict[str, str]) -> Path:
    """A machine's /proc and /sys, as far as they are looked at."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_this_machine_says_what_it_is() -> None:
    found = environment()
    json.dumps(found)
    assert found["cpu"]
    assert found["cores"] == os.cpu_count()
    assert isinstance(found["usable_cores"], int)
    assert {"trio", "orjson", "cffi", "hdrhistogram", "pyarrow"} <= set(found["versions"])  # type: ignore[call-overload]
    assert f"Linux {os.uname().release}" in said(found)


def test_a_machine_with_a_governor_a_boost_and_two_threads_a_core_says_so(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    root = tree(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: Fast One\nsiblings\t: 8\ncpu cores\t: 4\nflags\t: fpu\n\nmodel name\t: X\n",
            "proc/meminfo": "MemTotal:       1024 kB\n",
            f"{cpu}/cpu0/cpufreq/scaling_governor": "powersave\n",
            f"{cpu}/cpu1/cpufreq/scaling_governor": "performance\n",
            f"{cpu}/intel_pstate/no_turbo": "0\n",
        },
    )
    found = environment(root)
    assert found["cpu"] == "Fast One"
    assert found["governor"] == "performance, powersave"
    assert (found["turbo"], found["threads_per_core"], found["virtual"]) == (True, 2, False)
    assert found["memory_bytes"] == 1024 * 1024
    assert "governor performance, powersave" in said(found)


def test_what_a_machine_does_not_say_is_none(tmp_path: Path) -> None:
    found = environment(tmp_path)
    unknown = ("governor", "turbo", "quota_cores", "threads_per_core", "memory_bytes")
    assert [found[name] for name in unknown] == [None] * 5


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": HYBRID, "sys/fs/cgroup/unified/user.slice/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": HYBRID,
                "sys/fs/cgroup/unified/user.slice/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/unified/user.slice/app/cpu.max": "max 100000\n",
                "sys/fs/cgroup/unified/cpu.max": "50000 100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": OLD,
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2.0,
        ),
        ({"proc/self/cgroup": OLD}, None),
        ({}, None),
    ],
)
def test_the_least_quota_around_a_process_is_what_it_has(
    tmp_path: Path, files: dict[str, str], cores: float | None
) -> None:
    root = tree(tmp_path, {"proc/self/mountinfo": MOUNTS.format(shown="/"), **files})
    assert quota_cores(root) == cores


def test_a_container_sees_its_own_group_as_the_root_of_the_mount(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": OLD,
        "proc/self/mountinfo": MOUNTS.format(shown="/docker/1"),
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    assert quota_cores(tree(tmp_path, files)) == 1.0


def test_two_machines_differ_in_what_makes_a_comparison_one_of_machines() -> None:
    here = {"cpu": "A", "cores": 2, "governor": None, "time": "then", "load": [1, 2, 3], "python": "3.11.7"}
    assert differences(here, here | {"time": "now", "load": [0, 0, 0]}) == []
    there = here | {"cpu": "B", "governor": "powersave"}
    assert differences(here, there) == ["cpu A and B", "governor unknown and powersave"]


def test_a_probe_takes_less_than_a_second_and_says_what_it_saw() -> None:
    began = time.monotonic()
    noise = probe(spin_s=0.1, sleeps=5)
    assert time.monotonic() - began < 5  # however loaded the machine is
    json.dumps(noise)
    assert 0 <= float(str(noise["stolen"])) < 1
    assert noise["noisy"] == bool(noise["reasons"])


def test_a_machine_on_which_every_piece_takes_as_long_is_quiet() -> None:
    found = _judged([[500_000] * 100, [500_000] * 90], [0.05, 0.06, 0.07])
    assert (found["stolen"], found["worst_pause_ms"], found["speed"]) == (0.0, 0.0, 2000.0)
    assert found["wakeup_ms"] == {"p50": 0.06, "p90": 0.07, "max": 0.07}
    assert _reasons(found | {"steal": None, "load": 0.1}) == []


def test_what_the_first_pieces_took_does_not_count() -> None:
    assert _judged([[9_000_000] * 20 + [500_000] * 80], [0.1])["stolen"] == 0.0


def test_a_machine_where_somebody_else_has_half_of_the_time_is_noisy() -> None:
    found = _judged([[500_000, 500_000, 500_000, 2_500_000] * 20], [0.05] * 8 + [3.5, 9.0])
    assert found["stolen"] == pytest.approx(0.5)
    assert found["worst_pause_ms"] == 2.0
    reasons = _reasons(found | {"steal": 0.1, "load": 3.0})
    assert reasons == [
        "50% of its 1 cores' time went elsewhere just before the run (load 3.0)",
        "the hypervisor took 10% of the time",
        "one sleep of 1 ms in ten ended more than 9.0 ms late",
    ]
    assert complaints({"reasons": reasons}, {})[0].startswith("this machine is noisy: 50% of its")


def test_a_governor_and_a_quota_are_complained_of() -> None:
    surroundings = {"governor": "powersave", "quota_cores": 1.5, "usable_cores": 4}
    lines = complaints({"reasons": []}, surroundings)
    assert len(lines) == 2
    assert "'powersave'" in lines[0]
    assert "allows 1.5 of 4 cores" in lines[1]
    assert complaints({}, {"governor": "performance", "quota_cores": 8.0, "usable_cores": 4}) == []


def test_what_others_use_is_what_the_machine_did_less_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    hertz, cores = os.sysconf("SC_CLK_TCK"), os.cpu_count() or 1
    now = {"s": 100.0, "busy": 0.0}

    def ticks() -> list[int]:
        busy = round(now["busy"] * hertz)
        return [busy - 10, 0, 4, 12_345 + round(now["s"]), 99, 0, 1, 5, 0, 0]

    monkeypatch.setattr("streamfn.measure.noise._ticks", ticks)
    monkeypatch.setattr("streamfn.measure.noise.time.monotonic", lambda: now["s"])
    others = Others()
    assert others.look(1.0) is None
    now.update(s=110.0, busy=6.0 * cores)
    assert others.look(1.0 + 5.0 * cores) == pytest.approx(0.1)
    now.update(s=110.001, busy=6.02 * cores)  # a tick, which says nothing of so short a time
    assert others.look(1.0 + 5.0 * cores) is None
    now.update(s=112.0, busy=7.0 * cores)
    assert others.look(1.0 + 5.5 * cores) == pytest.approx(0.25)


def test_a_machine_that_does_not_say_what_it_did_has_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamfn.measure.noise._ticks", list)
    others = Others()
    assert [others.look(1.0), others.look(2.0)] == [None, None]
