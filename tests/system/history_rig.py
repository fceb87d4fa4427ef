"""A mapping's history out of the workers' own file, the state database and the log, for the checker to judge."""

import json
import sqlite3
from contextlib import closing

from streamfn.log.shard.cursor import ShardCursor
from streamfn.testing.checker import Committed, Discard, Ended, Owned, Seen, check
from streamfn.testing.checker.rules import Facts


class History:
    """Collected while runs are killed. `look` may be called at any time, `died` when every process of a run is gone."""

    def __init__(self, place, mapping):
        """`mapping` is the mapping's name. The stream's records do not change from here on."""
        self._place = place
        self._mapping = mapping
        self._events = []
        self._read = 0
        self._epoch = 0  # the newest that is known of
        self._before = 0  # that of the run that died last
        self._run = None
        self._live = set()
        self._rows = set()
        self._at = {}
        self.offsets, self.keys, self.contents, self.ends = {}, {}, {}, {}
        for shard in place.opened().shards:
            self.ends[shard.id] = 0
            with ShardCursor(shard, 0, None) as cursor:
                for record in cursor:
                    self.offsets[shard.id, record.sequence_number] = record.offset
                    self.keys[shard.id, record.offset] = record.partition_key
                    self.contents[shard.id, record.offset] = record.data
                    self.ends[shard.id] = record.offset + 1

    # ---- the witnesses

    def look(self):
        """Take down which checkpoints and discards are durable now, behind everything that workers have written.

        What a commit rests on was written before it, so it is in the file by now; and nothing that was done when it was
        made may begin after it.
        """
        if not (self._place.data / "state.db").exists():
            return
        uri = f"file:{self._place.data / 'state.db'}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            connection.execute("BEGIN")  # both as of one moment
            found = connection.execute("SELECT uuid, epoch FROM mappings WHERE name = ?", (self._mapping,)).fetchone()
            if found is None:
                return
            uuid, epoch = found
            points = connection.execute(
                "SELECT shard_id, offset FROM checkpoints WHERE mapping = ?", (uuid,)
            ).fetchall()
            rows = connection.execute(
                "SELECT id, shard_id, first_offset, end_offset, offsets, reason, attempts FROM discards"
                " WHERE mapping = ? ORDER BY id",
                (uuid,),
            ).fetchall()
        self._hear()
        self._own(epoch)
        fresh = [row for row in rows if row[0] not in self._rows]
        self._rows.update(row[0] for row in fresh)
        for shard, offset in points:
            mine = tuple(_discard(row) for row in fresh if row[1] == shard)
            if mine or self._at.get(shard, 0) != offset:
                self._at[shard] = offset
                self._events.append(Committed(shard, epoch, offset, mine))

    def died(self):
        """Every process of the run is gone: what was running did not succeed."""
        self.look()
        self._before = self._epoch
        self._events += [Ended(invocation, ok=False) for invocation in sorted(self._live)]
        self._live.clear()

    def _hear(self):
        if not self._place.seen.exists():
            return
        with open(self._place.seen, "rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                self._told(json.loads(line))

    def _told(self, told):
        if told["run"] != self._run:
            self._run = told["run"]
            self._own(self._before + 1)  # each run takes the mapping over once, before anything is handed over
        if "seen" in told:
            shard = told["shard"]
            offsets = [self.offsets[shard, number] for number in told["numbers"]]
            self._live.add(told["seen"])
            self._events.append(Seen(shard, self._epoch, told["seen"], offsets))
        elif told["ended"] in self._live:
            self._live.discard(told["ended"])
            self._events.append(Ended(told["ended"], ok=told["ok"]))

    def _own(self, epoch):
        """A run that was killed before its first invocation has left no word of its own but its epoch."""
        if epoch > self._epoch:
            self._epoch = epoch
            self._events.append(Owned(epoch))

    # ---- the judgement

    def violations(self, rules):
        """What the checker says, the lanes being the partition keys."""
        facts = Facts(lane=lambda shard, offset: self.keys[shard, offset], keys=True)
        starts = dict.fromkeys(self.ends, 0)
        return check(self._events, starts=starts, ends=self.ends, rules=rules, facts=facts)


def _discard(row):
    _, _, first, end, packed, reason, attempts = row
    offsets = range(first, end)
    if packed is not None:
        offsets = [first + int.from_bytes(packed[at : at + 4], "little") for at in range(0, len(packed), 4)]
    return Discard(tuple(offsets), reason, attempts or 0)
