"""What Firehose writes: JSON values with or without line feeds between them.

Each value is a record, its bytes as they are.  Values that are no objects or arrays cannot be told apart without a
separator; where there is one, `lines` reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import orjson

from streamfn.formats.json_values import NotValues, split_values
from streamfn.formats.rows import BadRecord, Collector, Reading, Rows


def read_firehose(blocks: Iterable[bytes], reading: Reading) -> Iterator[Rows]:
    """Read JSON values; records are counted from 1.

    Raises:
        BadRecord: see rows.py.
    """
    collector = Collector(reading)
    number = 0
    values = split_values(blocks, skip_bad=reading.skip_bad)
    while True:
        try:
            group = next(values, None)
        except NotValues as error:
            raise BadRecord(number + 1, str(error), f"at byte {error.position}") from None
        if group is None:
            return
        for value in group:
            number += 1
            if number <= reading.skip_lines:
                continue
            try:
                if isinstance(value, NotValues):
                    raise value
                collector.add(value.text, orjson.loads(value.text))
            except ValueError as error:
                if isinstance(error, orjson.JSONDecodeError):
                    error = ValueError(f"it is not JSON: {error.msg}")
                if stop := collector.refuse(number, error, f"at byte {value.position}"):
                    yield collector.take(number - 1)
                    raise stop from None
        yield collector.take(number)
