"""Nothing acknowledged is lost, whatever a crash leaves on the disk: every short script, and random long ones.

    pytest tests/crash/test_crash_states.py -s --crash-states 2000000 --crash-seed 7
"""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
from pathlib import Path

from crash_explore import PLAN
from crash_scripts import OPERATIONS

HERE = Path(__file__).parent
SHARES = 2


def test_every_crash_state_keeps_what_was_promised(crash_seed, crash_states, capsys):
    """Fails with the script, the moment and the seed of each promise that was broken."""
    faulthandler.cancel_dump_traceback_later()  # a busy machine may take longer over it
    command = ["nice", sys.executable, "crash_explore.py", "--states", str(crash_states), "--seed", str(crash_seed)]
    # Hashes say whose share a state is, so the processes have to agree on them.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    shares = [
        subprocess.Popen([*command, "--share", f"{share}/{SHARES}"], cwd=HERE, env=environment, stdout=subprocess.PIPE)
        for share in range(SHARES)
    ]
    found = [json.loads(process.communicate()[0] or "{}") for process in shares]
    assert [process.returncode for process in shares] == [0] * SHARES
    broken = [line for part in found for line in part["broken"]]
    assert not broken, "\n".join(broken)
    states = sum(part["states"] for part in found)
    with capsys.disabled():
        print(f"\ncrash states: {states} judged, seed {crash_seed}; all there are of")
        for number, scripts in enumerate(found[0]["short_scripts"]):
            short = sum(part["short_states"][number] for part in found)
            longest = max(map(len, PLAN[number][0]))
            print(f"    {scripts} scripts of up to {longest} of {', '.join(OPERATIONS)} ({PLAN[number][1]}): {short}")
        print(f"    and of {found[0]['scripts'] - sum(found[0]['short_scripts'])} long ones some")
    assert states >= crash_states
    assert found[0]["skipped"] == 0
