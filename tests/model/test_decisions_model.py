"""A lane whose failed batches are decided about by whim: whatever is said, no record is lost, repeated or reordered."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from streamfn.core.backoff import Backoff
from streamfn.core.batcher import BatchRules, Chunk
from streamfn.core.lane import Lane
from streamfn.core.verdict import Condition, Decision, FailurePolicy
from streamfn.types import Fault, Run

FAULT = Fault("E", "", b"{}")


class Story:
    """A lane with a worker that runs what is staged in order, and stops at what fails."""

    def __init__(self, records: int, batch_size: int, poison: set[int], retries: int | None, *, bisect: bool) -> None:
        policy = FailurePolicy(Backoff(10, 2, 40), retries, None, bisect, asks=True)
        self.lane = Lane(BatchRules(batch_size, 0, event_bytes_max=10**6, frame_bytes=0), policy, 0, 0, lambda: 0.5)
        self.lane.offer(Chunk(0, list(accumulate([1] * records, initial=0))))
        self.lane.finish_at(records)
        self.poison = poison
        self.now = 0
        self.succeeded: list[int] = []
        self.skipped: list[int] = []
        self.staged: list[Run] = []

    def stage(self, most: int) -> None:
        taken = self.lane.take(self.now, most)
        for run in taken:
            for number in range(run.batches):
                first = run.first_offset + number * run.records
                self.staged.append(Run(first, run.records, 1, run.attempt))

    def run_one(self, *, reports: bool) -> None:
        """The worker runs the oldest batch; of one that fails a response may say how far it came."""
        batch, *behind = self.staged
        wrong = [at for at in range(batch.first_offset, batch.first_offset + batch.records) if at in self.poison]
        # Nothing runs before everything in front of it has its disposition.
        assert batch.first_offset == len(self.succeeded) + len(self.skipped)
        if not wrong:
            self.staged = behind
            self.succeeded += range(batch.first_offset, batch.first_offset + batch.records)
            self.lane.succeeded(1, self.now)
            return
        if reports:
            done = wrong[0] - batch.first_offset
            self.succeeded += range(batch.first_offset, wrong[0])
            self.lane.partly(done, self.now, FAULT)
        else:
            self.lane.failed(self.now, FAULT)
        if behind:
            self.lane.returned(len(behind))
        self.staged = []

    def decide(self, decision: Decision) -> None:
        waiting = self.lane.undecided
        assert waiting is not None
        if decision is Decision.BISECT and waiting.records == 1:
            decision = Decision.SKIP
        self.lane.decide(decision, self.now)
        for gone in self.lane.take_discards():
            assert gone.condition in (Condition.SKIPPED, Condition.RETRY_ATTEMPTS_EXHAUSTED)
            assert gone.attempts >= 1
            self.skipped += range(gone.first_offset, gone.first_offset + gone.records)


@given(
    st.integers(1, 40),
    st.integers(1, 10),
    st.sets(st.integers(0, 39), max_size=6),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
    st.data(),
)
def test_whatever_is_decided_every_record_has_one_disposition_in_order(
    records: int, batch_size: int, poison: set[int], retries: int | None, bisect: bool, data: st.DataObject
) -> None:
    story = Story(records, batch_size, poison, retries, bisect=bisect)
    lane, patience = story.lane, 300
    while not lane.finished:
        patience -= 1
        if lane.undecided is not None:
            whims = list(Decision) if patience > 0 else [Decision.BISECT]  # which ends, one record at a time
            story.decide(data.draw(st.sampled_from(whims)))
        elif story.staged:
            story.run_one(reports=data.draw(st.booleans()))
        else:
            wake = lane.wake_at(story.now)
            assert wake is not None
            story.now = max(story.now, wake)
            story.stage(data.draw(st.integers(1, 5)))
            assert story.staged, "it was due, and did not go"
    assert sorted(story.succeeded + story.skipped) == list(range(records))
    assert not set(story.succeeded) & poison
    assert lane.watermark == records
