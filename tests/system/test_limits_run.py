"""Limits from the command line: what handlers, the log and the summary see of them."""

import json
import re

HANDLER = """
import base64

kept = []

def handler(event, context):
    deed = base64.b64decode(event["Records"][0]["kinesis"]["data"]).decode()
    print(deed, context.memory_limit_in_mb)
    if deed == "grow":
        while True:
            kept.append(bytearray(b"x") * (8 << 20))
    if deed == "gives up":
        raise MemoryError
    if deed == "grow at once":
        return len(bytearray(1 << 44))
    if deed == "write":
        with open("/tmp/own", "w") as file:
            return file.write("x")
"""


def reports(process):
    return [line for line in process.err.splitlines() if line.startswith("REPORT")]


def test_limits_are_lambdas_from_the_flag_to_the_summary(place):
    (place.root / "greedy.py").write_text(HANDLER)
    place.stream(contents=["fits", "grow", "fits", "gives up", "grow at once", "write"])
    done = place.caught_up(
        "greedy.handler", "--memory-size", 512, "--ephemeral-storage", "Size=512", "--workers", 1, "--batch-size", 1,
        "--maximum-retry-attempts", 0, "--timeout", 20, cwd=place.root,
    )  # fmt: skip
    assert done.code == 3, done.err
    faults = [line for line in done.err.splitlines() if line == "Runtime.OutOfMemory"]
    assert len(faults) == 3, done.err
    assert re.search(r"Error: Runtime exited with error: signal: killed\nRuntime.OutOfMemory\nEND", done.err)
    lines = reports(done)
    assert len(lines) == 6
    assert all("\tMemory Size: 512 MB\tMax Memory Used: " in line for line in lines), lines
    assert ["\tMax Memory Used: 512 MB\t" in line for line in lines] == [False, True, False, True, True, False]
    # Each process that begins anew says so, once: the first one, and those that followed the three that ran out.
    assert ["Init Duration" in line for line in lines] == [True, False, True, False, True, True]
    summary = json.loads(done.out)
    billed = sum(int(re.search(r"Billed Duration: (\d+) ms", line)[1]) for line in lines)
    assert billed <= summary["billed_duration_ms"] <= billed + 4, "an Init of its own is rounded up"
    assert abs(summary["gb_seconds"] - summary["billed_duration_ms"] / 1000 / 2) < 1e-6
    assert summary["estimated_price_usd"] > summary["gb_seconds"] * 0.000013


def test_without_a_memory_size_nothing_is_priced(place):
    (place.root / "greedy.py").write_text(HANDLER)
    place.stream(contents=["fits", "gives up"])
    done = place.caught_up(
        "greedy.handler", "--workers", 1, "--batch-size", 1, "--maximum-retry-attempts", 0, cwd=place.root
    )
    assert "[ERROR] MemoryError" in done.err
    assert all("\tMemory Size: no limit\tMax Memory Used: " in line for line in reports(done))
    summary = json.loads(done.out)
    assert summary["billed_duration_ms"] > 0
    assert summary["gb_seconds"] is None
    assert summary["estimated_price_usd"] is None


def test_an_init_that_fails_has_its_report(place):
    (place.root / "broken.py").write_text("import no_such_module\n")
    place.stream(contents=["x"])
    done = place.caught_up("broken.handler", cwd=place.root)
    [line] = [line for line in done.err.splitlines() if line.startswith("INIT_REPORT")]
    assert re.fullmatch(
        r"INIT_REPORT Init Duration: \d+\.\d\d ms\tPhase: init\tStatus: error\tError Type: Runtime.ImportModuleError",
        line,
    )
