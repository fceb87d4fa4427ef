"""The keeper: process 1 of a namespace, which is there, reaps, and takes everything along."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from run_rig import until
from sandbox_rig import NEEDS_SANDBOX

pytestmark = NEEDS_SANDBOX

# In a process of its own, because it enters a user namespace.
PREAMBLE = """
import os, signal, sys, time
from pathlib import Path
from streamfn.pool import linux
from streamfn.pool.confine import namespaces
namespaces.enter_user()
"""


def run(script):
    done = subprocess.run([sys.executable, "-c", PREAMBLE + script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_it_is_process_1_without_descriptors_and_deaf_to_what_is_in_its_namespace():
    said = run("""
keeper = namespaces.Keeper()
namespaces.live_with(keeper)
pid = os.fork()
if pid == 0:
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGCHLD, signal.SIGUSR1):
        os.kill(1, number)
    time.sleep(0.05)
    os.kill(1, 0)
    print(os.getpid(), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
while os.listdir(f"/proc/{keeper.pid}/fd"):
    time.sleep(0.001)
print(Path(f"/proc/{keeper.pid}/comm").read_text().strip(), Path(f"/proc/{keeper.pid}/stat").read_text().split()[2])
keeper.end()
""")
    assert said == ["2", "sf-keeper", "S"]


def test_it_reaps_what_is_orphaned_and_its_end_is_everybodys():
    said = run("""
keeper = namespaces.Keeper()
namespaces.live_with(keeper)
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    for _ in range(20):
        if os.fork() == 0:
            if os.fork() == 0:
                os._exit(0)
            os._exit(0)
        os.wait()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
os.waitpid(pid, 0)
def children():
    return Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()
while len(children()) != 1:  # no zombie stays
    time.sleep(0.001)
[left] = children()
keeper.end()
print(os.path.exists(f"/proc/{left}"))
""")
    assert said == ["False"]


def test_a_hundred_leave_no_process_and_no_memory_behind():
    [before, after] = map(
        int,
        run("""
def mapped():
    return len(Path("/proc/self/maps").read_text().splitlines())
namespaces.Keeper().end()
print(mapped())
for _ in range(100):
    namespaces.Keeper().end()
print(mapped())
assert not linux.children()
"""),
    )
    assert after <= before + 2


def test_it_ends_with_the_process_that_made_it():
    script = PREAMBLE + "keeper = namespaces.Keeper(); print(keeper.pid, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as maker:
        pid = int(maker.stdout.readline())
        assert Path(f"/proc/{pid}/comm").read_text().strip() in ("sf-keeper", "python", Path(sys.executable).name)
        maker.send_signal(signal.SIGKILL)
        maker.wait()
        until(lambda: not os.path.exists(f"/proc/{pid}") or is_zombie(pid), "the keeper's end")


def is_zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
