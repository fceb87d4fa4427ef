"""The root command, and the one place where errors become lines and exit codes.

Each command lives in a module of its own that is imported when the command is named, so that `--version`,
`--help` and a mistyped command answer at once.  Whatever a command raises ends here:

    StreamfnError          streamfn: error: TEXT             its own exit code (1 failed, 2 refused);
                           a handler that cannot be imported shows its own stack trace first
    click's usage errors   the usage and what is wrong       2
    OSError                streamfn: error: TEXT             1
    Ctrl-C                 nothing, or what the command said 130
    a closed stdout        nothing                           0: who reads has seen enough
    anything else          one line that says it is a bug    1; STREAMFN_TRACEBACK=1 shows where
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple

import click

from streamfn.cli.options import DATA_DIR, remember_data_dir
from streamfn.errors import HandlerImportError, StreamfnError
from streamfn.version import VERSION

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


class _Entry(NamedTuple):
    module: str
    attribute: str
    short_help: str


# In the order in which a newcomer needs them.
COMMANDS = {
    "demo": _Entry("demo", "demo", "Run a real handler on 336,776 real flights and show what it found."),
    "run": _Entry("run", "run", "Run a Lambda handler on a stream."),
    "replay": _Entry("replay", "replay", "Run a handler once more on a part of a stream."),
    "bench": _Entry("bench", "bench", "Measure a handler: latency, throughput, where the time goes."),
    "invoke": _Entry("invoke", "invoke", "Call a Lambda handler once, with an event."),
    "function": _Entry("function", "function", "Create, list, change and delete functions."),
    "mapping": _Entry("mapping", "mapping", "Create, list, change and delete event source mappings."),
    "import": _Entry("importing", "import_", "Import a file's records into a stream."),
    "record": _Entry("record", "record", "Record a live Kinesis or DynamoDB stream into a stream."),
    "put": _Entry("put", "put", "Put records into a stream, from arguments or standard input."),
    "put-change": _Entry("put_change", "put_change", "Put DynamoDB change records into a stream."),
    "tail": _Entry("tail", "tail", "Show a stream's records."),
    "export": _Entry("export", "export", "Write a stream's records to a file."),
    "list": _Entry("inspecting", "list_", "List the streams."),
    "inspect": _Entry("inspecting", "inspect", "Show a stream's shards, their lineage, and its mappings."),
    "failures": _Entry("failures", "failures", "List what a mapping discarded, with the records."),
    "redrive": _Entry("redrive", "redrive", "Deliver again what a mapping discarded."),
    "split-shard": _Entry("resharding", "split_shard", "Split a shard in two."),
    "merge-shards": _Entry("resharding", "merge_shards", "Merge two adjacent shards."),
    "update-shard-count": _Entry("resharding", "update_shard_count", "Split and merge to a number of shards."),
    "retention": _Entry("upkeep", "retention", "Set how much of a stream is kept."),
    "trim": _Entry("upkeep", "trim", "Remove a stream's oldest records."),
    "compact": _Entry("upkeep", "compact", "Merge small segments, compress cold ones."),
    "verify": _Entry("verify", "verify", "Check every byte of the log; repair nothing."),
    "repair": _Entry("verify", "repair", "Do what verify proposes, after a backup."),
    "delete": _Entry("deleting", "delete", "Delete a stream with all its records."),
    "doctor": _Entry("doctor", "doctor", "Say what this machine allows: isolation levels, limits."),
}

_EPILOG = """\b
Examples:
  streamfn demo
  streamfn import orders.jsonl --stream orders --shards 4 --partition-key customer
  streamfn run app.handler --stream orders --until-caught-up
  echo '{"hello": 1}' | streamfn put orders
  streamfn tail orders --follow

\b
Exit codes: 0 done, 1 failed, 2 refused before anything was made, 3 finished but
records were discarded, 130 interrupted.
"""


class _Unchanged(Exception):
    """Carries an error past click, which exits with 1 for a broken pipe and drops an interrupt's notes."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class LazyGroup(click.Group):
    """A group that knows its commands' names and help, and imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command of that name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(f"streamfn.cli.{entry.module}"), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; what click would make something else of leaves as it came."""
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, KeyboardInterrupt) as error:
            raise _Unchanged(error) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.short_help) for name, entry in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(VERSION, "--version", prog_name="streamfn", message="%(prog)s %(version)s")
@click.option("--data-dir", type=click.Path(), envvar=DATA_DIR.envvar, default=None, help=DATA_DIR.help)
@click.pass_context
def cli(ctx: click.Context, data_dir: str | None) -> None:
    """Run AWS-Lambda-style functions on event streams, on this machine, fast.

    Streams live as Arrow files in a data directory; handlers are ordinary Lambda handlers in Python.
    """
    remember_data_dir(ctx, data_dir)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (None: this process' own); return its exit code, never raise."""
    try:
        result = cli.main(args=arguments, prog_name="streamfn", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as raised:  # the one boundary: everything becomes a line and a code
        return _end(raised)
    return result if isinstance(result, int) else 0


def _end(raised: BaseException) -> int:
    """Say what went wrong, in one line where it can be said, and return the exit code for it."""
    error = root_cause(raised.error if isinstance(raised, _Unchanged) else raised)
    match error:
        case SystemExit():
            return error.code if isinstance(error.code, int) else 0 if error.code is None else EXIT_FAILED
        case click.exceptions.Exit():
            return error.exit_code
        case KeyboardInterrupt() | click.Abort():
            for note in getattr(error, "__notes__", ()):
                _say(note)
            return EXIT_INTERRUPTED
        case BrokenPipeError() if _reader_is_gone():
            # The interpreter flushes standard output once more when it ends: let that go nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        case click.ClickException():
            error.show()
            return error.exit_code
        case StreamfnError():
            if isinstance(error, HandlerImportError):
                _show_trace(error)
            _complain(str(error))
            return error.exit_code
        case OSError():
            where = f": {error.filename}" if error.filename else ""
            _complain(f"{error.strerror or error}{where}")
        case _:
            _complain(
                f"a bug in streamfn ({type(error).__name__}: {error}); STREAMFN_TRACEBACK=1 shows where"
            )
    if os.environ.get("STREAMFN_TRACEBACK"):
        traceback.print_exception(raised)
    return EXIT_FAILED


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads: some other pipe may have broken instead."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def root_cause(error: BaseException) -> BaseException:
    """Return what an exception group is about: the first thing in it raised on purpose, or its first leaf."""
    leaves = _leaves(error)
    for kind in (KeyboardInterrupt, StreamfnError, click.ClickException):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


def _show_trace(error: HandlerImportError) -> None:
    """Show what a handler's own module printed and where it failed: its author's frames, not the import system's."""
    found = error.document.get("stackTrace")
    frames = [str(frame) for frame in (found if isinstance(found, list) else ())]
    theirs = [frame for frame in frames if "<frozen importlib" not in frame and "/importlib/__init__.py" not in frame]
    from streamfn.mapping.logs import init_report_line, shown_log

    text = shown_log(error.log)
    if theirs:
        text += "".join(["Traceback (most recent call last):\n", *theirs])
    text += init_report_line(error)
    if text:
        with contextlib.suppress(OSError):
            click.echo(text.rstrip("\n"), err=True)


def _complain(text: str) -> None:
    _say(f"error: {text}")


def _say(text: str) -> None:
    """Write one line to standard error, whatever the text holds; that nobody reads it is no further error."""
    with contextlib.suppress(OSError):
        click.echo("streamfn: " + " ".join(text.splitlines()), err=True)
