"""Sandboxes beside the plain one: with a network, spawned, of modules that must not be forked; their ends; refusals."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pool_rig
import pytest
import trio
from run_rig import FUNCTIONS, error_line, until
from sandbox_rig import NEEDS_SANDBOX, SECRET, Walled, at_init, denied

from streamfn.errors import RefusedError
from streamfn.pool.confine import landlock, probe
from streamfn.pool.confine.isolation import Isolation
from streamfn.pool.pool import open_pool

pytestmark = NEEDS_SANDBOX

UNFORKABLE = """
import threading, time
threading.Thread(target=time.sleep, args=[1e6], daemon=True).start()
from walled import *
"""


def descendants(pid):
    """The pids of a process' children, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def are_gone(pids):
    return not any(pool_rig.is_alive(pid) for pid in pids)


def test_with_the_network_the_machines_own_is_there_and_unix_sockets_are_not(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        walled = Walled(tmp_path / "run", "--allow-network")
        try:
            done = walled.attempt(
                tcp=("connect", server.getsockname()[1]),
                unix=("sock", socket.AF_UNIX),
                packet=("sock", socket.AF_PACKET, socket.SOCK_RAW),
                names=("resolved", "localhost"),
                secret=("read", str(walled.secret)),
            )
        finally:
            walled.end()
    assert done["tcp"] == {"did": "connected"}
    assert "127.0.0.1" in done["names"]["did"] or "::1" in done["names"]["did"]
    denied(done["unix"], "EACCES")
    denied(done["packet"], "EACCES")
    denied(done["secret"], "ENOENT")


@pytest.mark.parametrize("how", ["spawned", "unforkable"])
def test_workers_that_do_their_own_init_are_walled_before_it(tmp_path, how):
    module = UNFORKABLE if how == "unforkable" else None
    flags = ["--start-method", "spawn"] if how == "spawned" else []
    walled = Walled(tmp_path / "run", *flags, at_init=at_init(tmp_path / "run" / "secret"), module=module)
    try:
        done = walled.attempt(of_init=("of_init",), who=("whoami",), tmp=("keep", "mine"), everybody=("everybody",))
    finally:
        walled.end()
    of_init = done["of_init"]["did"]
    denied(of_init["secret"], "ENOENT")
    denied(of_init["socket"], "EACCES")
    denied(of_init["write"], "EROFS")
    assert of_init["password"]["did"]["found"] == []
    assert int(done["who"]["did"]["capabilities"], 16) == 0
    assert done["tmp"] == {"did": "kept"}
    denied(done["everybody"], "ESRCH")


def test_nothing_is_left_of_a_sandbox_when_its_runtime_is_killed(tmp_path):
    walled = Walled(tmp_path / "run")
    walled.attempt(ready=("pair",), daemon=("daemonise",))
    inside = descendants(walled.process.pid)
    assert len(inside) >= 7  # warden, keeper, zygote, two keepers and two workers
    walled.process.popen.send_signal(signal.SIGKILL)
    walled.process.popen.wait()
    until(lambda: are_gone(inside), "the end of everything in the sandbox", 3)


def test_nothing_is_left_of_workers_that_died(tmp_path):
    walled = Walled(tmp_path / "run")
    try:
        walled.attempt(ready=("pair",))
        before = descendants(walled.process.pid)
        files = len(os.listdir(f"/proc/{walled.process.pid}/fd"))
        for number in range(6):
            walled.attempt(**{f"daemon-{number}": ("daemonise",)})
            walled.place.put([json.dumps({"name": "end", "deed": "myself", "arguments": [signal.SIGKILL]})])
            walled.attempt(**{f"after-{number}": ("pair",)})
        until(lambda: len(descendants(walled.process.pid)) == len(before), "as many processes as before")
        until(lambda: len(os.listdir(f"/proc/{walled.process.pid}/fd")) <= files, "as many descriptors as before")
    finally:
        walled.end()


def test_its_tmp_is_kept_when_a_worker_dies_as_in_lambda(tmp_path):
    walled = Walled(tmp_path / "run", workers=1)
    try:
        walled.attempt(kept=("keep", "mine"))
        walled.order(end=("myself", signal.SIGKILL))
        done = walled.attempt(after=("read", "/tmp/mine-2"), code=("read", str(walled.code / "walled.py")))
    finally:
        walled.end()
    assert done["after"] == {"did": "kept"}
    assert "did" in done["code"]


def test_the_data_directory_is_empty_to_a_handler_whose_code_lies_around_it(tmp_path):
    walled = Walled(tmp_path / "run", cwd=tmp_path / "run")
    try:
        done = walled.attempt(data=("entries", str(walled.place.data)), beside=("read", str(walled.secret)))
    finally:
        walled.end()
    assert done["data"] == {"did": []}
    assert done["beside"] == {"did": SECRET}  # a code directory is readable as a whole


def test_an_init_that_mounts_its_code_again_finds_no_data_directory_below(place):
    place.stream(contents=["secret"])
    shutil.copy(FUNCTIONS / "uncovering.py", place.root)
    (place.root / "link").symlink_to("/etc/shadow")
    done = subprocess.run(
        place.command("invoke", "uncovering.handler", "--isolation", "sandbox"),
        cwd=place.root, env=place.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert place.data == place.root / "data"
    assert not [path for names in found.values() for path in names if path.startswith("data")]
    assert "uncovering.py" in found["unbindable"]


def test_a_callable_without_a_name_is_refused_with_the_remedy():
    async def main():
        async with open_pool() as pool:
            settings = pool_rig.config(callable=lambda event, context: None, isolation=Isolation(level="sandbox"))
            with pytest.raises(RefusedError, match="cannot be run in a sandbox.*put it into a module and name it"):
                await pool.start(settings)

    trio.run(main)


def test_what_the_machine_lacks_is_named_and_nothing_less_is_run(place):
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare(1) to take user namespaces away with")
    place.stream(contents=["a"])
    shutil.copy(FUNCTIONS / "walled.py", place.notes)
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    ours = place.command("run", "walled.handler", "--stream", "s", "--until-caught-up", "--isolation", "sandbox")
    done = subprocess.run(
        [unshare, "-Ur", "sh", "-c", script, "sh", *ours],
        cwd=place.notes, env={**place.environment, "AT_INIT": "{}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "isolation 'sandbox' cannot be had for walled-handler: this machine does not allow namespaces" in done.stderr
    assert "`streamfn doctor`" in done.stderr
    assert "RESULT" not in done.stderr


def test_a_doctor_that_gets_no_answer_says_so(monkeypatch):
    monkeypatch.setattr(probe, "_PATIENCE_S", 0.001)
    assert probe.survey() == probe.Findings("what this machine allows could not be found out within 0.001 s", ())


def test_the_doctor_says_the_same_and_what_there_is(place):
    document = json.loads(place.run("doctor", "--json").out)
    assert document["sandbox"] == {"available": True, "lacking": None}
    means = {each["name"]: each for each in document["means"]}
    assert means["landlock"]["available"]
    assert means["user namespaces"]["level"] == "sandbox"
    said = place.run("doctor")
    assert said.code == 0
    assert "isolation sandbox   yes" in said.out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's sandbox is another user's")
@pytest.mark.parametrize("kind", ["ramfs", pytest.param("tmpfs", marks=pytest.mark.soak)])
def test_code_that_only_root_may_read_runs_whatever_it_lies_on(place, kind):
    """ramfs has no idmapped mounts, so what lies on it is copied; what others cannot read stays so outside."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare(1) to mount something in")
    place.stream(contents=[json.dumps({"name": "who", "deed": "whoami"})])
    code = place.root / "mounted"
    code.mkdir()
    script = f"""
        mount -t {kind} none {code} && umask 077 && mkdir {code}/below && cp {FUNCTIONS}/walled.py {code}/below &&
        chmod 700 {code} && chmod 600 {code}/below/walled.py && cd {code}/below && exec "$@"
    """
    ours = place.command(
        "run",
        "walled.handler",
        "--stream",
        "s",
        "--until-caught-up",
        "--isolation",
        "sandbox",
        "--logs",
        "all",
        "--env",
        "AT_INIT={}",
    )
    done = subprocess.run(
        [unshare, "-m", "sh", "-c", script, "sh", *ours],
        env=place.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [_, who] = json.loads(re.search(r"^RESULT (.*)$", done.stderr, re.MULTILINE)[1])
    assert who["did"]["cwd"] == f"{code}/below"
    assert who["did"]["uid"] == 65534


def test_code_that_lies_in_tmp_itself_is_refused(place):
    place.stream(contents=["a"])
    process = place.start("run", "walled.handler", "--stream", "s", "--isolation", "sandbox", cwd="/tmp")
    assert process.wait() == 2
    assert "/tmp cannot be read as a whole in a sandbox" in error_line(process)


CHANGES = {"chmod", "chmod by name", "times", "attribute", "owner", "write", "open to write", "open", "truncate", "map"}


def nothing_is_done_to_a_stolen_segment(walled):
    """A handler may take the descriptor of a segment before its worker does; it can read by it, and nothing else."""
    try:
        walled.order(shard=0, stolen=("steal",))
        walled.process.says("waiting for a segment")
        walled.order(shard=1, other=("pair",))
        before = {path: path.stat() for path in walled.place.data.rglob("*.arrows")}
        result = walled.result("stolen")
        assert "did" in result, walled.process.err
        said = result["did"]
    finally:
        walled.end()
    assert said.keys() > CHANGES
    assert not [name for name in CHANGES if said[name] == "done"], said
    for path, status in before.items():
        after = path.stat()
        assert (after.st_mode, after.st_uid, after.st_nlink) == (status.st_mode, status.st_uid, 1)
        assert after.st_size == status.st_size


@pytest.mark.skipif("os.geteuid() == 0 and not config.getoption('--soak')", reason="the next one is the harder")
def test_nothing_is_done_to_a_stolen_segment(tmp_path):
    nothing_is_done_to_a_stolen_segment(Walled(tmp_path / "run", shards=2, workers=1))


def test_nothing_is_done_to_a_stolen_segment_of_ones_own(open_directory):
    """An ordinary user owns the segments, and so does the handler, as the kernel sees it."""
    found, why = an_ordinary_users_python()
    if found is None:
        pytest.skip(why)
    walled = Walled(open_directory / "theirs", as_user=(1234, *found), shards=2, workers=1)
    nothing_is_done_to_a_stolen_segment(walled)


def test_a_descriptor_is_not_opened_again_for_more(tmp_path):
    """What a worker is handed of the log is read only; /proc/self/fd would be a way to the file itself."""
    path = tmp_path / "segment"
    path.write_bytes(b"records")
    script = """
import json, os, sys
from streamfn.pool import linux
from streamfn.pool.confine import landlock
fd = os.open(sys.argv[1], os.O_RDONLY)
linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
landlock.restrict([("/usr", landlock.READ)], network=False)
said = {}
for name, deed in {
    "write": lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDWR),
    "read": lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDONLY),
    "cut": lambda: os.truncate(f"/proc/self/fd/{fd}", 0),
    "cut itself": lambda: os.ftruncate(fd, 0),
}.items():
    try:
        said[name] = deed()
    except OSError as error:
        said[name] = error.errno
print(json.dumps([said, os.pread(fd, 100, 0).decode()]))
"""
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    said, content = json.loads(done.stdout)
    expected = {"write": 13, "read": 13, "cut": 13, "cut itself": 22}
    if landlock.abi() < landlock.ABI_TRUNCATE:  # there the filter denies truncate(2)
        expected["cut"] = said["cut"]
    assert said == expected
    assert content == path.read_text() == "records"


def an_ordinary_users_python():
    """An interpreter that user 1234 can run, with the path on which it finds what streamfn needs; or why not."""
    if os.geteuid() != 0:
        return None, "the tests are run by an ordinary user anyway"
    path = os.pathsep.join(
        [str(Path(pool_rig.__file__).parents[2]), *(each for each in sys.path if "site-packages" in each)]
    )
    version = sysconfig.get_python_version()
    for python in (sys.executable, f"/usr/bin/python{version}"):
        check = "import streamfn._native, orjson, trio, click, pyarrow"
        with_path = {"PATH": os.defpath, "PYTHONPATH": path}
        try:
            done = subprocess.run([python, "-c", check], user=1234, group=1234, env=with_path, check=False, cwd="/")
        except OSError:
            continue
        if done.returncode == 0:
            return (python, path), ""
    return None, "no interpreter that another user could run"


@pytest.fixture
def open_directory():
    """One that others may enter: pytest keeps its own to itself."""
    with tempfile.TemporaryDirectory(prefix="streamfn-test-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_an_ordinary_users_sandbox_holds_as_well(open_directory):
    found, why = an_ordinary_users_python()
    if found is None:
        pytest.skip(why)
    place = open_directory / "theirs"
    walled = Walled(place, as_user=(1234, *found), at_init=at_init(place / "secret"))
    try:
        done = walled.attempt(
            of_init=("of_init",),
            secret=("read", str(walled.secret)),
            kill=("send", walled.process.pid),
            everybody=("everybody",),
            socket=("sock", socket.AF_INET),
            write=("write", str(walled.code / "walled.py")),
            password=("environments", SECRET[::-1]),
            who=("whoami",),
            tmp=("keep", "mine"),
        )
    finally:
        walled.end()
    denied(done["of_init"]["did"]["secret"], "ENOENT")
    denied(done["of_init"]["did"]["socket"], "EACCES")
    denied(done["secret"], "ENOENT")
    denied(done["kill"], "ESRCH")
    denied(done["everybody"], "ESRCH")
    denied(done["socket"], "EACCES")
    denied(done["write"], "EROFS", "EACCES")
    assert done["password"]["did"] == {"found": [], "processes": 2}
    assert done["who"]["did"]["uid"] == 1234
    assert done["tmp"] == {"did": "kept"}
