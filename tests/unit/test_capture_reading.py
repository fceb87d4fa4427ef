"""The reading of one shard, step by step: where iterators stand, what ends it, how it waits."""

import pytest

from streamfn.capture import pace
from streamfn.capture.reading import AskIterator, Beginning, End, Loss, Read, ShardReading, Stored, Until, Wait, Why
from streamfn.capture.source import Answer, Position, SourceShard, Trouble, TroubleKind
from streamfn.types import NewRecord

S = 1_000_000_000
DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000


def reading(beginning="TRIM_HORIZON", *, at_ms=None, shard=None, limits=pace.KINESIS, **options):
    return ShardReading(
        shard or SourceShard("shardId-000000000000"), limits, lambda: 1.0,
        beginning=Beginning(beginning, at_ms), retention_ms=DAY_MS, **options,
    )  # fmt: skip


def answer(*numbers, next_iterator="next", behind_ms=0, size=0, at_ms=NOW_MS, children=()):
    records = [NewRecord(b"x", "k", at_ms, str(number)) for number in numbers]
    return Answer(records, next_iterator, children, behind_ms, size, NOW_MS)


def numbers(records):
    return [int(record.sequence_number) for record in records]


def begin(machine, now_ns=0):
    """Ask for the first iterator; returns its position and when the first read is due."""
    action = machine.next(now_ns, NOW_MS)
    assert isinstance(action, AskIterator)
    machine.got_iterator("first")
    wait = machine.next(now_ns, NOW_MS)
    assert isinstance(wait, Wait)
    return action.position, wait.until_ns


def read(machine, now_ns, given):
    """Read once, at a time when that is due."""
    assert isinstance(machine.next(now_ns, NOW_MS), Read)
    return machine.answered(given, now_ns)


def trouble(kind):
    return Trouble(kind, kind.value, "it is said so")


@pytest.mark.parametrize(
    ("machine", "position"),
    [
        (reading(), Position("TRIM_HORIZON")),
        (reading("LATEST", at_ms=NOW_MS), Position("LATEST", at_ms=NOW_MS)),
        (reading("AT_TIMESTAMP", at_ms=5), Position("AT_TIMESTAMP", at_ms=5)),
        (reading(stored=Stored("7", NOW_MS - 1)), Position("AFTER_SEQUENCE_NUMBER", "7")),
        (reading(stored=Stored("7", NOW_MS - DAY_MS)), Position("AT_SEQUENCE_NUMBER", "7")),
    ],
    ids=["from the horizon", "from the end", "from a time", "behind a record", "at a record that may be trimmed"],
)
def test_the_first_iterator_stands_where_the_log_and_the_beginning_say(machine, position):
    assert begin(machine)[0] == position


def test_latest_that_was_begun_earlier_goes_on_from_the_moment_it_was_latest():
    machine = reading("LATEST", at_ms=NOW_MS - 1000, seen_until_ms=NOW_MS - 1000)
    assert begin(machine)[0] == Position("AT_TIMESTAMP", at_ms=NOW_MS - 1000)


def test_an_expired_iterator_is_replaced_behind_the_last_record_without_delay():
    machine = reading()
    _, due = begin(machine)
    assert numbers(read(machine, due, answer(1, 2))) == [1, 2]
    assert machine.next(due + S, NOW_MS) == Read("next")
    machine.troubled(trouble(TroubleKind.EXPIRED), due + S)
    assert machine.next(due + S + S // 4, NOW_MS) == AskIterator(Position("AFTER_SEQUENCE_NUMBER", "2"))


def test_an_iterator_past_its_life_is_not_even_tried():
    machine = reading()
    _, due = begin(machine)
    read(machine, due, answer(1))
    late = due + pace.KINESIS.iterator_life_ns
    assert isinstance(machine.next(late - 1, NOW_MS), Read)
    machine.troubled(trouble(TroubleKind.TRANSIENT), late - 1)
    assert isinstance(machine.next(late + S, NOW_MS), AskIterator)


def test_calls_are_a_quarter_of_a_second_apart_while_behind_and_a_second_once_caught_up():
    machine = reading()
    _, due = begin(machine)
    assert due == S // 4
    read(machine, due, answer(1, behind_ms=500))
    assert machine.next(due, NOW_MS) == Wait(due + S // 4)
    read(machine, due + S // 4, answer(2, behind_ms=0))
    assert machine.next(due + S // 4, NOW_MS) == Wait(due + S // 4 + S)


def test_a_large_answer_is_followed_by_as_long_a_pause_as_it_takes_to_earn_it():
    machine = reading()
    _, due = begin(machine)
    read(machine, due, answer(1, behind_ms=500, size=10 * 1024 * 1024))
    wait = machine.next(due, NOW_MS)
    assert 5 * S < wait.until_ns - due < 5.5 * S


def test_throttling_is_waited_out_longer_and_longer_with_jitter_and_forgotten_after_an_answer():
    draws = iter([1.0, 1.0, 0.5, 1.0])
    machine = ShardReading(
        SourceShard("s"), pace.KINESIS, lambda: next(draws), beginning=Beginning("TRIM_HORIZON"), retention_ms=DAY_MS
    )
    _, now = begin(machine)
    waited = []
    for _ in range(3):
        assert isinstance(machine.next(now, NOW_MS), Read)
        machine.troubled(trouble(TroubleKind.THROTTLED), now)
        waited.append((machine.next(now, NOW_MS).until_ns - now) / S)
        now += int(waited[-1] * S)
    assert waited == [1, 2, 2]
    assert machine.failures == 3
    read(machine, now, answer(1, behind_ms=1))
    assert machine.failures == 0
    assert machine.trouble is None


def test_an_empty_answer_is_not_the_end_a_null_iterator_is_and_names_the_children():
    child = SourceShard("shardId-000000000001", ("shardId-000000000000",))
    machine = reading()
    _, due = begin(machine)
    for second in range(20):
        read(machine, due + second * S, answer())
        assert machine.end is None
    assert numbers(read(machine, due + 20 * S, answer(9, next_iterator=None, children=(child,)))) == [9]
    assert machine.next(due + 30 * S, NOW_MS) == End(Why.SHARD_END, (child,))


def test_a_source_that_never_says_null_ends_a_closed_shard_by_its_ending_number_or_by_empty_answers():
    machine = reading(limits=pace.DYNAMODB)
    _, due = begin(machine)
    machine.upstream_closed("12")
    read(machine, due, answer(3, behind_ms=None))
    for second in range(1, 20):
        read(machine, due + second * S, answer(behind_ms=None))
        assert machine.end is None, "empty answers alone say nothing where nobody says how far behind they are"
    read(machine, due + 20 * S, answer(12, behind_ms=None))
    assert machine.end == End(Why.SHARD_END)

    machine = reading()
    _, due = begin(machine)
    machine.upstream_closed("12")
    for second in range(pace.KINESIS.empty_answers):
        assert machine.end is None
        read(machine, due + second * S, answer())
    assert machine.end == End(Why.SHARD_END)


def test_until_now_ends_when_everything_has_been_read_and_before_a_younger_record():
    machine = reading(until=Until(NOW_MS, NOW_MS))
    _, due = begin(machine)
    read(machine, due, answer(1, behind_ms=5))
    assert machine.end is None
    read(machine, due + S, answer(2))
    assert machine.end == End(Why.UNTIL)

    machine = reading(until=Until(NOW_MS, NOW_MS))
    _, due = begin(machine)
    late = Answer(
        [NewRecord(b"", "k", NOW_MS, "1"), NewRecord(b"", "k", NOW_MS + 1, "2"), NewRecord(b"", "k", NOW_MS, "3")],
        None, (), 0, 0, NOW_MS,
    )  # fmt: skip
    assert numbers(read(machine, due, late)) == [1]
    assert machine.end == End(Why.UNTIL), "what was cut off is still to be read: that was not the shard's end"
    assert machine.stored.sequence_number == "1"


def test_until_a_time_to_come_is_not_reached_by_being_caught_up():
    machine = reading(until=Until(NOW_MS + 1000, NOW_MS + 1000))
    _, due = begin(machine)
    read(machine, due, answer(1))
    assert machine.end is None
    read(machine, due + S, answer()._replace(server_ms=NOW_MS + 1000))
    assert machine.end == End(Why.UNTIL)


def test_where_the_source_does_not_say_how_far_behind_we_are_several_empty_answers_count_as_caught_up():
    machine = reading(limits=pace.DYNAMODB, until=Until(NOW_MS, NOW_MS))
    _, due = begin(machine)
    for call in range(pace.DYNAMODB.empty_answers - 1):
        read(machine, due + call * S, answer(behind_ms=None))
    read(machine, due + 10 * S, answer(1, behind_ms=None))
    for call in range(pace.DYNAMODB.empty_answers):
        assert machine.end is None
        read(machine, due + (11 + call) * S, answer(behind_ms=None))
    assert machine.end == End(Why.UNTIL)


def test_a_last_record_that_is_still_there_proves_that_nothing_is_missing():
    machine = reading(stored=Stored("7", NOW_MS - 2 * DAY_MS))
    _, due = begin(machine)
    assert numbers(read(machine, due, answer(7, 8))) == [8]
    assert machine.losses == []


@pytest.mark.parametrize(
    ("answers", "loss"),
    [
        ([answer(9)], Loss("7", "9")),
        ([answer(behind_ms=10), answer(9)], Loss("7", "9")),
        ([answer()], Loss("7", None)),
        ([answer(next_iterator=None, behind_ms=3)], Loss("7", None)),
    ],
    ids=["another record comes first", "after an empty answer", "nothing is left", "the shard is over"],
)
def test_a_last_record_that_was_trimmed_away_is_reported_as_a_loss_once(answers, loss):
    machine = reading(stored=Stored("7", NOW_MS - 2 * DAY_MS))
    _, due = begin(machine)
    for second, given in enumerate(answers):
        read(machine, due + second * S, given)
    assert machine.losses == [loss]
    if machine.end is None:
        read(machine, due + 60 * S, answer(20))
    assert machine.losses == [loss]


def test_a_refusal_because_of_trimming_leads_to_the_oldest_record_and_is_a_loss():
    machine = reading(limits=pace.DYNAMODB, stored=Stored("7", NOW_MS - DAY_MS // 2))
    assert machine.next(0, NOW_MS) == AskIterator(Position("AFTER_SEQUENCE_NUMBER", "7"))
    machine.troubled(trouble(TroubleKind.TRIMMED), 0)
    assert machine.next(S, NOW_MS) == AskIterator(Position("TRIM_HORIZON"))
    machine.got_iterator("oldest")
    assert numbers(read(machine, 2 * S, answer(9, behind_ms=None))) == [9]
    assert machine.losses == [Loss("7", "9")]


def test_a_shard_that_is_gone_loses_what_followed_its_last_record():
    machine = reading(stored=Stored("7", NOW_MS))
    machine.gone()
    assert machine.losses == [Loss("7", None)]
    assert machine.next(0, NOW_MS) == End(Why.GONE)


def test_records_before_a_beginning_by_time_are_left_out_only_until_the_first_one_that_is_wanted():
    machine = reading("AT_TIMESTAMP", at_ms=NOW_MS)
    _, due = begin(machine)
    times = [NOW_MS - 2, NOW_MS - 1, NOW_MS, NOW_MS - 1, NOW_MS + 1]
    given = Answer([NewRecord(b"", "k", at, str(n)) for n, at in enumerate(times, 1)], "n", (), 0, 0, NOW_MS)
    assert numbers(read(machine, due, given)) == [3, 4, 5]


def test_sequence_numbers_are_compared_as_numbers_of_any_length():
    machine = reading(stored=Stored("9" * 20, NOW_MS))
    _, due = begin(machine)
    assert numbers(read(machine, due, answer(10**20, 10**21))) == [10**20, 10**21]


def test_sequence_numbers_that_do_not_rise_are_refused_rather_than_dropped():
    machine = reading()
    _, due = begin(machine)
    assert isinstance(machine.next(due, NOW_MS), Read)
    with pytest.raises(Trouble, match="sequence number 4 came after 5") as caught:
        machine.answered(answer(5, 4), due)
    assert caught.value.kind is TroubleKind.FATAL
