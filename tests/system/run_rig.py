"""Driving the real command line: streams made in this process, runs in others, waiting with deadlines."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from streamfn.log.catalog.datadir import DataDir
from streamfn.log.producer.producer import Producer
from streamfn.log.shard.reader import ShardReader, horizon, records
from streamfn.state.store import Store
from streamfn.types import NewRecord

FUNCTIONS = Path(__file__).parent / "functions"
PATIENCE_S = 15.0


def until(condition, what, seconds=PATIENCE_S):
    """The first true value of `condition`, which is asked again and again; an assertion says `what` was awaited."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.005)


class Place:
    """A data directory, a directory for handlers' notes, and the environment that names both to the handlers."""

    def __init__(self, root, data=None):
        self.root = root
        self.data = Path(data or root / "data")
        self.notes = root / "notes"
        self.notes.mkdir()
        self.seen = self.notes / "seen"
        self.environment = {**os.environ, "NOTES": str(self.notes), "SEEN": str(self.seen), "COLUMNS": "200"}

    # ---- streams

    def stream(self, name="s", shards=1, contents=()):
        """A new stream with the given data (texts), dealt out to the shards in turn."""
        made = DataDir.open(self.data, create=True).create_stream(name, shards)
        self.put(contents, name)
        return made

    def put(self, contents, name="s", shard=None):
        """Append texts; each goes to the shard with its turn, or to the one given."""
        contents = list(contents)
        if not contents:
            return
        stream = self.opened(name)
        keys = keys_of(stream)
        turns = range(len(contents)) if shard is None else [shard] * len(contents)
        with Producer(stream) as producer:
            given = zip(turns, contents, strict=True)
            producer.submit([NewRecord(_bytes(one), keys[turn % len(keys)]) for turn, one in given]).result()

    def opened(self, name="s"):
        return DataDir.open(self.data, create=False).stream(name)

    def streams(self):
        return DataDir.open(self.data, create=False).streams()

    def log(self, name="s"):
        """Every record's sequence number, by shard."""
        found = {}
        for shard in self.opened(name).shards:
            found[shard.id] = []
            with ShardReader.open(shard, horizon(shard)) as reader:
                while messages := reader.poll(1 << 26):
                    for message in messages:
                        found[shard.id] += [record.sequence_number for record in records(message)]
        return found

    # ---- runs

    def command(self, *arguments):
        return [sys.executable, "-m", "streamfn", *map(str, arguments), "--data-dir", str(self.data)]

    def start(self, *arguments, **options):
        """`streamfn ARGUMENTS` in the background; everything it says goes to files, see `Process`."""
        return Process(self.command(*arguments), {**self.environment, **options.pop("env", {})}, self.root, **options)

    def run(self, *arguments, **options):
        """`streamfn ARGUMENTS`, to its end."""
        process = self.start(*arguments, **options)
        process.wait()
        return process

    def caught_up(self, handler, *arguments, **options):
        """`streamfn run HANDLER --stream s --until-caught-up --json ...`, to its end."""
        return self.run("run", handler, "--stream", "s", "--until-caught-up", "--json", *arguments, **options)

    @contextmanager
    def following(self, handler, *arguments, **options):
        """`streamfn run HANDLER --stream s ...` while the block lasts; killed at its end if it still runs."""
        process = self.start("run", handler, "--stream", "s", *arguments, **options)
        try:
            yield process
        finally:
            process.kill()

    # ---- what they left

    def checkpoints(self, name):
        """Offsets by shard, of the mapping called `name`."""
        with Store.open(self.data / "state.db", create=False) as store:
            mapping = store.mapping(name)
            return {shard: point.offset for shard, point in store.checkpoints(mapping.uuid).items()}

    def mapping(self, name):
        with Store.open(self.data / "state.db", create=False) as store:
            return store.mapping(name)


class Process:
    """A `streamfn` process. `out` and `err` are what it has said so far."""

    def __init__(self, command, environment, root, cwd=FUNCTIONS, **options):
        number = len(list(root.glob("out-*")))
        self._out, self._err = root / f"out-{number}", root / f"err-{number}"
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.popen = subprocess.Popen(
                command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True, **options,
            )  # fmt: skip
        self.pid = self.popen.pid

    @property
    def out(self):
        return self._out.read_text()

    @property
    def err(self):
        return self._err.read_text()

    @property
    def code(self):
        return self.popen.returncode

    @property
    def summary(self):
        """The one object of --json."""
        return json.loads(self.out)

    def wait(self, seconds=PATIENCE_S):
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {seconds} s:\n{self.err[-4000:]}") from None

    def signal(self, number=signal.SIGINT):
        self.popen.send_signal(number)

    def says(self, text, seconds=PATIENCE_S):
        """Wait until it has said something that matches, on standard error."""

        def found():
            match = re.search(text, self.err)
            assert match or self.popen.poll() is None, f"ended without saying {text!r}:\n{self.err[-4000:]}"
            return match

        return until(found, f"{text!r} in:\n{self.err[-4000:]}", seconds)

    def kill(self):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()


def keys_of(stream):
    """A partition key for each open shard."""
    keys = {}
    for number in range(100_000):
        keys.setdefault(stream.shard_for(f"key-{number}").id, f"key-{number}")
        if len(keys) == len(stream.open_shards):
            break
    return [keys[shard.id] for shard in stream.open_shards]


def _bytes(content):
    return content if isinstance(content, bytes) else str(content).encode()


def error_line(process):
    """The one line with which a command ended."""
    lines = [line for line in process.err.splitlines() if line.startswith("streamfn: error: ")]
    assert len(lines) == 1, process.err
    assert process.err.splitlines()[-1] == lines[0], process.err
    return lines[0].removeprefix("streamfn: error: ")


def report_blocks(text):
    """The log lines of each invocation, from START to REPORT: (request id, lines between, REPORT line)."""
    blocks = re.findall(r"START RequestId: (\S+) Version: \$LATEST\n(.*?)END RequestId: \1\n(REPORT .*?)\n", text, re.S)
    return [(request_id, body.splitlines(), report) for request_id, body, report in blocks]
