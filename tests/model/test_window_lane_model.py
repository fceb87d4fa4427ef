"""The lane with windows against a model that keeps every record by itself and works through them one after the other.

The model knows nothing of batches, chunks or the lane: it is asked whether what was handed over is right, and what the
window is that is to be committed.  Restarts throw the lane away and make a new one of what was committed last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamfn.core.backoff import Backoff
from streamfn.core.batcher import BatchRules, Chunk
from streamfn.core.tumbling import CLOSE_DELAY_MS, FOREVER, WindowLane
from streamfn.core.verdict import FailurePolicy
from streamfn.limits import WINDOW_STATE_BYTES_MAX
from streamfn.types import Envelope, Fault, Run, Window

FAULT = Fault("E", "", b"{}")
LENGTH_MS = 100
DELAYED = CLOSE_DELAY_MS
BIG = b"{" + b" " * WINDOW_STATE_BYTES_MAX + b"}"
BATCH = 3


@dataclass
class Model:
    """One shard.  `state` counts the records that the handler has seen and kept, as JSON would."""

    retries: int | None
    arrivals: list[int | None] = field(default_factory=list)  # None: nothing lies at this offset
    done: int = 0
    window: tuple[int, int] | None = None
    closed: int = 0  # where the last closed window ended
    last: Window | None = None  # the last closed window
    state: bytes = b"{}"
    known_ms: int = -1  # everything that had arrived by then is in `arrivals`
    known_at: int = 0  # how many there were then
    end: int | None = None
    end_ms: int = -1
    sealed_at: int | None = None  # the offset where the open window was seen to end
    attempts: int = 0  # failed deliveries of what is next
    touched: bool = False  # something of the open window has a disposition
    counted: list[int] = field(default_factory=list)  # records that a closed window, or an early call, has told of
    pending: list[int] = field(default_factory=list)  # those the present state tells of

    def next_record(self) -> int | None:
        limit = len(self.arrivals) if self.end is None else min(self.end, len(self.arrivals))
        return next((at for at in range(self.done, limit) if self.arrivals[at] is not None), None)

    def bounds(self, arrival: int) -> tuple[int, int]:
        at = max(arrival, self.closed)
        start = at // LENGTH_MS * LENGTH_MS
        return max(start, self.closed), start + LENGTH_MS

    def look(self) -> None:
        """See whether the open window has ended, with what was known when it first could be seen."""
        if self.window is None or self.sealed_at is not None:
            return
        at = self.done
        limit = len(self.arrivals) if self.end is None else min(self.end, len(self.arrivals))
        while at < limit:
            arrival = self.arrivals[at]
            if arrival is not None and arrival >= self.window[1]:
                break
            at += 1
        known = self.known_ms
        if self.end is not None and len(self.arrivals) >= self.end:
            known = max(known, self.end_ms)
        if at < limit or known >= self.window[1] + DELAYED:
            self.sealed_at = at

    def open_if_needed(self) -> None:
        """The window of the next record opens when nothing else is open."""
        record = self.next_record()
        if self.window is None and record is not None:
            arrival = self.arrivals[record]
            assert arrival is not None
            self.window, self.state, self.pending = self.bounds(arrival), b"{}", []
            self.sealed_at = None
        self.look()

    def expected(self) -> str | None:
        """What kind of invocation is next: batch, early or final; None if none may go."""
        self.open_if_needed()
        if self.window is None:
            return None
        if len(self.state) > WINDOW_STATE_BYTES_MAX:
            return "early"
        record = self.next_record()
        if self.sealed_at is not None and (record is None or record >= self.sealed_at):
            return "final" if not self.gap_in_front() else "final or gap"
        return "batch" if record is not None else None

    def gap_in_front(self) -> bool:
        return self.done < len(self.arrivals) and self.arrivals[self.done] is None

    def close(self) -> None:
        assert self.window is not None
        self.counted += self.pending
        self.closed, self.last = self.window[1], Window(*self.window, None)
        self.window, self.sealed_at, self.attempts = None, None, 0

    def committed(self) -> Window | None:
        if self.window is not None and self.touched:
            return Window(*self.window, self.state)
        return self.last


STEPS = st.one_of(
    st.tuples(st.just("append"), st.lists(st.integers(0, 450), min_size=1, max_size=5)),
    st.tuples(st.just("append"), st.lists(st.integers(0, 450), min_size=1, max_size=5).map(sorted)),
    st.tuples(st.just("succeed"), st.integers(0, 3)),
    st.tuples(st.just("succeed"), st.just(1)),
    st.tuples(st.just("succeed"), st.just(2)),
    st.tuples(st.just("succeed big"), st.none()),
    st.tuples(st.just("fail"), st.none()),
    st.tuples(st.just("return"), st.none()),
    st.tuples(st.just("clock"), st.integers(1, 300)),
    st.tuples(st.just("read"), st.none()),
    st.tuples(st.just("gap"), st.integers(1, 3)),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("end"), st.sampled_from([-1, FOREVER])),
)


class Rig:
    """A lane and its model, which live through the same."""

    def __init__(self, retries: int | None) -> None:
        self.model = Model(retries)
        self.policy = FailurePolicy(Backoff(0, 1, 0), maximum_retry_attempts=retries)
        self.now = 0
        self.clock_ms = 0
        self.committed: tuple[int, Window | None] = (0, None)
        self.gap_met = False  # the lane knows of the gap that it stands before
        self.borders: set[int] = set()  # where a batch ended that came back, or the done part of one
        self.size = 0  # of the batch that was handed over last
        self.lane = self.make()

    def make(self) -> WindowLane:
        offset, window = self.committed
        rules = BatchRules(BATCH, 0, event_bytes_max=100, frame_bytes=1)
        return WindowLane(rules, self.policy, offset, self.now, lambda: 0.5, length_ms=LENGTH_MS, window=window)

    def feed(self) -> None:
        """Offer what the lane has not been offered; a gap stands in the way until everything before it is done."""
        model, lane = self.model, self.lane
        while lane.next_offset < len(model.arrivals):
            at = lane.next_offset
            run = []
            for arrival in model.arrivals[at:]:
                if arrival is None:
                    break
                run.append(arrival)
            if run:
                lane.offer(Chunk(at, list(accumulate([1] * len(run), initial=0)), run))
            if lane.next_offset < len(model.arrivals):
                if not self.gap_met:
                    self.gap_met = True
                    lane.meet_gap()
                if not lane.at_gap:
                    return
                end = lane.next_offset
                while end < len(model.arrivals) and model.arrivals[end] is None:
                    end += 1
                lane.skip_gap(end, self.now)
                self.gap_met = False
                model.done = end
                self.commit()

    def commit(self) -> None:
        assert self.lane.watermark == self.model.done
        self.committed = (self.lane.watermark, self.lane.window)

    def invoke(self, outcome: str, kept: int) -> None:
        """Take what may go, compare it with what the model says, and answer it."""
        model, lane = self.model, self.lane
        self.feed()
        kind = model.expected()
        wake = lane.wake_at(self.now)
        runs = lane.take(self.now, 7)
        if kind is None:
            assert runs == []
            return
        assert wake == self.now
        assert len(runs) == 1
        assert lane.take(self.now, 7) == []
        (run,) = runs
        assert model.window is not None
        first = model.next_record()
        assert run.attempt == model.attempts + 1
        assert run.batches == 1
        envelope = Envelope(*model.window, model.state, kind.startswith("final"), kind == "early")
        assert lane.envelope == envelope
        if kind == "batch":
            assert run.first_offset == first
            self.answer_batch(run, outcome, kept)
        else:
            assert run.records == 0
            self.answer_call(kind, outcome)
        self.commit()

    def answer_batch(self, run: Run, outcome: str, kept: int) -> None:
        model, lane = self.model, self.lane
        records = range(run.first_offset, run.first_offset + run.records)
        limit = model.sealed_at if model.sealed_at is not None else len(model.arrivals)
        assert model.window is not None
        for record in records:  # no gap, no later window
            arrival = model.arrivals[record]
            assert arrival is not None
            assert record < limit
            assert arrival < model.window[1]
        if model.attempts:  # a retry is the same batch
            assert run.records == self.size
        elif run.records < BATCH:  # not cut short but by what follows
            after = run.first_offset + run.records
            assert after == limit or model.arrivals[after] is None or after in self.borders
        self.size = run.records
        if outcome == "return":
            self.borders.add(run.first_offset + run.records)
            lane.returned(1)
        elif outcome == "fail":
            lane.failed(self.now, FAULT)
            model.attempts += 1
            if model.retries is not None and model.attempts > model.retries:
                model.done, model.attempts, model.touched = run.first_offset + run.records, 0, True
                (discard,) = lane.take_discards()
                assert discard[:2] == (run.first_offset, run.records)
        else:
            kept = min(kept, run.records)
            state = BIG if outcome == "big" else b"%d" % (len(model.pending) + kept)
            if kept == run.records:
                lane.succeeded(1, self.now, state=state)
            elif kept == 0:
                lane.partly(0, self.now, FAULT, state=state)
                self.answer_failed_whole(run)
                return
            else:
                self.borders.add(run.first_offset + run.records)
                lane.partly(kept, self.now, FAULT, state=state)
            model.pending += list(records[:kept])
            model.state, model.attempts, model.touched = state, 0, True
            model.done = run.first_offset + kept

    def answer_failed_whole(self, run: Run) -> None:
        model = self.model
        model.attempts += 1
        if model.retries is not None and model.attempts > model.retries:
            model.done, model.attempts, model.touched = run.first_offset + run.records, 0, True
            assert [discard.records for discard in self.lane.take_discards()] == [run.records]

    def answer_call(self, kind: str, outcome: str) -> None:
        model, lane = self.model, self.lane
        if outcome == "return":
            lane.returned(1)
            return
        if outcome == "fail":
            lane.failed(self.now, FAULT)
            model.attempts += 1
            if model.retries is None or model.attempts <= model.retries:
                return
            assert [discard.records for discard in lane.take_discards()] == [0]
        else:
            lane.succeeded(1, self.now, state=b"unheeded")
        if kind == "early":
            model.counted += model.pending
            model.pending, model.state, model.attempts = [], b"{}", 0
        else:
            model.close()
            model.touched = False

    def restart(self) -> None:
        self.lane = self.make()
        self.gap_met = False
        model = self.model
        model.attempts = 0
        model.known_ms, model.sealed_at = -1, None
        self.borders = set()
        if not model.touched and model.window is not None:  # nothing of it is committed: it opens anew
            model.window = None
        if model.end is not None:
            self.lane.finish_at(model.end, model.end_ms)


@settings(max_examples=300, deadline=None)
@example(None, [("append", [1]), ("succeed", 1), ("gap", 1), ("append", [450]), ("succeed", 1), ("succeed", 1)])
@example(
    None,
    [("append", [1]), ("succeed", 1), ("clock", 150), ("read", None), ("succeed", 1), ("append", [5]), ("succeed", 1)],
)
@given(st.sampled_from([None, 0, 2]), st.lists(STEPS, max_size=40))
def test_the_lane_with_windows_does_what_a_record_by_record_model_does(
    retries: int | None, steps: list[tuple[str, object]]
) -> None:
    rig = Rig(retries)
    model = rig.model
    for step, value in steps:
        rig.now += 1
        lane = rig.lane
        match step, value:
            case "append", list(arrivals):
                if model.end is None:
                    model.arrivals += arrivals
                    rig.feed()
            case "gap", int(offsets):
                if model.end is None:
                    model.arrivals += [None] * offsets
                    rig.feed()
            case "succeed", int(kept):
                rig.invoke("ok", kept)
            case "succeed big", _:
                rig.invoke("big", BATCH)
            case "fail", _:
                rig.invoke("fail", 0)
            case "return", _:
                rig.invoke("return", 0)
            case "clock", int(passed):
                rig.clock_ms += passed
            case "read", _:
                rig.feed()
                if lane.next_offset == len(model.arrivals):
                    model.open_if_needed()
                    model.known_ms = rig.clock_ms + DELAYED
                    lane.read_up_to(model.known_ms, rig.now)
                    model.look()
            case "restart", _:
                rig.restart()
                rig.feed()
            case "end", int(complete_ms):
                if model.end is None:
                    model.open_if_needed()
                    model.end, model.end_ms = len(model.arrivals), complete_ms
                    lane.finish_at(model.end, complete_ms)
        model.open_if_needed()
        assert rig.lane.watermark == model.done
        assert rig.lane.window == model.committed()
    finish(rig)


def finish(rig: Rig) -> None:
    """Left alone, with everything going well, the shard comes to its end, and no record is told of twice."""
    model = rig.model
    if model.end is None:
        model.end = len(model.arrivals)
    model.end_ms = FOREVER
    rig.lane.finish_at(model.end, FOREVER)
    for _ in range(200):
        rig.now += 1
        rig.invoke("ok", BATCH)
        if rig.lane.finished:
            break
    assert rig.lane.finished
    assert rig.lane.wake_at(rig.now) is None
    assert rig.lane.watermark == model.end
    assert model.window is None
    assert len(model.counted) == len(set(model.counted))
