"""Every example runs, as a newcomer would start it, and says what it should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

SAYS = {
    "sync_script.py": r"1000 records in \d+ batches, 0 errors\nshardId-00000000000[01] user-\d \{.*\}\n",
    "trio_pipeline.py": r"last request id: [0-9a-f-]{36}\n\{'/\d': \d+, .*\}\n",
    "beside_asyncio.py": r"put 30 records, the last one as \d{56}\n30 records; the loop was free for \d+ ticks\n",
    "windows.py": r"12:00 \{.*\}\n12:01 \{.*\}\n12:02 \{'south': 2335, 'north': 4700\}\n",
    "enrich.py": r"(ann \(NO\), bob \(CH\) after 2 look-ups\n){2}eve \(PT\), ann \(NO\) after 3 look-ups\n",
    "columns.py": r"(1000 \{('sensor-\d': \d+\.\d+(, )?){3}\}\n){3}",
    "notebook_callable.py": r"(\d words, long ones: .*\n){3}5 records in all\n",
}


def run(*command, cwd):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment["PYTHONDEVMODE"] = "1"
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SAYS, "app.py", "test_app.py", "test_forms.py"}
    assert all(name in (EXAMPLES / "README.md").read_text() for name in SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_from_anywhere_and_without_a_warning(tmp_path, name):
    done = run(EXAMPLES / name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(SAYS[name], done.stdout), done.stdout
    assert "Warning" not in done.stderr, done.stderr
    assert (tmp_path / ".streamfn").is_dir()
    if name == "trio_pipeline.py":
        assert sum(map(int, re.findall(r": (\d+)", done.stdout.splitlines()[1]))) == 500


def test_the_script_delivers_only_what_is_new_when_it_is_run_again(tmp_path):
    for _ in range(2):
        done = run(EXAMPLES / "sync_script.py", tmp_path / "data", cwd=tmp_path)
        assert done.stdout.startswith("1000 records in "), done.stderr


def test_the_handlers_own_tests_pass(tmp_path):
    files = sorted(EXAMPLES.glob("test_*.py"))
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *files, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout


def test_the_plain_handler_runs_by_the_commands_in_its_docstring(tmp_path):
    data = ("--data-dir", tmp_path / "d")
    run("-m", "streamfn", "put", "clicks", '{"page": "/", "user": "ann"}', *data, cwd=EXAMPLES)
    done = run("-m", "streamfn", "run", "app.handler", "--stream", "clicks", "--until-caught-up", *data, cwd=EXAMPLES)
    assert done.returncode == 0, done.stderr
    assert "1 clicks, " in done.stderr
