"""Both sides of the rings, a thread each, under the sanitizers; and that these see a wrong order."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "native"
HARNESS = Path(__file__).with_name("ring_threads.c")
SOURCES = ("ring_port.c", "ring_desk.c", "rows.c", "json_text.c", "histogram.c", "meter.c")
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-UNDEBUG", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]
# gcc says of every fence that ThreadSanitizer does not model it.  It need not: no fence here publishes data.
THREAD = ["-O1", "-fsanitize=thread", "-Wno-tsan", "-DSHARE_MAPPING", "-Wl,--wrap=mmap,--wrap=munmap"]
ADDRESS = [
    "-O1",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
]

MANY = 10_000_000  # entries for each seed of the long run


def compiler() -> str:
    found = shutil.which(os.environ.get("CC", "cc"))
    if found is None:
        pytest.skip("there is no C compiler")
    return found


def build(folder: Path, flags: list[str], source_folder: Path = NATIVE / "src") -> Path:
    probe = folder / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    sanitizer = [flag for flag in flags if flag.startswith("-fsanitize")]
    command = [compiler(), *sanitizer, str(probe), "-o", str(folder / "probe")]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"the compiler lacks {' '.join(sanitizer)}")
    program = folder / "ring_threads"
    sources = [str(source_folder / name) for name in SOURCES] + [str(HARNESS)]
    includes = [f"-I{NATIVE / 'include'}", f"-I{NATIVE / 'src'}"]
    command = [compiler(), *FLAGS, *flags, *includes, *sources, "-o", str(program)]
    subprocess.run(command, check=True, timeout=120)
    return program


def run(program: Path, items: int, seed: int, limit_s: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=1"}
    # Without a fixed address layout ThreadSanitizer may find its shadow memory taken.
    fixed = ["setarch", platform.machine(), "-R"] if shutil.which("setarch") else []
    command = [*fixed, str(program), str(items), str(seed)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit_s, check=False)


def test_a_million_entries_are_answered_once_and_in_order_without_a_race(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    done = run(build(tmp_path, THREAD), 1_000_000, 1)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = re.findall(r"(\w+) (\d+)", done.stdout)
    assert [kind for kind, _ in kinds] == ["ok", "error", "partly", "skipped", "revoked", "retired", "withdrawn"]
    assert all(int(count) > 0 for _, count in kinds), done.stdout
    total = sum(int(count) for _, count in kinds)
    record_property("figure", f"rings under ThreadSanitizer: {total:,} entries answered, no race")


@pytest.mark.soak
def test_a_hundred_million_entries_are_answered_without_a_race(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    program, total = build(tmp_path, THREAD), 0
    for seed in range(11, 21):
        done = run(program, MANY, seed, limit_s=1800)
        assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
        total += sum(int(count) for _, count in re.findall(r"(\w+) (\d+)", done.stdout))
    record_property("figure", f"rings under ThreadSanitizer: {total:,} entries answered, no race")


def test_two_mappings_of_the_memfd_stay_within_their_bounds(tmp_path: Path) -> None:
    program = build(tmp_path, ADDRESS)
    for seed in (2, 3):
        done = run(program, 300_000, seed)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("edge", ["A", "B", "E", "F"])
def test_an_edge_that_orders_nothing_is_seen(tmp_path: Path, edge: str) -> None:
    changed = 0
    for name in SOURCES:
        lines = (NATIVE / "src" / name).read_text().splitlines(keepends=True)
        for at, line in enumerate(lines):
            if f"/* {edge} */" in line:
                lines[at] = re.sub("memory_order_(acquire|release)", "memory_order_relaxed", line)
                changed += lines[at] != line
        (tmp_path / name).write_text("".join(lines))
    assert changed > 0
    done = run(build(tmp_path, THREAD, tmp_path), 20_000, 1)
    assert "WARNING: ThreadSanitizer: data race" in done.stderr, done.stdout + done.stderr
