"""The Spin model of the rings (rings.pml): no schedule breaks it, and whatever is left out of it is found.

The C itself is held to the model by its letters and by the harness under ThreadSanitizer; the model is what sees every
schedule, both store buffers and both deaths.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

MODEL = Path(__file__).with_name("rings.pml")

# What is explored in every run takes seconds. Behind --soak: one more item, deeper buffers, everything at once.
SOUND = {
    "rings": ["RINGS"],
    "rings, stores in any order": ["RINGS", "WEAK", "BUFFER=3"],
    "claim and revoke": ["REVOKE", "ITEMS=3"],
    "lanes withdrawn": ["REVOKE", "WITHDRAW", "ITEMS=3", "BUFFER=1"],
    "doorbell": ["DOORBELL", "ITEMS=3"],
    "death of the worker, asleep": ["WORKER_DEATH", "ITEMS=2"],
    "death of the worker, with revocations": ["WORKER_DEATH", "REVOKE", "AWAKE", "ITEMS=3", "BUFFER=1"],
    "death of the runtime": ["RUNTIME_DEATH", "ITEMS=2"],
}
LARGE = {
    "claim and revoke": ["REVOKE", "ITEMS=4"],
    "claim and revoke, stores in any order": ["REVOKE", "ITEMS=3", "WEAK", "BUFFER=3"],
    "lanes withdrawn": ["REVOKE", "WITHDRAW", "ITEMS=3"],
    "doorbell, four in flight": ["DOORBELL", "ITEMS=5", "CAPACITY=4"],
    "doorbell, stores in any order": ["DOORBELL", "ITEMS=4", "WEAK", "BUFFER=3"],
    "death of the worker, asleep": ["WORKER_DEATH", "ITEMS=4"],
    "death of the worker, with revocations": ["WORKER_DEATH", "REVOKE", "AWAKE", "ITEMS=3"],
    "death of the worker, with everything": ["WORKER_DEATH", "REVOKE", "ITEMS=3"],
    "death of the runtime": ["RUNTIME_DEATH", "ITEMS=4"],
}
WEAK_RINGS = ["RINGS", "WEAK", "BUFFER=3"]
# What is left out, where, and what it is in the C.
OMISSIONS = {
    "OMIT_SUBMIT_ORDER": (["RINGS"], "the entry is written before sq_tail"),
    "OMIT_ANSWER_ORDER": (["RINGS"], "the completion is written before cq_tail"),
    "OMIT_PUBLISH_RELEASE": (WEAK_RINGS, "sq_tail is stored with release (A)"),
    "OMIT_ANSWER_RELEASE": (WEAK_RINGS, "cq_tail is stored with release (E)"),
    "OMIT_CLAIM": (["REVOKE", "ITEMS=3"], "the claim is a compare-and-swap (C)"),
    "OMIT_REVOKE_SWAP": (["REVOKE", "ITEMS=3"], "the revocation is a compare-and-swap (D)"),
    "OMIT_NEWEST_FIRST": (["REVOKE", "ITEMS=3"], "the newest is revoked first"),
    "OMIT_SKIP": (["REVOKE", "ITEMS=3"], "what is behind a failure is skipped"),
    "OMIT_WITHDRAW_WHOLE": (
        ["REVOKE", "WITHDRAW", "ITEMS=3", "BUFFER=1"],
        "nothing is given up of which a part has begun",
    ),
    "OMIT_FENCE_PUBLISH": (["DOORBELL", "ITEMS=3"], "a fence between sq_tail and worker_sleeps"),
    "OMIT_FENCE_WORKER_SLEEP": (["DOORBELL", "ITEMS=3"], "a fence between worker_sleeps and sq_tail"),
    "OMIT_RECHECK_WORKER": (["DOORBELL", "ITEMS=3"], "sq_tail is looked at again before the futex"),
    "OMIT_FENCE_ANSWER": (["DOORBELL", "ITEMS=3"], "a fence between cq_tail and runtime_sleeps"),
    "OMIT_FENCE_ARM": (["DOORBELL", "ITEMS=3"], "a fence between runtime_sleeps and cq_tail"),
    "OMIT_RECHECK_RUNTIME": (["DOORBELL", "ITEMS=3"], "cq_tail is looked at again before the sleep"),
    "OMIT_RECHECK_MARK": (["DOORBELL", "ITEMS=3"], "the second look asks about the mark, as the worker does"),
    "OMIT_LOW_WATER": (["DOORBELL", "ITEMS=3"], "the worker rings at the mark"),
    "OMIT_ARM_FIRST": (["DOORBELL", "ITEMS=3"], "who submits to a sleeping runtime raises its word first"),
    "OMIT_WATCH_WORKER": (["WORKER_DEATH", "ITEMS=2"], "the sleeping runtime hears of the worker's death"),
    "OMIT_WATCH_RUNTIME": (["RUNTIME_DEATH", "ITEMS=2"], "the sleeping worker ends with the runtime"),
    "OMIT_SKIP_UNCLAIMED": (
        ["WORKER_DEATH", "REVOKE", "AWAKE", "ITEMS=3", "BUFFER=1"],
        "what is skipped is revoked, not claimed",
    ),
}


def explore(folder: Path, defines: list[str], *, optimise: str = "-O0", limit_s: float = 240) -> tuple[int, int]:
    """Let Spin try every schedule.  How many states there were, and how many errors (1 at most)."""
    for tool in ("spin", "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian, Ubuntu: apt-get install spin gcc)")
    shutil.copy(MODEL, folder / "rings.pml")
    subprocess.run(["spin", "-a", *[f"-D{each}" for each in defines], "rings.pml"], cwd=folder, check=True, timeout=60)
    # No partial-order reduction: it does not know what a killed process cannot do any more.
    flags = [optimise, "-DSAFETY", "-DNOREDUCE", "-DCOLLAPSE", "-DMEMLIM=8000", "-w"]
    subprocess.run(["cc", *flags, "-o", "pan", "pan.c"], cwd=folder, check=True, timeout=120)
    # -E: a killed process stops anywhere; that the others come to their end is asserted in the model.
    done = subprocess.run(
        ["./pan", "-E", "-m2000000"], cwd=folder, capture_output=True, text=True, timeout=limit_s, check=False
    )
    assert "Search not completed" not in done.stdout or "errors: 1" in done.stdout, done.stdout
    assert "max search depth too small" not in done.stdout, done.stdout
    states, errors = re.search(r"(\d+) states, stored", done.stdout), re.search(r"errors: (\d+)", done.stdout)
    assert states is not None, done.stdout + done.stderr
    assert errors is not None, done.stdout + done.stderr
    return int(states[1]), int(errors[1])


@pytest.mark.parametrize("configuration", SOUND)
def test_no_schedule_breaks_the_rings(
    configuration: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    states, errors = explore(tmp_path, SOUND[configuration])
    record_property("figure", f"rings.pml, {configuration}: {states:,} states, {errors} errors")
    assert errors == 0
    assert states > 5_000, "the model cannot move"


@pytest.mark.soak
@pytest.mark.parametrize("configuration", LARGE)
def test_no_schedule_of_the_large_models_breaks_the_rings(
    configuration: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    states, errors = explore(tmp_path, LARGE[configuration], optimise="-O2", limit_s=1800)
    record_property("figure", f"rings.pml, {configuration}: {states:,} states, {errors} errors")
    assert errors == 0


@pytest.mark.parametrize("omission", OMISSIONS)
def test_what_is_left_out_is_found(omission: str, tmp_path: Path) -> None:
    defines, what = OMISSIONS[omission]
    assert f"#ifdef {omission}" in MODEL.read_text() or f"#ifndef {omission}" in MODEL.read_text()
    _, errors = explore(tmp_path, [*defines, omission])
    assert errors == 1, f"the model does without this: {what}"
