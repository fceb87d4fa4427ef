"""Whether the promise held while one system call failed: the log and the store against what was told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fault_script import MAPPING, SEGMENT_BYTES, STREAM, record

from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.reader import ShardReader, horizon, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.upkeep.verify import verify_shard
from streamfn.state.store import Store

Told = list[list[Any]]


def broken_promises(path: Path, told: Told, killed: bool) -> list[str]:
    """Return a line for everything that is not as it was promised to who was told `told`."""
    broken: list[str] = []
    shard = DataDir.open(path, create=True).stream(STREAM).shards[0]
    with ShardWriter.open(shard, wait_s=0, segment_bytes=SEGMENT_BYTES, threaded=False) as writer:
        found = contents(shard)
        appended = writer.append([record(1_000_000)])
        writer.commit()
    broken += _log(found, told)
    if contents(shard) != [*found, (appended.start, 1_000_000)]:
        broken.append("after recovery an append does not follow on what was there")
    broken += [f"verify: {finding}" for finding in verify_shard(shard).findings]
    broken += _checkpoints(path, shard.id, told, appended.start)
    if not killed:
        after = [what[0] for what in told[-12:]]
        if "end" not in after or "acknowledged" not in after:
            broken.append("the script did not get going again after the fault")
    return broken


def contents(shard: Any) -> list[tuple[int, int]]:
    """Offset and id of every record; content and key are what the id says."""
    found = []
    with ShardReader.open(shard, horizon(shard)) as reader:
        while got := reader.poll(1 << 30):  # a gap ends it: what lies behind is missed
            for message in got:
                for one in records(message):
                    number = int(one.data.split(b":")[0])
                    assert (one.data, one.partition_key) == record(number)[:2], f"offset {one.offset} has other bytes"
                    found.append((one.offset, number))
    return found


def _log(found: list[tuple[int, int]], told: Told) -> list[str]:
    broken = []
    at = dict(found)
    offsets, numbers = [offset for offset, _ in found], [number for _, number in found]
    start = offsets[0] if offsets else 0
    trimmed = [what[1] for what in told if what[0] == "trimmed"]
    if start > max([what[1] for what in told if what[0] == "trimming"], default=0) or start < max(trimmed, default=0):
        broken.append(f"the log begins at offset {start}; trimmed: {trimmed}")
    if offsets != list(range(start, start + len(offsets))):
        broken.append(f"holes: offsets {offsets}")
    if numbers != sorted(set(numbers)):
        broken.append(f"order: ids {numbers}")
    given = set()
    for kind, *what in told:
        if kind == "given":
            given.update(range(*what))
        elif kind == "acknowledged":
            offset, first, end = what
            lost = [n for n in range(first, end) if offset + n - first >= start and at.get(offset + n - first) != n]
            if lost:
                broken.append(f"acknowledged, and lost: ids {lost}")
        elif kind == "delivered" and what[0] >= start and at.get(what[0]) != what[1]:
            broken.append(f"delivered id {what[1]} at offset {what[0]}, where {at.get(what[0])} is now")
    if set(numbers) - given:
        broken.append(f"phantoms: ids {set(numbers) - given}")
    return broken


def _checkpoints(path: Path, shard_id: str, told: Told, end: int) -> list[str]:
    broken = []
    with Store.open(DataDir(path).state_path, create=False) as store:
        uuid = store.mapping(MAPPING).uuid
        offset = store.checkpoints(uuid)[shard_id].offset
        discards = {one.discard[1:3] for one in store.discards(uuid)}
    acknowledged = [(what[1], what[2]) for what in told if what[0] == "checkpointed"]
    tried = [what[1] for what in told if what[0] == "checkpointing"]
    if offset > max(tried, default=0) or offset < max((stop for _, stop in acknowledged), default=0):
        broken.append(f"checkpoint {offset}, of {acknowledged} acknowledged and {tried} tried")
    if offset > end:
        broken.append(f"checkpoint {offset} is ahead of the log, which ends at {end}")
    missing = {(start, start + 1) for start, _ in acknowledged} - discards
    early = {discard for discard in discards if discard[1] > offset}
    if missing or early:
        broken.append(f"discards missing: {missing}, not covered by checkpoint {offset}: {early}")
    return broken
