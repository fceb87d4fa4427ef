"""A handler that tries to get out of its sandbox: each record names a deed, and what came of it is printed.

Init tries the same before any worker exists: what the walls hold, the outer one holds alone.
"""

import base64
import contextlib
import ctypes
import errno
import importlib
import json
import mmap
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
HERE = Path(__file__).parent


def read(path):
    return Path(path).read_text(errors="replace")[:80]


def entries(path):
    return sorted(os.listdir(path))


def write(path):
    with open(path, "a") as file:
        file.write("here I was\n")
    return "written"


def change(path):
    os.chmod(path, 0o777)
    return "changed"


def remove(path):
    os.unlink(path)
    return "removed"


def directory(path):
    os.mkdir(path)
    return "made"


def keep(name):
    """Write to the own /tmp and read it back."""
    path = Path("/tmp") / name
    path.write_text("kept")
    os.chmod(path, 0o755)
    os.rename(path, f"/tmp/{name}-2")
    return Path(f"/tmp/{name}-2").read_text()


def fill(megabytes):
    with open("/tmp/big", "wb") as file:
        for _ in range(megabytes):
            file.write(bytes(1024 * 1024))
    return "filled"


def sock(family, kind=socket.SOCK_STREAM):
    socket.socket(family, kind).close()
    return "opened"


def pair():
    one, other = socket.socketpair()
    with one, other:
        one.send(b"x")
        return other.recv(1).decode()


def connect(port):
    socket.create_connection(("127.0.0.1", port), 5).close()
    return "connected"


def resolved(name):
    return sorted({found[4][0] for found in socket.getaddrinfo(name, 80)})


def daemonise():
    """Leave a process behind that is nobody's child."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    os.wait()
    return "left"


def environment(name):
    return os.environ.get(name)


def environments(backwards):
    """Look for a text in the environment of every process there is; it comes backwards, not to be found in our own."""
    text = backwards[::-1]
    found, seen = [], 0
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            seen += 1
            with contextlib.suppress(OSError):
                if text in Path("/proc", entry, "environ").read_text(errors="replace"):
                    found.append(int(entry))
    return {"found": found, "processes": seen}


def send(pid, number=signal.SIGKILL):
    os.kill(pid, number)
    return "sent"


def pidfd(pid):
    os.close(os.pidfd_open(pid))
    return "opened"


def everybody():
    """Send SIGKILL to all; Linux leaves the sender out."""
    os.kill(-1, signal.SIGKILL)
    return "sent"


def myself(number):
    os.kill(os.getpid(), number)
    return "nothing happened"


def steal():
    """Take the next segment's descriptor from the worker's own socket, and try what can be done to the file by it."""
    sockets = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and is_socket(fd)]
    waiting = select.poll()
    for fd in sockets:
        waiting.register(fd, select.POLLIN)
    print("waiting for a segment", flush=True)
    [(control, _)] = waiting.poll(12_000)[:1]
    with socket.socket(fileno=os.dup(control)) as sock:
        _, [stolen], _, _ = socket.recv_fds(sock, 65536, 1)
    path = f"/proc/self/fd/{stolen}"
    deeds = {
        "chmod": lambda: os.fchmod(stolen, 0),
        "chmod by name": lambda: os.chmod(path, 0),
        "times": lambda: os.utime(stolen, (0, 0)),
        "attribute": lambda: os.setxattr(stolen, "user.mine", b"1"),
        "owner": lambda: os.fchown(stolen, os.getuid(), os.getgid()),
        "write": lambda: os.write(stolen, b"x"),
        "open to write": lambda: os.open(path, os.O_RDWR),
        "open": lambda: os.open(path, os.O_RDONLY),
        "truncate": lambda: os.truncate(path, 0),
        "link": lambda: os.link(path, "/tmp/linked", follow_symlinks=True),
        "map": lambda: mmap.mmap(stolen, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
    }
    said = {}
    for name, deed in deeds.items():
        try:
            deed()
            said[name] = "done"
        except OSError as error:
            said[name] = errno.errorcode[error.errno]
    return said


def is_socket(fd):
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


def call(number, *arguments):
    if LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "done"


def calls(numbers):
    """What each of these system calls says, without arguments."""
    said = {}
    for name, number in numbers.items():
        result = LIBC.syscall(ctypes.c_long(number), *[ctypes.c_long(0)] * 5)
        said[name] = errno.errorcode[ctypes.get_errno()] if result < 0 else "done"
    return said


def bomb():
    """Fork until it is refused."""
    count = 0
    while True:
        try:
            pid = os.fork()
        except OSError as refusal:
            return {"forks": count, "error": errno.errorcode[refusal.errno]}
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        count += 1


def module(name):
    return getattr(importlib.import_module(name), "__version__", "?")


def numpy_product():
    import numpy

    return float((numpy.ones((300, 300)) @ numpy.ones((300, 300)))[0, 0])


def arrow_sum():
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.sum(pa.table({"a": list(range(1000))})["a"]).as_py()


def s3_client():
    import boto3

    made = boto3.client("s3", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
    return made.meta.endpoint_url


def certificates():
    import ssl

    return len(ssl.create_default_context().get_ca_certs())


def ran():
    done = subprocess.run(["/bin/sh", "-c", "echo hello; id -un"], capture_output=True, text=True, check=True)
    return done.stdout.split()


def threads():
    heard = []
    for number in range(4):
        thread = threading.Thread(target=heard.append, args=[number])
        thread.start()
        thread.join()
    return heard


def whoami():
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    return {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "cwd": os.getcwd(),
        "capabilities": status["CapEff"].strip(),
        "seccomp": status["Seccomp"].strip(),
        "no_new_privs": status["NoNewPrivs"].strip(),
        "root": entries("/"),
        "init_left": os.path.exists("/tmp/of-init"),
    }


def host():
    return socket.gethostname()


def attempt(name, arguments):
    try:
        return {"did": globals()[name](*arguments)}
    except Exception as error:
        return {"error": type(error).__name__, "errno": errno.errorcode.get(getattr(error, "errno", None) or 0)}


def of_init():
    return INIT


INIT = {name: attempt(deed, arguments) for name, (deed, arguments) in json.loads(os.environ["AT_INIT"]).items()}
Path("/tmp/of-init").write_text("x")


def handler(event, context):
    for record in event["Records"]:
        order = json.loads(base64.b64decode(record["kinesis"]["data"]))
        result = attempt(order["deed"], order.get("arguments", ()))
        sys.stdout.write(f"RESULT {json.dumps([order['name'], result])}\n")
