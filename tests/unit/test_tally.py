"""What a mapping has done, on its way into the store."""

from __future__ import annotations

from streamfn.mapping.tally import Tally
from streamfn.state.progress import Progress


def test_what_is_written_is_not_written_again_and_what_came_meanwhile_is() -> None:
    tally = Tally()
    assert tally.pending() is None
    tally.polled = 10
    tally.succeeded(4)
    first = tally.pending()
    assert first == Progress("OK", polled=10, invoked=4)
    tally.succeeded(3)
    tally.written(first)
    assert tally.pending() == Progress("", invoked=3)


def test_only_the_first_failure_in_a_row_is_news() -> None:
    tally = Tally()
    assert tally.failed(2)
    progress = tally.pending()
    assert progress == Progress("PROBLEM: Function call failed", invoked=2, failed_invoke=2)
    tally.written(progress)
    assert not tally.failed(2)
    tally.succeeded(1)
    assert tally.failed(0) is False  # the store still has it so
    assert tally.pending() == Progress("", invoked=3, failed_invoke=2)
