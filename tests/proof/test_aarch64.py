"""The C core for aarch64: it builds, its tests pass under qemu, and its orders are in the machine code.

qemu does not reorder what a real machine may: that the orders are right is shown by the model (rings.pml), and that the
compiler was told of them by the instructions it chose. ldar loads with acquire, stlr stores with release, dmb ish is a
fence, and the outline atomics say in their names what they do.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NATIVE, FUZZ = ROOT / "native", ROOT / "tests" / "fuzz"
CORE = [*sorted((NATIVE / "src").glob("*.c")), NATIVE / "events" / "base64.c"]
INCLUDES = [f"-I{NATIVE / part}" for part in ("include", "src", "events")]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-UNDEBUG", "-Wall", "-Wextra", "-fvisibility=hidden", *INCLUDES]
PREFIX = "aarch64-linux-gnu-"
PACKAGES = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"

LOAD, STORE, FENCE = r"ldapu?r\b|ldar\b", r"stlr\b", r"dmb\s+ish$"
SWAP = r"__aarch64_cas4_acq_rel|casal\b|ldaxr\b"
# What each function must have, in this order; the letters are those of sf_ring.h.
ORDERS = {
    "sf_port_publish": [STORE, FENCE, r"ldr\s+w"],  # A; then whether the worker sleeps
    "sf_port_revoke": [SWAP],  # D
    "sf_port_reap": [LOAD],  # F
    "sf_port_release": [STORE],  # G
    "sf_port_arm": [r"str\s+w", FENCE, LOAD],  # the word, then F
    "answer": [STORE, STORE, FENCE, r"ldr\s+w"],  # sq_head, E; then whether the runtime sleeps
    "sf_desk_next": [LOAD, r"str\s+w", FENCE, LOAD, SWAP],  # B; the word, then B; C
    "sf_desk_finish": [LOAD],  # H
}
# Lines of the source that may not lose their order unnoticed: a letter, or a fence by the function that it stands in.
PLANTED = ["A", "B", "C", "D", "E", "F", "G", "H", "sf_port_publish", "sf_port_arm", "answer", "wait_for_entry"]


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian, Ubuntu: apt-get install {PACKAGES})")


def run(command: Sequence[str | Path], limit_s: float = 120) -> str:
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, timeout=limit_s, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The C core, compiled as the module is."""
    need(f"{PREFIX}gcc")
    folder = tmp_path_factory.mktemp("aarch64")
    for source in CORE:
        run([f"{PREFIX}gcc", *FLAGS, "-O3", "-c", source, "-o", folder / f"{source.stem}.o"])
    return [folder / f"{source.stem}.o" for source in CORE]


def emulate(objects: list[Path], sources: Sequence[Path], folder: Path, *arguments: str | Path) -> str:
    need(f"{PREFIX}gcc", "qemu-aarch64")
    program = folder / sources[0].stem
    run([f"{PREFIX}gcc", *FLAGS, "-O1", "-static", "-pthread", *sources, *objects, "-o", program])
    return run(["qemu-aarch64", "-cpu", "max", program, *arguments])


def test_the_event_builder_compiles_too(tmp_path: Path) -> None:
    """With this machine's Python.h: sizes and byte order are the same."""
    need(f"{PREFIX}gcc")
    include = f"-I{sysconfig.get_paths()['include']}"
    if not Path(include[2:], "Python.h").exists():
        pytest.skip("there is no Python.h")
    for source in sorted((NATIVE / "events").glob("*.c")):
        run([f"{PREFIX}gcc", *FLAGS, include, "-O3", "-c", source, "-o", tmp_path / "object.o"])


def test_crc_by_instruction_and_by_table_agree(objects: list[Path], tmp_path: Path) -> None:
    assert emulate(objects, [Path(__file__).with_name("crc.c")], tmp_path) == "instruction\n"


@pytest.mark.parametrize("target", ["scan", "ring", "json", "base64", "columns"])
def test_what_fuzzing_found_passes(objects: list[Path], target: str, tmp_path: Path) -> None:
    """The vectors of NEON among them: `base64` runs every encoder of the machine."""
    inputs = sorted((FUZZ / "corpus" / target).iterdir())
    sources = [FUZZ / f"{target}.c", FUZZ / "replay.c"]
    assert emulate(objects, sources, tmp_path, *inputs) == f"{len(inputs)} inputs\n"


def test_the_rings_pass_between_two_threads(objects: list[Path], tmp_path: Path) -> None:
    harness = ROOT / "tests" / "native" / "ring_threads.c"
    kinds = re.findall(r"(\w+) (\d+)", emulate(objects, [harness], tmp_path, "10000", "1"))
    assert sum(int(count) for _, count in kinds) >= 10_000


# ---- the machine code


def disassemble(path: Path) -> dict[str, list[str]]:
    """The instructions of each function."""
    need(f"{PREFIX}objdump")
    functions: dict[str, list[str]] = {}
    body: list[str] = []
    for line in run([f"{PREFIX}objdump", "-d", "--no-show-raw-insn", path]).splitlines():
        if begin := re.match(r"[0-9a-f]+ <(\w+)[\w.]*>:", line):
            body = functions.setdefault(begin[1], [])
        elif "\t" in line:
            body.append(line.partition("\t")[2].split("//")[0].strip())
    return functions


def missing(functions: dict[str, list[str]]) -> list[str]:
    """Which orders are not there."""
    wrong = []
    for name, wanted in ORDERS.items():
        left = list(wanted)
        for instruction in functions.get(name, []):
            if left and re.search(left[0], instruction):
                left.pop(0)
        if left:
            wrong.append(f"{name}: {left[0]}")
    return wrong


def compile_rings(folder: Path, source_folder: Path = NATIVE / "src") -> dict[str, list[str]]:
    functions: dict[str, list[str]] = {}
    for name in ("ring_port", "ring_desk"):
        target = folder / f"{name}.o"
        run([f"{PREFIX}gcc", *FLAGS, "-O3", "-c", source_folder / f"{name}.c", "-o", target])
        functions |= disassemble(target)
    return functions


def test_the_orders_are_in_the_machine_code(tmp_path: Path) -> None:
    need(f"{PREFIX}gcc")
    functions = compile_rings(tmp_path)
    assert missing(functions) == []


@pytest.mark.parametrize("planted", PLANTED)
def test_an_order_that_is_taken_away_is_missed(planted: str, tmp_path: Path) -> None:
    need(f"{PREFIX}gcc")
    changed = 0
    for name in ("ring_port", "ring_desk"):
        text, count = weaken((NATIVE / "src" / f"{name}.c").read_text(), planted)
        changed += count
        (tmp_path / f"{name}.c").write_text(text)
    assert changed > 0, "there is nothing of that name"
    assert missing(compile_rings(tmp_path, tmp_path)) != []


def weaken(text: str, planted: str) -> tuple[str, int]:
    """Take the order of the lines with a letter away, or the fence out of a function."""
    if len(planted) > 1:
        # From the function's head to the fence, without another function's head between.
        pattern = (
            rf"(\n\w[^\n;]*\b{planted}\([^;]*?\)\n\{{(?:(?!\n\}}).)*?)atomic_thread_fence\(memory_order_seq_cst\);"
        )
        return re.subn(pattern, r"\1", text, flags=re.DOTALL)
    lines, count = text.splitlines(keepends=True), 0
    for at, line in enumerate(lines):
        if f"/* {planted} */" not in line:
            continue
        for place in (at - 1, at):  # a call may take two lines
            weaker = re.sub("memory_order_(acquire|release|acq_rel)", "memory_order_relaxed", lines[place])
            count += weaker != lines[place]
            lines[place] = weaker
    return "".join(lines), count
