"""A run of the handler that tries to get out of its sandbox (`functions/walled.py`), told what to try by records."""

import json
import os
import re
import shutil
import socket
from pathlib import Path

import pytest
from run_rig import FUNCTIONS, Place, Process, until

from streamfn.pool.confine import probe, seccomp

LACKING = probe.lacking_for_sandbox()
NEEDS_SANDBOX = pytest.mark.skipif(LACKING is not None, reason=f"no sandbox on this machine: {LACKING}")

SECRET = "a-secret-of-the-runtime"
TIMED = {name: number for name in ("clock_settime", "clock_adjtime") if (number := seccomp.number(name))}


class Walled:
    """One run of the handler, and what it printed of each deed."""

    def __init__(self, root, *flags, cwd=None, at_init=None, module=None, as_user=None, shards=1, workers=2):
        """`as_user`: the id of another user, an interpreter for them, and its path."""
        root.mkdir()
        self.place = Place(root)
        self.place.stream(shards=shards)
        self.secret = root / "secret"
        self.secret.write_text(SECRET)
        self.code = Path(cwd or root / "code")
        self.code.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(FUNCTIONS / "walled.py", self.code)
        os.chmod(self.code / "walled.py", 0o600)
        if module is not None:
            (self.code / "other.py").write_text(module)
        orders = {name: [deed, list(arguments)] for name, (deed, *arguments) in (at_init or {}).items()}
        command = self.place.command(
            "run", "walled.handler" if module is None else "other.handler", "--stream", "s", "--batch-size", "1",
            "--maximum-retry-attempts", "0", "--logs", "all", "--workers", str(workers), "--timeout", "30",
            "--isolation", "sandbox", "--env", f"AT_INIT={json.dumps(orders)}", "--env", "GIVEN=1", *flags,
        )  # fmt: skip
        environment = {**self.place.environment, "MY_PASSWORD": SECRET}
        options = {}
        if as_user is not None:
            uid, command[0], environment["PYTHONPATH"] = as_user
            options = {"user": uid, "group": uid, "extra_groups": []}
            for path in (root, *root.rglob("*")):
                os.chown(path, uid, uid)
        self.process = Process(command, environment, root, self.code, **options)

    def order(self, shard=None, **deeds):
        """Have each deed done; they go to the shards in turn, or to one."""
        orders = (
            json.dumps({"name": name, "deed": deed, "arguments": arguments})
            for name, (deed, *arguments) in deeds.items()
        )
        self.place.put(orders, shard=shard)

    def attempt(self, **deeds):
        """What came of each deed, in the order given."""
        self.order(**deeds)
        return {name: self.result(name) for name in deeds}

    def result(self, name):
        def found():
            for line in re.findall(r"^RESULT (.*)$", self.process.err, re.MULTILINE):
                done, result = json.loads(line)
                if done == name:
                    return result
            assert self.process.popen.poll() is None, self.process.err
            return None

        return until(found, f"what came of {name}")

    def end(self):
        self.process.kill()


def at_init(secret):
    return {
        "secret": ("read", str(secret)),
        "socket": ("sock", socket.AF_INET),
        "password": ("environments", SECRET[::-1]),
        "clock": ("calls", TIMED),
        "remount": (
            "calls",
            {name: seccomp.number(name) for name in ("umount2", "pivot_root", "move_mount", "chroot")},
        ),
        "write": ("write", "/usr/here"),
    }


def denied(result, *errors):
    """Whether it failed, and with one of these."""
    assert "did" not in result, result
    assert result["errno"] in errors, result
    return True
