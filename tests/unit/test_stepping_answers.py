"""What is said of a failed batch, what an answer comes to, and where its event goes."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import click
import pytest
import trio
from click.testing import CliRunner
from trio.testing import trio_test

from streamfn.cli.stepping import RECORDS_SHOWN, SteppingFlags, Terminal, stepping_options, stop_text, understood
from streamfn.core.verdict import Decision
from streamfn.errors import FailedError, RefusedError
from streamfn.mapping.stepping import Stop
from streamfn.replay.stepping import Stepping, check_writable, save
from streamfn.types import Fault, Record

SHARD = "shardId-000000000000"
DOCUMENT = b'{"errorType":"ValueError","errorMessage":"no","stackTrace":["  File \\"app.py\\", line 3\\n    x()\\n"]}'


def stop_of(count: int, *, data: bytes = b'{"n":1}', fault: Fault | None = None, attempts: int = 1) -> Stop:
    rows = tuple(Record(7 + n, str(10**20 + n), f"key-{n}", 1_700_000_000_000, data, None, None) for n in range(count))
    return Stop(
        "m", SHARD, 7, rows, attempts, fault or Fault("ValueError", "no", DOCUMENT), "request", b'{"Records":[]}'
    )


async def never(stop: Stop) -> str:
    raise AssertionError("nobody is to be asked")


# ---- answers


@pytest.mark.parametrize(
    ("answer", "decision"),
    [("retry", Decision.FOLLOW), ("skip", Decision.SKIP), ("bisect", Decision.BISECT), ("quit", None)],
)
@trio_test
async def test_what_was_said_before_is_done_and_nobody_is_asked(answer: str, decision: Decision | None) -> None:
    shown: list[tuple[Stop, str | None]] = []
    stepping = Stepping(answer=answer, ask=never, show=lambda *said: shown.append(said))
    stop = stop_of(2)
    assert await stepping.decide(stop) is decision
    assert shown == [(stop, answer)]
    assert (stepping.stopped_at is stop) is (answer == "quit")


@trio_test
async def test_halves_end_at_a_single_record_and_so_does_the_run() -> None:
    stepping = Stepping(answer="bisect", ask=never, show=lambda *said: None)
    assert await stepping.decide(stop_of(1)) is None
    said = stepping.to_json()
    assert said["answers"] == {"retry": 0, "skip": 0, "bisect": 0, "quit": 1}
    assert said["stopped_at"] == {
        "shard_id": SHARD,
        "first_offset": 7,
        "sequence_number": str(10**20),
        "records": 1,
        "attempts": 1,
        "error_type": "ValueError",
        "error_message": "no",
        "request_id": "request",
    }


@trio_test
async def test_a_retry_that_somebody_asks_for_goes_at_once() -> None:
    async def ask(stop: Stop) -> str:
        return "retry"

    assert await Stepping(answer=None, ask=ask, show=lambda *said: None).decide(stop_of(1)) is Decision.RETRY


@pytest.mark.parametrize(
    ("line", "answer"),
    [("r\n", "retry"), ("Skip \n", "skip"), ("bis", "bisect"), ("q", "quit"), ("l", "list"), ("\n", None), ("x", None)],
)
def test_an_answer_is_a_word_or_how_it_begins(line: str, answer: str | None) -> None:
    assert understood(line, ["retry", "skip", "bisect", "list", "quit"]) == answer


class Paper:
    """A log and a display that keep what happens to them."""

    def __init__(self) -> None:
        self.text = ""
        self.held = 0

    def write(self, text: str, *, ours: bool = False) -> None:
        self.text += text

    def hold(self) -> None:
        self.held += 1

    def release(self) -> None:
        self.held -= 1


@trio_test
async def test_a_question_is_asked_until_it_is_answered_and_typing_ahead_is_no_answer() -> None:
    paper, (master, slave) = Paper(), pty.openpty()
    try:
        os.write(master, b"skip\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_type, paper, master, b"nonsense\n", b"l\n", b"ret\n")
            answer = await Terminal(paper, paper, slave).ask(stop_of(RECORDS_SHOWN + 1))  # type: ignore[arg-type]
        assert answer == "retry"
        assert paper.text.count("[r]etry, [s]kip, [b]isect, [l]ist, [q]uit? ") == 3
        assert f"key-{RECORDS_SHOWN}" in paper.text
        assert paper.held == 0
    finally:
        os.close(master)
        os.close(slave)


async def _type(paper: Paper, master: int, *lines: bytes) -> None:
    """Type a line for each question."""
    for number, line in enumerate(lines, 1):
        while paper.text.count("uit? ") < number:
            await trio.sleep(0.001)
        os.write(master, line)


@trio_test
async def test_a_terminal_that_is_gone_says_quit() -> None:
    paper, (master, slave) = Paper(), pty.openpty()
    os.close(master)
    try:
        assert await Terminal(paper, paper, slave).ask(stop_of(1)) == "quit"  # type: ignore[arg-type]
        assert "[b]isect" not in paper.text
    finally:
        os.close(slave)


# ---- what is shown


def test_a_stop_shows_the_records_decoded_and_the_traceback() -> None:
    lines = stop_text(stop_of(2, attempts=2)).splitlines()
    assert lines[0] == f"streamfn: stopped: {SHARD}, offset 7: 2 records, failed 2 times"
    assert lines[1] == f'  7  2023-11-14T22:13:20.000Z  {SHARD}  key-0  {{"n":1}}'
    assert lines[3:] == ["Traceback (most recent call last):", '  File "app.py", line 3', "    x()", "ValueError: no"]


def test_of_a_large_batch_the_first_records_are_shown_unless_all_are_asked_for() -> None:
    stop = stop_of(RECORDS_SHOWN + 15, data=b"x" * 1000)
    lines = stop_text(stop, traceback=False).splitlines()
    assert lines[-2:] == ["  and 15 more records", "ValueError: no"]
    assert max(map(len, lines)) < 400
    assert len(stop_text(stop, all_records=True)) > 25_000


def test_what_a_record_or_an_error_says_cannot_move_the_cursor() -> None:
    text = stop_text(stop_of(1, data=b"\x1b[2J\xff", fault=Fault("E\x1b", "a\nb", b"[]")))
    assert "\x1b" not in text
    assert "\\x1b[2J\\xff" in text
    assert text.endswith("E\\x1b: a\\nb\n")


def test_the_call_of_a_window_has_no_records() -> None:
    assert "a call of a tumbling window, without records" in stop_text(stop_of(0))


# ---- the event


@trio_test
async def test_every_stop_saves_its_event_in_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "event.json"
    path.write_text("old")
    stepping = Stepping(answer="bisect", ask=never, show=lambda *said: None, save_event=path)
    assert stepping.to_json()["saved_event"] is None
    await stepping.decide(stop_of(2))
    assert path.read_bytes() == b'{"Records":[]}'
    assert stepping.to_json()["saved_event"] == str(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_refused_before_and_said_after(tmp_path: Path) -> None:
    for bad in (tmp_path, tmp_path / "none" / "event.json", tmp_path / ("x" * 300)):
        with pytest.raises(RefusedError, match="--save-event"):
            check_writable(bad)
    check_writable(tmp_path / "event.json")
    with pytest.raises(FailedError, match=r"--save-event: cannot write .*none"):
        save(tmp_path / "none" / "event.json", b"{}")


# ---- the options


def given(*arguments: str) -> SteppingFlags:
    """What a command with the options is told."""
    told: list[SteppingFlags] = []

    @click.command()
    @stepping_options
    def command(flags: SteppingFlags) -> None:
        told.append(flags)

    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return told[0]


@pytest.mark.parametrize(
    "arguments", [("--pause-on-error",), ("--on-error", "skip"), ("--save-event", "event.json")], ids=" ".join
)
def test_each_of_the_options_has_the_run_stop_at_failed_batches(arguments: tuple[str, ...]) -> None:
    assert given(*arguments).stops
    assert not given().stops
    assert not given("--diff", "app.handler").stops


def test_what_cannot_be_meant_is_refused_by_name() -> None:
    with pytest.raises(RefusedError, match=r"'nothing' at 'onError' .*\[retry, skip, bisect, quit\]"):
        given("--on-error", "nothing")
    with pytest.raises(RefusedError, match="--save-event: there is no directory /nowhere"):
        given("--save-event", "/nowhere/event.json")
    with pytest.raises(click.UsageError, match="--diff calls both handlers once"):
        given("--diff", "app.handler", "--on-error", "skip")
