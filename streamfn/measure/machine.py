"""Where something was measured: what of a machine makes the same work take another time.

Everything is read from /proc and /sys; what a machine does not say (most virtual ones have no governor) is None.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from streamfn.version import VERSION

ROOT = Path("/")
_PACKAGES = ("trio", "orjson", "cffi", "hdrhistogram", "pyarrow")
# What two results must have in common before a difference of theirs can be one of the code.
_SAME = ("cpu", "cores", "usable_cores", "quota_cores", "governor", "turbo", "memory_bytes", "kernel", "python")


def environment(root: Path = ROOT) -> dict[str, object]:
    """What a result holds as `environment`. `root` is where /proc and /sys are.

    `cores` are those that are switched on, `usable_cores` those that this process may run on, `quota_cores` what
    control groups allow of them together; `memory_bytes` is the machine's; `versions` are those of the packages that a
    run goes through; `time` is UTC.
    """
    info = _text(root / "proc/cpuinfo")
    return {
        "cpu": _field(info, "model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "quota_cores": quota_cores(root),
        "threads_per_core": _threads_per_core(info),
        "governor": _governor(root),
        "turbo": _turbo(root),
        "virtual": "hypervisor" in (_field(info, "flags") or "").split(),
        "memory_bytes": _memory_bytes(root),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "streamfn": VERSION,
        "versions": {name: metadata.version(name) for name in _PACKAGES if _is_installed(name)},
        "load": list(os.getloadavg()),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def said(environment: Mapping[str, object]) -> str:
    """One line for people: processor, cores, governor, kernel, Python."""
    cores, usable, quota = (environment.get(name) for name in ("cores", "usable_cores", "quota_cores"))
    parts = [str(environment.get("cpu")), f"{cores} cores"]
    if usable != cores:
        parts.append(f"{usable} of them usable")
    if quota is not None:
        parts.append(f"a quota of {quota:g} cores")
    if environment.get("governor"):
        parts.append(f"governor {environment['governor']}")
    if environment.get("virtual"):
        parts.append("virtual")
    return ", ".join([*parts, f"Linux {environment.get('kernel')}", f"Python {environment.get('python')}"])


def differences(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    """What of two environments is not the same and makes a comparison one of machines; a few words each."""
    return [
        f"{name.replace('_', ' ')} {_said(first.get(name))} and {_said(second.get(name))}"
        for name in _SAME
        if first.get(name) != second.get(name)
    ]


def _said(value: object) -> str:
    return "unknown" if value is None else str(value)


# ---- the parts


def quota_cores(root: Path = ROOT) -> float | None:
    """The least that any control group around this process allows, in cores; None where none sets a limit."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for group in _upwards(_mounted(root, controllers, path)):
            found += _quota(group)
    return min(found, default=None)


def _mounted(root: Path, controllers: str, path: str) -> tuple[Path, str]:
    """Where a hierarchy is mounted, and the group's path below it."""
    wanted = set(controllers.split(",")) if controllers else set()
    for line in _text(root / "proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.partition(" ")
        shown, place = fields.split()[3:5]
        if kind == "cgroup2" if not controllers else kind == "cgroup" and wanted <= set(options.split()[-1].split(",")):
            # A bind mount, or a namespace, shows a part of the hierarchy; ".." leads out of what can be seen.
            below = path.removeprefix(shown) if shown != "/" else path
            return root / place.lstrip("/"), "" if ".." in below.split("/") else below
    return root / "sys/fs/cgroup", path


def _upwards(where: tuple[Path, str]) -> Iterable[Path]:
    mount, path = where
    parts = [part for part in path.split("/") if part]
    for length in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:length])


def _quota(group: Path) -> list[float]:
    both = _text(group / "cpu.max").split()
    if not both:
        both = [_text(group / "cpu.cfs_quota_us").strip(), _text(group / "cpu.cfs_period_us").strip()]
    try:
        quota, period = (int(word) for word in both)
    except ValueError:
        return []  # "max", or no such file
    return [quota / period] if quota > 0 and period > 0 else []


def _governor(root: Path) -> str | None:
    found = {
        text
        for policy in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
        if (text := _text(policy).strip())
    }
    return ", ".join(sorted(found)) or None


def _turbo(root: Path) -> bool | None:
    cpu = root / "sys/devices/system/cpu"
    off = _text(cpu / "intel_pstate/no_turbo").strip()
    if off:
        return off == "0"
    boost = _text(cpu / "cpufreq/boost").strip()
    return boost == "1" if boost else None


def _threads_per_core(info: str) -> int | None:
    siblings, cores = _field(info, "siblings"), _field(info, "cpu cores")
    if siblings is None or cores is None or not cores.isdigit() or not siblings.isdigit() or cores == "0":
        return None
    return max(1, int(siblings) // int(cores))


def _memory_bytes(root: Path) -> int | None:
    total = _field(_text(root / "proc/meminfo"), "MemTotal")
    return int(total.split()[0]) * 1024 if total else None


def _field(text: str, name: str) -> str | None:
    """The value of the first line `name : value`."""
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
