"""Everything at once: processes that put, others that reshard, a mapping that is killed again and again."""

import json
import random
import subprocess
import threading
import time

from run_rig import Place
from witness import invocations

from streamfn.log.shard.cursor import ShardCursor
from streamfn.log.shard.reader import horizon


class Putters:
    """`streamfn put` processes, one for each key, that put numbered lines as long as the block lasts."""

    def __init__(self, place, keys):
        self.counts = dict.fromkeys(keys, 0)
        self._stop = threading.Event()
        self._processes = {
            key: subprocess.Popen(
                place.command("put", "s", "--partition-key", key), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            )
            for key in keys
        }
        self._thread = threading.Thread(target=self._put)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._stop.set()
        self._thread.join()
        for process in self._processes.values():
            process.stdin.close()
        assert [process.wait(30) for process in self._processes.values()] == [0] * len(self._processes)

    def _put(self):
        while not self._stop.wait(0.01):
            for key, process in self._processes.items():
                process.stdin.write(b"%s %d\n" % (key.encode(), self.counts[key]))
                process.stdin.flush()
                self.counts[key] += 1


class Resharder:
    """`update-shard-count` again and again, to a number of shards that Kinesis would allow."""

    def __init__(self, place, chance):
        self.done = 0
        self.refused = []
        self._place, self._chance = place, chance
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._reshard)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._stop.set()
        self._thread.join()

    def _reshard(self):
        while not self._stop.wait(self._chance.uniform(0.2, 0.8)):
            count = len(self._place.opened().open_shards)
            target = self._chance.choice([n for n in range((count + 1) // 2, min(5, 2 * count) + 1) if n != count])
            command = self._place.command("update-shard-count", "s", "--target-shard-count", target)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                self.refused.append(done.stderr)
            self.done += 1


def test_putting_resharding_and_dying_lose_nothing_and_keep_the_order_of_every_key(tmp_path, soak):
    place, chance = Place(tmp_path), random.Random(20_261_125)
    place.stream(shards=2)
    killed = 0
    until = time.monotonic() + (120 if soak else 7)
    with Putters(place, [f"key-{number}" for number in range(4)]) as putters, Resharder(place, chance) as resharder:
        while time.monotonic() < until:
            with place.following("seen.slow", "--batch-size", "20") as process:
                time.sleep(chance.uniform(1, 2.5))
                assert process.popen.poll() is None, process.err
            killed += 1
    assert resharder.refused == []
    assert resharder.done >= 3
    done = place.caught_up("seen.handler", "--name", "seen.slow@s")
    assert done.code == 0, done.err

    stored = {}
    for shard in place.opened().shards:
        with ShardCursor(shard, horizon(shard), None) as cursor:
            stored.update(((shard.id, record.sequence_number), record.data.decode().split()) for record in cursor)
    wanted = [[key, str(number)] for key, count in putters.counts.items() for number in range(count)]
    assert sorted(stored.values()) == sorted(wanted), "each line is there once"

    seen, latest = set(), dict.fromkeys(putters.counts, -1)
    for shard, _, numbers in invocations(place.seen):
        for number in numbers:
            if (shard, number) not in seen:
                seen.add((shard, number))
                key, value = stored[shard, number]
                assert int(value) == latest[key] + 1, f"{key} {value} after {latest[key]}"
                latest[key] += 1
    assert seen == set(stored)
    print(json.dumps({"records": len(stored), "reshards": resharder.done, "kills": killed}))
