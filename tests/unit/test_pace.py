"""The estimate of how long a batch takes."""

from streamfn.mapping.pace import SPAN_NS, Pace


def test_a_batch_takes_what_passed_on_all_workers_by_the_batches_done() -> None:
    pace = Pace()
    pace.done(1, SPAN_NS, 2)  # from here on it is measured
    pace.done(4, 2 * SPAN_NS, 2)
    assert pace.batch_ns == SPAN_NS / 2
    assert pace.batches_in(SPAN_NS) == 2


def test_records_of_a_batch_that_goes_on_are_no_batch() -> None:
    """With reported records a mapping moves on by part of a batch, and long after the last whole one."""
    pace = Pace()
    pace.done(1, SPAN_NS, 1)
    pace.done(0, 3 * SPAN_NS, 1)
    assert pace.batch_ns == 0
    pace.done(2, 5 * SPAN_NS, 1)
    assert pace.batch_ns == 2 * SPAN_NS
