"""Looking into every record of a shard whose bytes are as they were written: `streamfn verify --deep`.

A checksum says that nothing has changed since the append.  This says that what was appended made sense: texts are
UTF-8, sequence numbers rise, arrival times are within limits, images are JSON.  It costs several times what the
checksums do, and is done by Arrow, a column at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from streamfn import limits
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.shard.columns import scan

_TIMES = ("approximate_arrival_timestamp", "approximate_creation_date_time")
_JSON = ("keys", "new_image", "old_image", "user_identity")


class Nonsense(NamedTuple):
    """Records between two offsets (the second excluded) that are as they were written, and cannot be right."""

    first_offset: int
    end_offset: int
    why: str


def look_into(stream: Stream, shard: Shard) -> Iterator[Nonsense]:
    """Yield what is wrong with the records of a shard, message by message.

    Raises:
        LogDamaged: a message is damaged: verify the checksums first.
        LogError: a file cannot be read.
    """
    last: str | None = None
    for batch in scan(stream, [shard.id]):
        first = int(batch.schema.metadata[b"first_offset"])
        whys = list(_whys(batch, last))
        yield from (Nonsense(first, first + batch.num_rows, why) for why in whys)
        if not whys:
            last = batch.column("sequence_number")[-1].as_py()


def _whys(batch: pa.RecordBatch, last: str | None) -> Iterator[str]:
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        yield f"its columns are not valid: {error}"
        return
    if not _rising(batch.column("sequence_number"), last):
        yield "its sequence numbers do not rise"
    for name in _TIMES:
        if name in batch.schema.names:
            span = pc.min_max(batch.column(name).cast(pa.int64())).as_py()
            if span["min"] < 0 or span["max"] > limits.ARRIVAL_MS_MAX:
                times = f"{name} goes from {span['min']} to {span['max']} ms"
                yield f"{times}, which is not all between 1970 and the end of year 9999"
    for name in _JSON:
        if name in batch.schema.names and not _all_json(batch.column(name)):
            yield f"{name} is not JSON"


def _rising(numbers: pa.Array, last: str | None) -> bool:
    """Whether decimal numbers without leading zeros rise: a longer one is larger, among equals the text decides."""
    if last is not None:
        numbers = pa.concat_arrays([pa.array([last], numbers.type), numbers])
    lengths = pc.binary_length(numbers)
    before, after = numbers[:-1], numbers[1:]
    longer = pc.greater(lengths[1:], lengths[:-1])
    level = pc.equal(lengths[1:], lengths[:-1])
    return bool(pc.all(pc.or_(longer, pc.and_(level, pc.greater(after, before))), min_count=0).as_py())


def _all_json(texts: pa.Array) -> bool:
    for text in texts:
        if text.is_valid:
            try:
                json.loads(text.as_py())
            except ValueError:
                return False
    return True
