"""Landlock as a process has it, in processes of their own; what this kernel does not speak is skipped."""

import json
import subprocess
import sys

import pytest

from streamfn.pool.confine import landlock

pytestmark = pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no landlock, or it is not switched on")

PREAMBLE = """
import json, os, signal, socket, sys
from streamfn.pool import linux
from streamfn.pool.confine import landlock
def restrict(*rules, network=False):
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    landlock.restrict(rules, network=network)
def attempt(deed):
    try:
        return deed() and "done"
    except OSError as error:
        return error.errno
"""


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_is_not_beneath_a_rule_is_denied_and_what_is_has_its_rights(tmp_path):
    for name in ("read", "all", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    said = run(
        """
root = sys.argv[1]
restrict((root + "/read", landlock.READ), (root + "/all", landlock.ALL), ("/dev/null", landlock.DEVICE))
print(json.dumps({
    "read": attempt(lambda: open(root + "/read/file").read()),
    "write there": attempt(lambda: open(root + "/read/file", "w").write("y")),
    "make there": attempt(lambda: open(root + "/read/new", "w").write("y")),
    "remove there": attempt(lambda: os.unlink(root + "/read/file")),
    "all": attempt(lambda: open(root + "/all/new", "w").write("y")),
    "rename": attempt(lambda: os.rename(root + "/all/new", root + "/all/newer") is None),
    "device": attempt(lambda: open("/dev/null", "w").write("y")),
    "other": attempt(lambda: open(root + "/other/file").read()),
    "list other": attempt(lambda: os.listdir(root + "/other")),
}))
""",
        tmp_path,
    )
    assert said == {
        "read": "done", "write there": 13, "make there": 13, "remove there": 13, "all": "done", "rename": "done",
        "device": "done", "other": 13, "list other": 13,
    }  # fmt: skip


@pytest.mark.skipif(landlock.abi() < landlock.ABI_SCOPES, reason="this kernel's landlock has no scopes")
def test_no_signal_and_no_abstract_socket_reaches_beyond(tmp_path):
    said = run("""
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0streamfn-test-%d" % os.getpid())
listener.listen()
name = listener.getsockname()
parent = os.getpid()
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    restrict(("/proc", landlock.READ))
    child = os.fork()
    if child == 0:
        signal.pause()
    said = {
        "signal": attempt(lambda: os.kill(parent, 0) is None),
        "own": attempt(lambda: os.kill(child, signal.SIGKILL) is None),
        "connect": attempt(lambda: socket.socket(socket.AF_UNIX).connect(name) is None),
    }
    os.write(write, json.dumps(said).encode())
    os._exit(0)
os.waitpid(pid, 0)
print(os.read(read, 1000).decode())
""")
    assert said == {"signal": 1, "own": "done", "connect": 1}
