"""What isolation level `sandbox` holds: a handler that tries to get out, in one run whose results the tests look at.

The handler is `functions/walled.py`; it is told what to try by records, among them the pid of the very runtime that
runs it. Nothing here may be asserted of a machine without the means: then everything is skipped, with the reason.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from sandbox_rig import NEEDS_SANDBOX, SECRET, Walled, at_init, denied

from streamfn.pool.confine import seccomp

pytestmark = NEEDS_SANDBOX


@pytest.fixture(scope="module")
def walled(tmp_path_factory):
    root = tmp_path_factory.mktemp("walled")
    run = Walled(root / "run", at_init=at_init(root / "run" / "secret"))
    yield run
    run.end()


def test_a_handler_reads_nothing_outside_its_code(walled):
    done = walled.attempt(
        secret=("read", str(walled.secret)),
        data=("entries", str(walled.place.data)),
        shadow=("read", "/etc/shadow"),
        keeper_root=("entries", "/proc/1/root"),
        keeper_cwd=("entries", "/proc/1/cwd"),
        keeper_environment=("read", "/proc/1/environ"),
        own_code=("read", str(walled.code / "walled.py")),
    )
    denied(done["secret"], "ENOENT")
    denied(done["data"], "ENOENT")
    denied(done["shadow"], "ENOENT")
    for name in ("keeper_root", "keeper_cwd", "keeper_environment"):
        denied(done[name], "EACCES", "EPERM")
    assert done["own_code"]["did"].startswith('"""A handler')


def test_a_handler_writes_nothing_outside_its_tmp(walled):
    code = str(walled.code / "walled.py")
    done = walled.attempt(
        to_code=("write", code),
        beside_code=("write", str(walled.code / "new.py")),
        mode_of_code=("change", code),
        gone=("remove", code),
        to_root=("write", "/here"),
        to_var=("directory", "/var"),
        to_shm=("write", "/dev/shm/here"),
        to_kernel=("write", "/proc/sys/kernel/core_pattern"),
        to_oom=("write", "/proc/self/oom_score_adj"),
        to_etc=("write", "/etc/passwd"),
        to_python=("write", os.path.join(sys.base_prefix, "here")),
        to_tmp=("keep", "mine"),
    )
    assert done.pop("to_tmp") == {"did": "kept"}
    for result in done.values():
        denied(result, "EROFS", "EACCES", "ENOENT", "EPERM")
    assert not Path("/tmp/mine-2").exists()


def test_a_handler_opens_no_socket_that_leads_out(walled):
    families = {
        f"family_{name}": ("sock", getattr(socket, name), kind)
        for name, kind in (
            ("AF_INET", socket.SOCK_STREAM), ("AF_INET", socket.SOCK_DGRAM), ("AF_INET6", socket.SOCK_STREAM),
            ("AF_NETLINK", socket.SOCK_RAW), ("AF_PACKET", socket.SOCK_RAW), ("AF_VSOCK", socket.SOCK_STREAM),
            ("AF_ALG", socket.SOCK_SEQPACKET),
        )
    }  # fmt: skip
    done = walled.attempt(**families, pair=("pair",))
    assert done.pop("pair") == {"did": "x"}
    for result in done.values():
        denied(result, "EACCES")


def test_a_handler_sees_its_own_environment_and_not_the_runtimes(walled):
    done = walled.attempt(
        password=("environment", "MY_PASSWORD"),
        given=("environment", "GIVEN"),
        path=("environment", "PATH"),
        everywhere=("environments", SECRET[::-1]),
    )
    assert done["password"] == {"did": None}
    assert done["given"] == {"did": "1"}
    assert done["path"] == {"did": os.environ["PATH"]}
    assert done["everywhere"]["did"]["found"] == []


def test_a_handler_signals_nobody_but_itself(walled):
    runtime = walled.process.pid
    done = walled.attempt(
        kill=("send", runtime),
        term=("send", runtime, signal.SIGTERM),
        group=("send", -runtime),
        init=("send", 1),
        pidfd=("pidfd", runtime),
        everybody=("everybody",),
        processes=("environments", SECRET[::-1]),
    )
    for name in ("kill", "term", "group", "everybody"):
        denied(done[name], "ESRCH")
    denied(done["pidfd"], "ESRCH", "EINVAL")
    assert done["init"] in ({"did": "sent"}, {"error": "PermissionError", "errno": "EPERM"})
    assert done["processes"]["did"]["processes"] == 2  # itself and its keeper: no sibling, no zygote
    assert walled.process.popen.poll() is None


def test_a_handler_that_kills_itself_ends_as_it_would_outside(walled):
    walled.place.put([json.dumps({"name": "end", "deed": "myself", "arguments": [signal.SIGTERM]})])
    walled.process.says("Runtime exited with error: signal: terminated")
    assert walled.attempt(after=("pair",))["after"] == {"did": "x"}


def test_no_denied_system_call_is_made(walled):
    numbers = {name: number for name in seccomp.DENIED if (number := seccomp.number(name)) is not None}
    more = {name: seccomp.number(name) for name in ("mount", "unshare", "setns")}
    done = walled.attempt(denied=("calls", numbers), inner=("calls", more), late=("calls", {"clone3": 435}))
    assert set(done["denied"]["did"].values()) == {"EPERM"}, done["denied"]
    assert done["inner"]["did"]["mount"] == done["inner"]["did"]["setns"] == "EPERM"
    assert done["inner"]["did"]["unshare"] == "EPERM"
    assert done["late"]["did"] == {"clone3": "ENOSYS"}


def test_a_worker_has_no_capability_and_no_root(walled):
    done = walled.attempt(who=("whoami",), host=("host",))
    who = done["who"]["did"]
    assert who["uid"] != 0
    assert int(who["capabilities"], 16) == 0
    assert (who["seccomp"], who["no_new_privs"]) == ("2", "1")
    assert who["pid"] == 2
    assert who["cwd"] == str(walled.code)
    assert not {"home", "var", "run", "boot", "mnt", "media", "opt"} & set(who["root"])
    assert who["init_left"]  # as in Lambda, what Init put into /tmp is there


@pytest.mark.soak
def test_a_fork_bomb_ends_at_the_limit_and_with_its_worker(walled):
    done = walled.attempt(bomb=("bomb",))
    assert done["bomb"]["did"]["error"] == "EAGAIN"
    assert done["bomb"]["did"]["forks"] < 1024
    walled.place.put([json.dumps({"name": "end", "deed": "myself", "arguments": [signal.SIGKILL]})])
    walled.process.says("Runtime exited with error: signal: killed")
    assert walled.attempt(after_bomb=("environments", "nothing"))["after_bomb"]["did"]["processes"] == 2


def test_its_tmp_is_limited_in_size(walled):
    denied(walled.attempt(full=("fill", 600))["full"], "ENOSPC")


def test_what_a_function_is_made_of_works_inside(walled):
    done = walled.attempt(
        numpy=("numpy_product",),
        pyarrow=("arrow_sum",),
        boto3=("s3_client",),
        ssl=("certificates",),
        shell=("ran",),
        threads=("threads",),
        sqlite=("module", "sqlite3"),
        processes=("module", "multiprocessing.pool"),
    )
    assert done["numpy"] == {"did": 300.0}
    assert done["pyarrow"] == {"did": 499500}
    assert done["boto3"]["did"].startswith("https://s3.")
    assert done["ssl"]["did"] > 10 or not os.path.exists("/etc/ssl/certs/ca-certificates.crt")
    assert done["shell"] == {"did": ["hello", "sbx_user1051"]}
    assert done["threads"] == {"did": [0, 1, 2, 3]}
    assert "did" in done["sqlite"]
    assert "did" in done["processes"]


def test_the_outer_wall_holds_init_too(walled):
    done = walled.attempt(of_init=("of_init",))["of_init"]["did"]
    denied(done["secret"], "ENOENT")
    denied(done["socket"], "EACCES")
    denied(done["write"], "EROFS")
    assert done["password"]["did"]["found"] == []
    assert set(done["clock"]["did"].values()) == {"EPERM"}
    assert set(done["remount"]["did"].values()) == {"EPERM"}
