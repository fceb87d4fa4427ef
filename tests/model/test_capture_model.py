"""The reading of a shard against a live stream that is strict about limits, with faults, kills, pauses and trimming.

Invariants checked:
    every record is stored once, in the order of the shard, or lies in a loss that was reported
    a loss is reported only where something may have been trimmed
    never more than 5 calls of a kind in a second, never more bytes than the shard gives, never an old iterator:
    no refusal but those that were planted
    what is there is read: a closed shard ends within bounded virtual time
"""

from __future__ import annotations

import random
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
from live_stream import LiveStream, Refusal

from streamfn.capture import pace
from streamfn.capture.reading import AskIterator, Beginning, End, Read, ShardReading, Stored, Wait, Why
from streamfn.capture.source import Answer, SourceShard, Trouble, TroubleKind
from streamfn.types import NewRecord

KINDS = {
    "ProvisionedThroughputExceededException": TroubleKind.THROTTLED,
    "LimitExceededException": TroubleKind.THROTTLED,
    "InternalFailure": TroubleKind.TRANSIENT,
    "ExpiredIteratorException": TroubleKind.EXPIRED,
    "TrimmedDataAccessException": TroubleKind.TRIMMED,
}
PLANTED = ("ProvisionedThroughputExceededException", "InternalFailure", "ExpiredIteratorException")
DAY_S = 86_400


class Capture:
    """A machine, the stream it reads, and a virtual clock that both live by."""

    def __init__(self, kind, seed):
        self.now_s = 1_700_000_000.0
        self.live = LiveStream(lambda: self.now_s, kind=kind)
        [self.shard_id] = self.live.shards
        self.draw = random.Random(seed).random
        self.stored: list[NewRecord] = []
        self.losses = []
        self.refused: list[str] = []
        self.started_ms = int(self.now_s * 1000)
        self.begun = False
        self.start()

    def start(self):
        last = self.stored[-1] if self.stored else None
        self.machine = ShardReading(
            SourceShard(self.shard_id),
            pace.KINESIS if self.live.kind == "kinesis" else pace.DYNAMODB,
            self.draw,
            beginning=Beginning("TRIM_HORIZON"),
            retention_ms=DAY_S * 1000,
            stored=Stored(last.sequence_number, last.arrival_ms) if last else None,
            seen_until_ms=self.started_ms if self.begun and not last else None,
        )
        self.begun = True
        self.started_s = self.now_s

    def kill(self, kept, rng_records):
        """kill -9 while the last answer was being stored: a prefix of it is durable."""
        del self.stored[len(self.stored) - min(kept, rng_records) :]
        self.start()

    def run(self, seconds):
        """Let the machine work for so long; returns how many records the last answer had."""
        end_s, last = self.now_s + seconds, 0
        while self.now_s < end_s:
            now_ns = int(self.now_s * 1e9)
            match self.machine.next(now_ns, int(self.now_s * 1000)):
                case End():
                    break
                case Wait(until_ns):
                    assert until_ns > now_ns
                    self.now_s = min(end_s, until_ns / 1e9 + 1e-6)
                case AskIterator(position):
                    self.call(partial(self.iterator, position), self.machine.got_iterator)
                case Read(iterator):
                    last = self.call(partial(self.answer, iterator), self.take) or last
            self.losses += self.machine.losses
            self.machine.losses.clear()
        self.now_s = max(self.now_s, end_s) if self.machine.end is None else self.now_s
        return last

    def call(self, ask, tell):
        self.now_s += 0.01  # the way there
        planted = bool(self.live.faults)
        try:
            answer = ask()
        except Refusal as refusal:
            # What a process before this one has asked for, this one cannot know.
            if not planted and self.now_s > self.started_s + 6:
                self.refused.append(refusal.code)
            self.machine.troubled(Trouble(KINDS[refusal.code], refusal.code, ""), int(self.now_s * 1e9))
            return None
        self.now_s += 0.01  # and back
        return tell(answer)

    def iterator(self, position):
        number = position.sequence_number
        return self.live.iterator(self.shard_id, position.type, int(number) if number else None, position.at_ms)

    def answer(self, iterator):
        _, page, token, behind = self.live.records(iterator)
        records = [NewRecord(r["data"], r["key"], r["at_ms"], str(r["seq"])) for r in page]
        behind_ms = behind if self.live.kind == "kinesis" else None
        return Answer(records, token, (), behind_ms, sum(r["size"] for r in page), int(self.now_s * 1000))

    def take(self, answer):
        taken = self.machine.answered(answer, int(self.now_s * 1e9))
        self.stored += taken
        return len(taken)


def lies_in(number, loss):
    return (loss.after is None or number > int(loss.after)) and (loss.before is None or number < int(loss.before))


DEEDS = st.one_of(
    st.tuples(st.just("run"), st.sampled_from([0.3, 1, 3, 30, 700])),
    st.tuples(st.just("fault"), st.sampled_from(PLANTED)),
    st.tuples(st.just("empty"), st.integers(1, 4)),
    st.tuples(st.just("page"), st.sampled_from([1, 3, None])),
    st.tuples(st.just("kill"), st.integers(0, 40)),
    st.tuples(st.just("frozen"), st.sampled_from([250, 310, 910])),
    st.tuples(st.just("stopped"), st.sampled_from([1, 400, 2000, DAY_S - 10, DAY_S + 10])),
)
# Between two deeds there is always something to read, and time to read some of it.
STEPS = st.lists(st.tuples(st.integers(0, 40), st.sampled_from([1, 1000, 700_000]), DEEDS), min_size=5, max_size=15)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["kinesis", "dynamodb"]), STEPS, st.integers(0, 2**32))
def test_every_record_is_stored_once_in_order_or_reported_lost_and_no_limit_is_broken(kind, steps, seed):
    capture = Capture(kind, seed)
    live, shard_id = capture.live, capture.shard_id
    last = 0
    for count, size, deed in steps:
        live.put(shard_id, *[bytes(size)] * count)
        last = capture.run(0.6) or last
        match deed:
            case ("run", seconds):
                last = capture.run(seconds) or last
            case ("page", count):
                live.page_records = count
            case ("fault", code):
                live.faults.append(("*", code))
            case ("empty", count):
                live.empty_answers = count
            case ("kill", kept):
                capture.kill(kept, last)
                last = 0
            case ("stopped", seconds):
                capture.now_s += seconds
                horizon_ms = (capture.now_s - DAY_S) * 1000
                old = sum(record["at_ms"] <= horizon_ms for record in live.shards[shard_id].records)
                live.shards[shard_id].horizon = max(live.shards[shard_id].horizon, old)
                capture.start()
    live.close(shard_id)
    capture.run(3600)
    assert capture.machine.end is not None, "it never ended"
    assert capture.machine.end.why is Why.SHARD_END
    numbers = [int(record.sequence_number) for record in capture.stored]
    assert numbers == sorted(set(numbers))
    missing = {int(number) for number in live.numbers(shard_id)} - set(numbers)
    unexplained = [number for number in missing if not any(lies_in(number, loss) for loss in capture.losses)]
    assert not unexplained
    allowed = {"TrimmedDataAccessException"} if kind == "dynamodb" else set()
    assert set(capture.refused) <= allowed
    for loss in capture.losses:
        last_known = live.shards[shard_id].index_of(int(loss.after)) if loss.after else -1
        assert last_known < live.shards[shard_id].horizon, "a loss where the record before it is still there"
