"""The work behind `streamfn put`.

Standard input is taken as it comes: whatever lines are there together share one sync, and a line that comes
alone waits for nothing but its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import orjson

from streamfn.cli.options import Settings
from streamfn.doors.openfiles import allow_open_files
from streamfn.errors import RefusedError
from streamfn.formats.fields import data_key
from streamfn.formats.lines import read_blocks, split_lines
from streamfn.log.catalog.datadir import DataDir, check_name, check_shards, require_kind
from streamfn.log.catalog.stream import KINESIS, Stream
from streamfn.log.format.batch import check_record
from streamfn.log.producer.answer import Placed
from streamfn.log.producer.producer import Producer
from streamfn.log.storage.durability import FSYNC, Durability
from streamfn.types import NewRecord


def run_put(
    settings: Settings,
    name: str,
    data: Sequence[bytes] | None,
    *,
    partition_key: str | None,
    shards: int | None,
    durability: Durability = FSYNC,
) -> None:
    """Put `data`, or (None) the lines of standard input, and print where each record went.

    Raises:
        RefusedError: a name, number or record breaks a limit; of arguments none was put then.
        BusyError: another process writes to the stream, and takes nothing along.
        LogError: the disk is full or failed; what was printed is durable.
    """
    check_name(name)
    if shards is not None:
        check_shards(shards)
    target = Target(settings.data_dir, name, shards, KINESIS)
    groups: Iterable[Sequence[bytes]] = (
        [data] if data is not None else split_lines(read_blocks(sys.stdin.fileno()))
    )
    producer: Producer | None = None
    line = 0
    try:
        for group in groups:
            records = [
                NewRecord(value, data_key(value) if partition_key is None else partition_key)
                for value in group
            ]
            _check(records, None if data is not None else line)
            line += len(records)
            if producer is None:
                producer = Producer(target.stream(), durability=durability)
            print_placed(producer.submit(records).result(), json_output=settings.json_output)
        if producer is None:
            target.stream()
    finally:
        if producer is not None:
            producer.close()


class Target:
    """The stream to put into, looked up at once and made when the first record is known to be good."""

    def __init__(self, data_dir: Path, name: str, shards: int | None, kind: str) -> None:
        self._data_dir, self._name, self._shards, self._kind = data_dir, name, shards, kind
        if (data_dir / "format").exists():
            found = DataDir.open(data_dir, create=True).find(name)
            if found is not None:
                require_kind(found, kind)
            if found is not None and shards not in (None, len(found.open_shards)):
                raise RefusedError(f"stream {name!r} has {len(found.open_shards)} open shards, not {shards}")

    def stream(self) -> Stream:
        """Return it, made if there is none."""
        data = DataDir.open(self._data_dir, create=True)
        stream = data.open_or_create_stream(self._name, self._shards, kind=self._kind)
        allow_open_files(10 * len(stream.open_shards))  # a writer has its files, its socket, and who puts through it
        return stream


def _check(records: Sequence[NewRecord], line: int | None) -> None:
    for number, record in enumerate(records, 1):
        try:
            check_record(record)
        except RefusedError as error:
            if line is None:
                raise
            raise RefusedError(f"standard input, line {line + number}: {error}") from None


def print_placed(placed: Placed, *, json_output: bool) -> None:
    """Print where each record went: it is durable there."""
    out = sys.stdout.buffer
    for shard_id, sequence_number in placed:
        if json_output:
            out.write(orjson.dumps({"ShardId": shard_id, "SequenceNumber": sequence_number}) + b"\n")
        else:
            out.write(f"{shard_id}  {sequence_number}\n".encode())
    out.flush()
