"""Putting a mapping elsewhere in its stream."""

from __future__ import annotations

from typing import NamedTuple

from streamfn.errors import BusyError, RefusedError
from streamfn.formats.times import parse_time_ms
from streamfn.limits import SEQUENCE_DIGITS_MAX, SEQUENCE_DIGITS_TOLD
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Stream
from streamfn.log.shard.numbers import offset_of
from streamfn.mapping import refusals
from streamfn.mapping.position import starting_offsets
from streamfn.state.owner import Ownership
from streamfn.state.store import Store

RESET = "ResetCheckpoint"  # ours: Lambda has no such operation


class Reset(NamedTuple):
    """What a reset did: `offsets` of the shards that were moved, the first record that each delivers next."""

    uuid: str
    name: str
    offsets: dict[str, int]


def reset_checkpoint(data: DataDir, store: Store, which: str, position: str) -> Reset:
    """Put a mapping's checkpoints at a position. Waits for the disk.

    `position` is TRIM_HORIZON, LATEST (the log's end now), a time (the first record that arrived at or after it), or a
    sequence number: that record is delivered next, and other shards stay where they are. What windows have pending in
    the shards that are moved is dropped.

    Raises:
        RefusedError: there is no such mapping, its stream was deleted, or the position is none.
        BusyError: it runs; the pid is named. One that is disabled does not run.
        LogDamaged: the log is damaged where it has to be read.
    """
    mapping = store.find(which)
    if mapping is None:
        raise refusals.not_found(RESET, which)
    stream = data.stream_by_id(mapping.stream_id)
    offsets = _offsets(stream, position)
    try:
        with Ownership.acquire(data.locks_path / mapping.uuid):
            store.acquire(mapping.uuid)  # whoever owned it before commits nothing more
            store.reset(mapping.uuid, offsets)
    except BusyError as error:
        raise BusyError(
            f"the checkpoint of mapping {mapping.title!r} is not reset: it is {error}; disable it, or stop that process"
        ) from None
    return Reset(mapping.uuid, mapping.name, offsets)


def _offsets(stream: Stream, position: str) -> dict[str, int]:
    if position in ("TRIM_HORIZON", "LATEST"):
        return starting_offsets(stream, position, None)
    if position.isascii() and position.isdigit() and SEQUENCE_DIGITS_TOLD <= len(position) <= SEQUENCE_DIGITS_MAX:
        for shard in stream.shards:
            offset = offset_of(shard, position)
            if offset is not None:
                return {shard.id: offset}
        raise RefusedError(f"stream {stream.name!r} has no record with sequence number {position}")
    try:
        at_ms = parse_time_ms(position)
    except ValueError as error:
        raise RefusedError(
            f"--to takes TRIM_HORIZON, LATEST, a time, or a sequence number, not {position!r}: {error}"
        ) from None
    return starting_offsets(stream, "AT_TIMESTAMP", at_ms / 1000)
