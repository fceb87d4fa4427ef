"""Whether every discard was carried once while one system call failed, judged by whoever comes next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from failure_script import DIRECTORIES, FAILED, Carrier

from streamfn.log.catalog.stream import Shard
from streamfn.log.shard.cursor import ShardCursor
from streamfn.log.upkeep.verify import verify_shard

Told = list[list[Any]]


def broken_promises(path: Path, told: Told, killed: bool) -> list[str]:
    """Return a line for everything that is not as it was promised to who was told `told`."""
    broken: list[str] = []
    carrier = Carrier(path)
    left = carrier.carry()
    rows = carrier.store.discards(carrier.uuid)
    carrier.store.close()
    if left or any(row.pending for row in rows):
        broken.append(f"the next process leaves {left} pending")
    broken += _rows([row.discard.first_offset for row in rows], told, carrier.at)
    for kind in (FAILED, *DIRECTORIES):
        wanted = [row.discard.failure.request_id for row in rows if kind in row.discard.failure.destination]
        found = _stream(carrier) if kind == FAILED else _directory(path / kind, broken)
        if found != wanted:
            broken.append(f"{kind} has {found}, for discards {wanted}")
    for shard in _shards(carrier):
        broken += [f"verify: {finding}" for finding in verify_shard(shard).findings]
    if not killed and [what[0] for what in told[-1:]] != ["end"]:
        broken.append("the script did not get to its end")
    if not killed and told[-2] != ["carried", 0]:
        broken.append(f"the script did not get going again after the fault: {told[-2]}")
    return broken


def _rows(found: list[int], told: Told, checkpoint: int) -> list[str]:
    """Each row that was acknowledged is there, none that nobody wrote, and all before the checkpoint."""
    broken = []
    acknowledged = {first for kind, *firsts in told if kind == "discarded" for first in firsts}
    tried = {first for kind, *firsts in told if kind == "discarding" for first in firsts}
    if missing := acknowledged - set(found):
        broken.append(f"discards missing: {missing}")
    if strange := set(found) - tried:
        broken.append(f"discards that nobody wrote: {strange}")
    if sorted(set(found)) != found:
        broken.append(f"discards twice, or out of order: {found}")
    if late := [first for first in found if first >= checkpoint]:
        broken.append(f"discards {late} behind the checkpoint {checkpoint}")
    return broken


def _stream(carrier: Carrier) -> list[str]:
    """The request ids in the destination stream, in order."""
    found = []
    for shard in _shards(carrier):
        with ShardCursor(shard, 0, None) as cursor:
            found += [json.loads(row.data)["requestContext"]["requestId"] for row in cursor]
    return found


def _shards(carrier: Carrier) -> tuple[Shard, ...]:
    """Those of the destination stream; none if it was never needed."""
    stream = carrier.data.find(FAILED)
    return () if stream is None else stream.shards


def _directory(directory: Path, broken: list[str]) -> list[str]:
    """The request ids in a directory's files, by number; whatever is there is whole."""
    found = []
    for path in directory.rglob("*"):
        if not path.is_file():
            continue
        try:
            found.append(json.loads(path.read_bytes())["requestContext"]["requestId"])
        except ValueError:
            broken.append(f"{path} is not whole")
    return sorted(found, key=lambda request: int(request.partition("-")[2]))
