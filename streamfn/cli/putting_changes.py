"""The work behind `streamfn put-change`.

As with `put`, lines of standard input that are there together share one sync.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from streamfn.cli.options import Settings
from streamfn.cli.putting import Target, print_placed
from streamfn.doors.changing import new_change
from streamfn.errors import RefusedError
from streamfn.formats.lines import read_blocks, split_lines
from streamfn.log.catalog.datadir import check_name, check_shards
from streamfn.log.catalog.stream import DYNAMODB
from streamfn.log.format.changes import check_change
from streamfn.log.producer.producer import Producer
from streamfn.log.storage.durability import FSYNC, Durability
from streamfn.types import NewChange


def run_put_change(
    settings: Settings,
    name: str,
    given: Sequence[bytes] | None,
    *,
    view_type: str | None,
    shards: int | None,
    durability: Durability = FSYNC,
) -> None:
    """Put the changes `given`, or (None) those in the lines of standard input, and print where each went.

    Raises:
        RefusedError: a name or number breaks a limit, or something is no change; of arguments none was put then.
        BusyError: another process writes to the stream, and takes nothing along.
        LogError: the disk is full or failed; what was printed is durable.
    """
    check_name(name)
    if shards is not None:
        check_shards(shards)
    target = Target(settings.data_dir, name, shards, DYNAMODB)
    groups: Iterable[Sequence[bytes]] = (
        [given] if given is not None else split_lines(read_blocks(sys.stdin.fileno()))
    )
    producer: Producer | None = None
    line, unchanged = 0, 0
    try:
        for group in groups:
            changes = _changes(group, view_type, None if given is not None else line)
            line += len(group)
            unchanged += sum(change is None for change in changes)
            if producer is None:
                producer = Producer(target.stream(), durability=durability)
            kept = [change for change in changes if change is not None]
            print_placed(producer.submit(kept).result(), json_output=settings.json_output)
        if producer is None:
            target.stream()
    finally:
        if producer is not None:
            producer.close()
    if unchanged:
        made = "1 change that changes nothing makes" if unchanged == 1 else f"{unchanged} that change nothing make"
        sys.stderr.write(f"streamfn: {made} no record\n")


def _changes(texts: Sequence[bytes], view_type: str | None, line: int | None) -> list[NewChange | None]:
    """Return the records of some changes; all are good, or none is put."""
    made: list[NewChange | None] = []
    for number, text in enumerate(texts, 1):
        try:
            change = new_change(text, view_type)
            if change is not None:
                check_change(change)
            made.append(change)
        except RefusedError as error:
            where = f"standard input, line {line + number}" if line is not None else f"change {number} of {len(texts)}"
            raise RefusedError(f"{where}: {error}") from None
    return made
