"""libFuzzer on everything in C that reads bytes from elsewhere, for some seconds, from the corpus of longer runs.

    tests/fuzz/TARGET.c       what is run, and what must hold
    tests/fuzz/corpus/TARGET  what it begins with: examples, and what ten minutes of fuzzing had found

`pytest tests/fuzz --soak` fuzzes each for ten minutes. An input that fails is printed; it belongs into the corpus, and
there it is run by every compiler.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parents[1] / "native"
CORPUS = HERE / "corpus"
TARGETS = {  # the longest input that is tried
    "scan": 4096,
    "ring": 400,
    "json": 4096,
    "base64": 4096,
    "columns": 4096,
}
SECONDS, SOAK_SECONDS = 4, 600
SOURCES = [*sorted((NATIVE / "src").glob("*.c")), NATIVE / "events" / "base64.c"]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-fno-omit-frame-pointer"]
FLAGS += [f"-I{NATIVE / part}" for part in ("include", "src", "events")]
CHECKED = ["address,undefined", "-fno-sanitize-recover=undefined"]


def find_clang() -> str:
    for name in ("clang", *(f"clang-{version}" for version in range(20, 11, -1))):
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.skip("there is no clang (Debian, Ubuntu: apt-get install clang-14 libclang-rt-14-dev)")


def run(command: list[str]) -> str:
    """Run a compiler; what it said if it failed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.stderr + "failed" if done.returncode else ""


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The C core, compiled once for all targets."""
    folder = tmp_path_factory.mktemp("objects")
    compiler, found = find_clang(), []
    for source in SOURCES:
        found.append(str(folder / f"{source.stem}.o"))
        wrong = run(
            [
                compiler,
                *FLAGS,
                f"-fsanitize=fuzzer-no-link,{CHECKED[0]}",
                CHECKED[1],
                "-c",
                str(source),
                "-o",
                found[-1],
            ]
        )
        assert not wrong, wrong
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_that_is_read_breaks_what_reads_it(
    target: str, objects: list[str], tmp_path: Path, soak: bool, record_property: Callable[[str, object], None]
) -> None:
    program = tmp_path / f"fuzz_{target}"
    compiler = [find_clang(), *FLAGS, f"-fsanitize=fuzzer,{CHECKED[0]}", CHECKED[1]]
    wrong = run([*compiler, str(HERE / f"{target}.c"), *objects, "-o", str(program)])
    if re.search(r"cannot find.*(asan|fuzzer|ubsan)", wrong):
        pytest.skip(f"{compiler[0]} has no libFuzzer (Debian, Ubuntu: apt-get install libclang-rt-14-dev)")
    assert not wrong, wrong
    seconds = SOAK_SECONDS if soak else SECONDS
    (tmp_path / "found").mkdir()
    command = [str(program), f"-max_total_time={seconds}", f"-max_len={TARGETS[target]}", "-print_final_stats=1"]
    command += [f"-artifact_prefix={tmp_path}/", str(tmp_path / "found"), str(CORPUS / target)]
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=10 * seconds + 60, check=False
    )
    inputs = [path for path in tmp_path.iterdir() if path.name.startswith(("crash-", "leak-", "oom-", "timeout-"))]
    assert done.returncode == 0, f"{done.stderr[-6000:]}\n{[(path.name, path.read_bytes().hex()) for path in inputs]}"
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert executed is not None, done.stderr[-2000:]
    assert int(executed[1]) > len(list((CORPUS / target).iterdir()))
    record_property("figure", f"fuzz {target}: {int(executed[1]):,} inputs in {seconds} s, no finding")


@pytest.mark.parametrize("target", TARGETS)
def test_what_was_found_before_is_run_by_every_compiler(target: str, tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("there is no C compiler")
    program = tmp_path / f"replay_{target}"
    sources = [str(source) for source in (HERE / f"{target}.c", HERE / "replay.c", *SOURCES)]
    wrong = run([compiler, *FLAGS, "-O0", *sources, "-o", str(program)])
    assert not wrong, wrong
    inputs = sorted(str(path) for path in (CORPUS / target).iterdir())
    done = subprocess.run([str(program), *inputs], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, f"{len(inputs)} inputs\n"), done.stderr
