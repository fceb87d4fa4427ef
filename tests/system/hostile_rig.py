"""Running hostile handlers between healthy ones, and judging what came of it by what the handlers wrote themselves."""

import contextlib
import json
import re
import socket
import threading
from pathlib import Path

from history_rig import History
from hostile import BEHAVIOURS, PROCESS, began
from pool_rig import is_alive
from run_rig import Process, until
from witness import strays

from streamfn.limits import EVENT_BYTES_MAX
from streamfn.testing.checker import Ended
from streamfn.testing.checker.rules import Rules

NAME = "m"
RULES = Rules(batch_size=1, event_bytes_max=EVENT_BYTES_MAX, maximum_retry_attempts=0)
DISCARD = re.compile(
    r"^streamfn: m: (\S+) discards 1 record at offset (\d+), RetryAttemptsExhausted after 1 attempt: (.*)$", re.M
)


class Mixed:
    """One run: a shard for each behaviour, with a healthy neighbour before it and one behind it, and healthy shards."""

    def __init__(self, place, names, *, healthy=4, records=100, level=PROCESS):
        self.place, self.names, self.level = place, list(names), level
        self.mark = f"STREAMFN_TEST_MARK={place.root}"
        place.stream(shards=len(self.names) + healthy)
        for shard, name in enumerate(self.names):
            place.put(["before", f"deed:{name}", "behind"], shard=shard)
        for shard in range(healthy):
            place.put(range(records), shard=len(self.names) + shard)
        self.records = 3 * len(self.names) + healthy * records
        self.history = _History(place, NAME, level)
        self.shards = [shard.id for shard in place.opened().shards]

    def start(self, *arguments, workers=4, timeout_s=1, around=()):
        """`streamfn run` of all of it; a batch is one record, with one attempt. `around` is a command to run it in."""
        walled = ()
        if self.level != PROCESS:  # where handlers cannot write to our file, they tell us through the network
            self.post = self.history.post = _Post(self.place.seen)
            walled = ("--isolation", self.level, "--allow-network", "--env", f"PORT={self.post.port}")
        command = self.place.command(
            "run", "hostile.handler", "--stream", "s", "--name", NAME, "--until-caught-up", "--json",
            "--batch-size", "1", "--maximum-retry-attempts", "0", "--workers", workers, "--timeout", timeout_s,
            *walled, *arguments,
        )  # fmt: skip
        environment = {**self.place.environment, **dict([self.mark.split("=", 1)])}
        self.run = Process([*around, *command], environment, self.place.root)
        return self.run

    def wait(self, seconds=60.0):
        """Wait for the run's end, taking down which checkpoints were durable when."""

        def ended():
            self.history.look()
            return self.run.popen.poll() is not None

        try:
            until(ended, "the run's end", seconds)
            self.history.died()
        finally:
            self.run.kill()
            if self.level != PROCESS:
                self.post.close()

    @property
    def err(self):
        return self.run._err.read_text(errors="replace")

    # ---- the judgement

    def judge(self):
        """Nothing may have gone wrong."""
        wrong = self.faults()
        assert not wrong, "\n".join(wrong)

    def faults(self):
        """What went wrong, as texts."""
        wrong = [f"the checker: {violation}" for violation in self.history.violations(RULES)]
        expected = sum(BEHAVIOURS[name].error is not None for name in self.names)
        if self.run.code not in (0, 3):
            return [*wrong, f"the run ended with {self.run.code}: {self.err[-2000:]}"]
        given_up = {(shard, int(offset)): fault for shard, offset, fault in DISCARD.findall(self.err)}
        for shard, name in enumerate(self.names):
            known = BEHAVIOURS[name]
            fault = given_up.pop((self.shards[shard], 1), None)
            if known.error is None and fault is not None:
                wrong.append(f"{name} failed: {fault}")
            elif known.error is not None and not (fault and fault.startswith(known.error) and known.says in fault):
                wrong.append(f"{name}: {known.error}, {known.says!r} expected, not {fault}")
        wrong += [f"an innocent was harmed, {shard} {offset}: {fault}" for (shard, offset), fault in given_up.items()]
        summary = json.loads(self.run.out)
        counts = summary["records"], summary["discarded"], summary["errors"]
        if not given_up and not wrong and counts != (self.records - expected, expected, expected):
            wrong.append(f"(records, discarded, errors) are {counts} of {self.records} and {expected}")
        wrong += [f"there was written to a handler's file: {data!r:.200}" for data in self.spoilt()]
        return wrong

    def spoilt(self):
        """What is in files of the handlers' own in which there is something that they have not written."""
        written = [path.read_bytes() for path in self.place.notes.glob("precious-*")]
        return [data for data in written if data.replace(b"thread\n", b"") != b"precious"]

    def seen(self):
        """What was told when an invocation began: a dict each, in order."""
        return [told for told in map(json.loads, self.place.seen.read_text().splitlines()) if "seen" in told]

    def ended(self):
        """When each invocation ended that did, by its id (seconds on the monotonic clock)."""
        told = map(json.loads, self.place.seen.read_text().splitlines())
        return {each["ended"]: each["at"] for each in told if "ended" in each}

    def leftovers(self):
        """Processes of this run that are there."""
        return strays(self.mark)


class _Post:
    """Writes down what comes as datagrams, a line each, until it is closed."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._marked = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=[path])
        self._thread.start()

    def _run(self, path):
        with open(path, "ab", buffering=0) as file:
            while line := self._socket.recv(65536):
                if line == _MARK:
                    self._marked.release()
                else:
                    file.write(line)

    def catch_up(self):
        """Return when everything that has been sent until now is written down."""
        self._send(_MARK)
        assert self._marked.acquire(timeout=10)

    def close(self):
        self._send(b"")
        self._thread.join()
        self._socket.close()

    def _send(self, data):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(data, ("127.0.0.1", self.port))


_MARK = b"mark"


class _History(History):
    """One in which an invocation whose process is gone is over, whether it said so or not."""

    def __init__(self, place, mapping, level):
        self._began, self._level, self.post = {}, level, None
        super().__init__(place, mapping)

    def _told(self, told):
        if "seen" in told:
            self._began[told["seen"]] = told
            self._bury({live for live in self._dead() if self._began[live]["shard"] == told["shard"]})
        super()._told(told)

    def _hear(self):
        if self.post is not None:
            self.post.catch_up()
        super()._hear()
        dead = self._dead()
        super()._hear()  # what they wrote before they died
        self._bury(dead & self._live)

    def _dead(self):
        if not self._live:
            return set()
        lives = None if self._level == PROCESS else all_lives()
        return {live for live in self._live if not _is_alive(self._began[live], lives)}

    def _bury(self, dead):
        self._live -= dead
        self._events += [Ended(invocation, ok=False) for invocation in sorted(dead)]


def _is_alive(told, lives):
    if lives is not None:
        return tuple(told["life"]) in lives
    with contextlib.suppress(OSError):
        return is_alive(told["pid"]) and began(told["pid"]) == told["life"][1]
    return False


def all_lives():
    """Every process that we can see, as (PID namespace, when it began): names that hold in all namespaces."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "comm").read_text() != "sf-keeper\n":  # process 1 beside it, which ends a little later
                    found.add(((entry / "ns" / "pid").stat().st_ino, began(entry.name)))
    return found
