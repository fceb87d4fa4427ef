"""Handlers that do the worst they can: a catalogue.

`handler` does for each batch what its first record says: the name of a behaviour, or anything else, which is healthy.
Before and behind it stand two lines of witness, so that what was delivered is known by the handlers' own word: in the
file SEEN, or, where they cannot write to it, by a datagram to PORT. Every behaviour says what must come of it: see
`Behaviour`.
"""

import base64
import contextlib
import ctypes
import gc
import json
import locale
import mmap
import os
import random
import re
import resource
import signal
import socket
import sys
import threading
import time

PROCESS, SANDBOX = "process", "sandbox"


class Behaviour:
    """One thing that a handler may do, and what must come of it.

    `error` is the errorType of its invocation, None where it succeeds; `says` a part of the error's text. `levels` are
    the levels of isolation that claim to hold it. `apart`: it has a test of its own, and is in no run of all.
    """

    def __init__(self, deed, error, says, levels, apart):
        self.name = deed.__name__
        self.deed, self.error, self.says, self.levels, self.apart = deed, error, says, levels, apart


BEHAVIOURS = {}


def behaviour(error=None, says="", *, levels=(PROCESS, SANDBOX), apart=False):
    def enter(deed):
        BEHAVIOURS[deed.__name__] = Behaviour(deed, error, says, levels, apart)
        return deed

    return enter


def handler(event, context):
    records = event["Records"]
    content = base64.b64decode(records[0]["kinesis"]["data"]).decode()
    _, _, name = content.rpartition(":")
    invocation = context.aws_request_id
    numbers = [record["kinesis"]["sequenceNumber"] for record in records]
    shard = records[0]["eventID"].split(":")[0]
    pid = os.getpid()
    global _life
    if _life is None:  # numbers are used again, and mean nothing outside of their namespace
        _life = [_stat("/proc/self/ns/pid").st_ino, began("self")]
    witness(seen=invocation, shard=shard, numbers=numbers, deed=name, pid=pid, at=_monotonic())
    known, done = BEHAVIOURS.get(name), False
    try:
        response = known.deed(context) if known else healthy()
        done = known is None or known.error is None
        return response
    finally:
        if os.getpid() == pid:  # no child of it
            witness(ended=invocation, ok=done, at=_monotonic())


def healthy():
    time.sleep(0.002)


# The witness must be able to write whatever the handler has done to these.
_monotonic, _dumps, _open, _write, _close, _stat, _socket, _environ = (
    time.monotonic, json.dumps, os.open, os.write, os.close, os.stat, socket.socket, dict(os.environ),
)  # fmt: skip


_life = None


def began(pid):
    """When a process began, in ticks since the machine's start."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def witness(**told):
    told.update(run=0, life=_life)
    if "PORT" in _environ:
        with _socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(_dumps(told).encode() + b"\n", ("127.0.0.1", int(_environ["PORT"])))
        return
    descriptor = _open(_environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    _write(descriptor, _dumps(told).encode() + b"\n")
    _close(descriptor)


EXITED = "Runtime.ExitError"
TIMED_OUT = "Sandbox.Timedout"
MARSHAL = "Runtime.MarshalError"

# ---- ends


@behaviour(EXITED, "signal: killed")
def kills_itself(context):
    os.kill(os.getpid(), signal.SIGKILL)


@behaviour(EXITED, "signal: segmentation fault")
def segfaults(context):
    ctypes.string_at(0)


@behaviour(EXITED, "signal: aborted")
def aborts(context):
    os.abort()


@behaviour(EXITED, "exit status 9")
def leaves_at_once(context):
    os._exit(9)


@behaviour(EXITED, "without providing a reason")
def leaves_at_once_with_success(context):
    os._exit(0)


@behaviour(EXITED, "exit status 7")
def exits(context):
    sys.exit(7)


@behaviour(EXITED, "exit status 1")
def exits_with_a_text(context):
    sys.exit("said why")


@behaviour(EXITED, "without providing a reason")
def exits_from_libc(context):
    ctypes.CDLL(None).exit(0)


@behaviour(EXITED, "exit status 1")
def interrupts(context):
    raise KeyboardInterrupt


@behaviour(EXITED, "signal: killed")
def kills_its_group(context):
    os.kill(0, signal.SIGKILL)


@behaviour(EXITED, "signal: segmentation fault")
def overflows_the_stack(context):
    class Endless:
        def __repr__(self):
            return repr(self)

    sys.setrecursionlimit(1 << 30)
    repr(Endless())


# ---- hangs


@behaviour(TIMED_OUT, "Task timed out")
def loops(context):
    while True:
        pass


@behaviour(TIMED_OUT, "Task timed out")
def loops_in_c(context):
    re.match(r"(a+)+$", "a" * 100 + "b")


@behaviour(TIMED_OUT, "Task timed out")
def sleeps_in_c_with_the_gil(context):
    ctypes.PyDLL(None).sleep(60)


@behaviour(TIMED_OUT, "Task timed out")
def blocks_signals_and_hangs(context):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(1)


@behaviour(TIMED_OUT, "Task timed out")
def stops_itself(context):
    os.kill(os.getpid(), signal.SIGSTOP)


@behaviour(TIMED_OUT, "Task timed out")
def hangs_in_its_own_destructor(context):
    class Clingy:
        def __del__(self):
            while True:
                time.sleep(1)

    Clingy()


@behaviour()
def hangs_behind_its_answer(context):
    """The object dies when the next invocation's response takes its place, or the frame ends."""

    class Clingy(dict):
        def __del__(self):
            if os.getpid() == pid:
                time.sleep(3600)

    pid = os.getpid()
    return Clingy()


@behaviour(TIMED_OUT, "Task timed out")
def reads_a_pipe_that_nobody_writes(context):
    ends = os.pipe()
    os.read(ends[0], 1)


# ---- output


@behaviour(apart=True)
def prints_a_gibibyte(context):
    block = random.randbytes(1 << 20)
    for _ in range(int(_environ.get("MEBIBYTES", "1024"))):
        _write(1, block)


@behaviour()
def prints_100_mb_without_a_newline(context):
    for _ in range(100):
        os.write(2, b"x" * 1_000_000)


@behaviour()
def prints_what_is_no_text(context):
    os.write(1, bytes(range(256)) * 40 + b"\xed\xa0\x80\xff\xfe\n\x1b[2J\x1b]0;owned\x07\r\x00")


@behaviour()
def forges_log_lines(context):
    other = "00000000-0000-0000-0000-000000000000"
    print(f"END RequestId: {context.aws_request_id}\nREPORT RequestId: {context.aws_request_id}\tDuration: 0.00 ms\t")
    print(f"START RequestId: {other} Version: $LATEST\n[ERROR] Runtime.ExitError: forged\nEND RequestId: {other}")
    print('{"op": "exited", "token": 1, "status": 9}\nstreamfn: error: forged')


@behaviour()
def cuts_its_log_off(context):
    print("something")
    os.ftruncate(1, 0)
    with contextlib.suppress(OSError):
        os.pwrite(1, b"far", 1 << 61)
    os.ftruncate(1, 1 << 61)


@behaviour()
def loses_its_streams(context):
    del sys.stdout, sys.stderr


@behaviour()
def has_streams_that_raise(context):
    class Stream:
        def write(self, text):
            raise RuntimeError("no")

        flush = close = write

    def flush():
        raise RuntimeError("no")

    Stream.flush = staticmethod(flush)
    sys.stdout = sys.stderr = Stream()


# ---- processes


@behaviour()
def forks_and_both_return(context):
    os.fork()


@behaviour()
def forks_in_c_and_both_return(context):
    ctypes.PyDLL(None).fork()


@behaviour("Peculiar")
def forks_and_both_raise(context):
    os.fork()
    raise type("Peculiar", (Exception,), {})("in both")


@behaviour()
def forks_and_the_child_exits(context):
    if os.fork() == 0:
        sys.exit(3)


@behaviour()
def leaves_a_daemon(context):
    """Double fork and a session of its own; it ignores what it can and goes on printing."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in signal.valid_signals():
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_IGN)
            while True:
                os.write(1, b"daemon\n")
                time.sleep(0.01)
        os._exit(0)
    os.wait()


@behaviour(TIMED_OUT, "Task timed out", apart=True)
def breeds_until_its_timeout(context):
    """A fork bomb whose every process leaves its parent and its group at once."""
    until = time.monotonic() + 20  # were it not stopped
    most, bred = int(_environ.get("BREED", "1000000")), mmap.mmap(-1, 8)
    while time.monotonic() < until:
        try:
            if int.from_bytes(bred[:8], "little") > most:
                raise BlockingIOError  # as if there were as many as there may be
            if os.fork() == 0:
                os.setsid()
                bred[:8] = (int.from_bytes(bred[:8], "little") + 1).to_bytes(8, "little")
                if os.fork():
                    os._exit(0)
        except OSError:  # whoever tests this has other things to run, too
            time.sleep(0.3)


# ---- signals


def ancestors():
    """Zygote and runtime, as far as they can be seen."""
    found, pid = [], os.getppid()
    while pid > 1 and len(found) < 2:
        found.append(pid)
        with open(f"/proc/{pid}/stat", "rb") as file:
            pid = int(file.read().rpartition(b")")[2].split()[1])
    return found


@behaviour()
def signals_the_runtime(context):
    """Every signal that can be caught, three times, straight and through a child."""
    _send(ancestors())
    if os.fork() == 0:
        with contextlib.suppress(OSError):
            _send(ancestors()[1:])
        time.sleep(0.1)
        os._exit(0)


def _send(pids):
    for pid in pids:
        for number in [*signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}, signal.SIGTERM, signal.SIGINT]:
            os.kill(pid, number)


def everybody():
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


@behaviour(levels=[SANDBOX], apart=True)
def kills_whom_it_can(context):
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in [*everybody(), *range(1, 100), -1]:
            if pid != os.getpid():
                with contextlib.suppress(OSError):
                    os.kill(pid, number)


@behaviour(levels=[SANDBOX], apart=True)
def traces_whom_it_can(context):
    libc = ctypes.CDLL(None)
    for pid in [*everybody(), *range(1, 100)]:
        if pid != os.getpid():
            libc.ptrace(16, pid, 0, 0)  # attach: it stops


# ---- threads that outlive their invocation


@behaviour()
def leaves_a_thread_that_prints(context):
    def run():
        while True:
            os.write(1, b"thread\n" * 10)
            time.sleep(0.001)

    threading.Thread(target=run, daemon=True).start()


@behaviour(apart=True)
def leaves_a_thread_that_floods(context):
    def run():
        block = b"f" * (1 << 20)
        while True:
            _write(1, block)

    threading.Thread(target=run).start()


# ---- descriptors


@behaviour()
def closes_every_descriptor(context):
    os.closerange(0, 65536)


def _precious():
    path = os.path.join(_environ.get("NOTES", "/tmp"), f"precious-{os.getpid()}-{random.getrandbits(32)}")
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    os.write(descriptor, b"precious")
    return descriptor


@behaviour()
def closes_every_descriptor_and_opens_files(context):
    os.closerange(0, 65536)
    for _ in range(5):
        _precious()


@behaviour(EXITED, "exit status 1")
def closes_every_descriptor_opens_files_and_raises(context):
    os.closerange(0, 65536)
    for _ in range(5):
        _precious()
    raise ValueError("behind files")


@behaviour()
def puts_a_file_in_the_place_of_every_descriptor(context):
    descriptor = _precious()
    with contextlib.suppress(OSError):  # until the limit
        for other in range(1100):
            if other != descriptor:
                os.dup2(descriptor, other)
    os.closerange(400, 410)  # the witness needs one


@behaviour()
def closes_its_high_descriptors(context):
    os.closerange(900, 1100)


@behaviour()
def shuts_its_sockets_down(context):
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                socket.socket(fileno=int(name)).shutdown(socket.SHUT_RDWR)


@behaviour()
def uses_every_descriptor_up(context):
    kept = globals().setdefault("_kept", [])
    with contextlib.suppress(OSError):
        while True:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    for descriptor in kept[:3]:  # the witness needs one
        os.close(descriptor)


# ---- surroundings


@behaviour(apart=True)
def changes_its_surroundings(context):
    os.chdir("/")
    os.umask(0o777)
    os.environ.clear()
    locale.setlocale(locale.LC_ALL, "C")
    sys.path[:] = []
    sys.modules.pop("json", None)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    random.seed(1)
    gc.disable()


@behaviour()
def lowers_its_limits(context):
    for name in ("RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_STACK", "RLIMIT_MSGQUEUE", "RLIMIT_MEMLOCK"):
        with contextlib.suppress(OSError, ValueError):
            kind = getattr(resource, name)
            resource.setrlimit(kind, (8, 8))


@behaviour(apart=True)
def patches_everything(context):
    def broken(*args, **kwargs):
        raise RuntimeError("patched")

    for module, names in (
        (os, ("_exit", "write", "fstat", "close", "pread", "urandom")), (time, ("time", "monotonic", "monotonic_ns")),
        (json, ("dumps", "loads")), (contextlib, ("suppress",)), (sys, ("exit", "exc_info")),
    ):  # fmt: skip
        for name in names:
            setattr(module, name, broken)


# ---- answers


@behaviour("Function.ResponseSizeTooLarge", "Response payload size exceeded")
def answers_too_much(context):
    return "x" * 6_291_557


@behaviour()
def answers_as_much_as_may_be(context):
    return "x" * 6_291_000


@behaviour(MARSHAL, "Unable to marshal response")
def answers_an_object(context):
    return {"a": object()}


@behaviour(MARSHAL, "Unable to marshal response")
def answers_itself(context):
    value = []
    value.append(value)
    return value


@behaviour(MARSHAL, "Unable to marshal response")
def answers_deeply(context):
    value = []
    for _ in range(100_000):
        value = [value]
    return value


@behaviour()
def answers_nan_and_surrogates(context):
    return {"nan": float("nan"), "inf": float("inf"), "lone": "\udc80", "big": 1 << 4000, "bytes": b"text"}


@behaviour(MARSHAL, "Unable to marshal response")
def answers_bytes_that_are_no_text(context):
    return {"bytes": b"\xff\xfe"}


@behaviour(MARSHAL, "Unable to marshal response")
def answers_what_raises(context):
    class Trap(dict):
        def items(self):
            raise RuntimeError("items")

    return {"a": Trap(x=1)}


@behaviour("Enormous")
def raises_a_hundred_megabytes(context):
    raise type("Enormous", (Exception,), {})("x" * 100_000_000)


@behaviour("Unspeakable")
def raises_what_cannot_be_told(context):
    def broken(self):
        raise RuntimeError("no text")

    raise type("Unspeakable", (Exception,), {"__str__": broken, "__repr__": broken})


@behaviour("RecursionError")
def raises_from_a_deep_place(context):
    def deeper():
        return deeper()

    deeper()


# ---- answers of a function that may report failures (none of them Lambda's forms)

REPORTED = "BatchItemFailures"


@behaviour(REPORTED, "the response is", apart=True)
def reports_a_text(context):
    return "failed"


@behaviour(REPORTED, "the response is", apart=True)
def reports_a_number(context):
    return 1


@behaviour(REPORTED, "batchItemFailures is", apart=True)
def reports_an_object(context):
    return {"batchItemFailures": {"itemIdentifier": "1"}}


@behaviour(REPORTED, apart=True)
def reports_nobody(context):
    return {"batchItemFailures": [{"itemIdentifier": None}]}


@behaviour(REPORTED, apart=True)
def reports_a_stranger(context):
    return {"batchItemFailures": [{"itemIdentifier": "49590338271490256608559692538361571095921575989136588898"}]}


@behaviour(REPORTED, apart=True)
def reports_under_another_name(context):
    return {"batchItemFailures": [{"itemidentifier": "1"}, 7, None, []]}


@behaviour(REPORTED, apart=True)
def reports_what_is_no_json(context):
    return b'{"batchItemFailures": [' + b"[" * 100_000


@behaviour(apart=True)
def reports_null(context):
    return {"batchItemFailures": None}


REPORTS = [
    "reports_a_text", "reports_a_number", "reports_an_object", "reports_nobody", "reports_a_stranger",
    "reports_under_another_name", "reports_what_is_no_json", "reports_null",
]  # fmt: skip


# ---- memory

OUT_OF_MEMORY = "Runtime.OutOfMemory"


@behaviour(OUT_OF_MEMORY, apart=True)
def takes_memory(context):
    kept = []
    while True:
        kept.append(bytearray(b"x" * (1 << 22)))


@behaviour(OUT_OF_MEMORY, apart=True)
def takes_shared_memory(context):
    """What RLIMIT_DATA does not count."""
    kept = []
    while True:
        kept.append(mmap.mmap(-1, 1 << 22))
        kept[-1].write(b"x" * (1 << 22))


@behaviour(OUT_OF_MEMORY, apart=True)
def takes_memory_and_catches_what_is_raised(context):
    kept = []
    while True:
        with contextlib.suppress(MemoryError):
            kept.append(bytearray(b"x" * (1 << 22)))


HOGS = ["takes_memory", "takes_shared_memory", "takes_memory_and_catches_what_is_raised"]

# ---- memory that is shared with the runtime


def rings():
    """Address and size of the rings in this process."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            if "memfd:streamfn-ring" in line:
                first, last = (int(part, 16) for part in line.split()[0].split("-"))
                return first, last - first
    raise AssertionError("the rings are not mapped")


HEADER = [0, 4, 8, 128, 256, 384, 512, 640, 768, 896]
ENTRIES = 4096 + 128 * (64 + 128 + 64 + 256)  # the header, and all but the arena
NASTY = [0, 1, 2, 3, 127, 128, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]


def poke(at, value):
    ctypes.c_uint64.from_address(at).value = value % 2**64


def peek(at):
    return ctypes.c_uint64.from_address(at).value


@behaviour(apart=True)
def scribbles_over_the_rings(context):
    """Random words in random places."""
    address, size = rings()
    for _ in range(random.choice([1, 3, 30, 3000])):
        at = random.choice([random.choice(HEADER), random.randrange(0, ENTRIES, 8), random.randrange(0, size - 8, 8)])
        poke(address + at, random.choice([*NASTY, random.getrandbits(64)]))


@behaviour(apart=True)
def sweeps_over_the_rings(context):
    """Every word that is there."""
    address, size = rings()
    value = random.choice(NASTY)
    for at in range(random.choice([0, 128, 4096]), size - 8, 8):
        poke(address + at, value)


@behaviour(apart=True)
def scribbles_on(context):
    """From a thread, while others run."""
    address, size = rings()

    def run():
        while True:
            at = random.choice([*HEADER, random.randrange(4096, size - 8, 8)])
            poke(address + at, peek(address + at) + random.choice([-1, 1, 128, 2**32]))
            time.sleep(0.0001)

    threading.Thread(target=run, daemon=True).start()


@behaviour(apart=True)
def forges_answers(context):
    """More answers than there were questions, and a state word for each that says that it runs."""
    address, _ = rings()
    for slot in range(128):
        ctypes.c_uint32.from_address(address + 4096 + 64 * slot).value = random.choice([0, 1, 2, 3])
    for _ in range(random.choice([1, 2, 200])):
        poke(address + 512, peek(address + 512) + 1)


@behaviour(apart=True)
def pretends_to_begin_long_ago(context):
    poke(rings()[0] + 896, random.choice([1, time.monotonic_ns() + 10**12, 2**64 - 1]))
    time.sleep(0.03)


@behaviour(apart=True)
def lives_in_another_time(context):
    """A time namespace in which CLOCK_MONOTONIC is hours ahead: what the worker stamps is not the machine's time."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x80) != 0:  # CLONE_NEWTIME
        return
    offset = random.choice(["36000", "-1000"])
    with contextlib.suppress(OSError), open("/proc/self/timens_offsets", "w") as file:
        file.write(f"monotonic {offset} 0")
    with open("/proc/self/ns/time_for_children") as there:
        libc.setns(there.fileno(), 0x80)


@behaviour(apart=True)
def sets_the_clock(context):
    with contextlib.suppress(OSError):
        time.clock_settime(time.CLOCK_REALTIME, time.time())  # as it is: a test has no right to another one
    with contextlib.suppress(OSError), open(CLOCK_SOURCE, "r+") as file:
        file.write(file.read())


CLOCK_SOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
RINGS = [
    "scribbles_over_the_rings", "sweeps_over_the_rings", "scribbles_on", "forges_answers", "pretends_to_begin_long_ago",
    "lives_in_another_time", "sets_the_clock",
]  # fmt: skip
