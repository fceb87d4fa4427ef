"""Records for a benchmark, written into a stream before anything is measured.

    {"seq":7,"padding":"kqzv..."}      of exactly the wanted size, where no template is given; smaller than
                                       that can be: "kqzv..." (a JSON string), below three bytes a digit

The same seed makes the same records and keys (but for `{{now}}`). They go to the stream's shards as their keys say.
"""

from __future__ import annotations

import os
import random
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from streamfn.benchmark.keys import UNIFORM, Distribution, Keys, check_keys
from streamfn.benchmark.template import Filling, Template, letters
from streamfn.errors import FailedError, RefusedError
from streamfn.limits import MIB, RECORD_BYTES_MAX
from streamfn.log.catalog.stream import Stream
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage.durability import OS

if TYPE_CHECKING:
    import pyarrow as pa

# pyarrow is imported by what uses it: it starts a thread then, which would take the process's signals from whoever
# heeds them if it were there before.

SIZE_DEFAULT = 1024
KEYS_DEFAULT = 1000

# So much data is made and appended at a time: large enough to go straight into sealed segments on a few shards.
_CHUNK_BYTES = 64 * MIB
_CHUNK_ROWS = 131_072
GIB = 1024 * MIB
# What a record takes in the log beside its data: key, numbers, times and offsets of columns, rounded up.
_OVERHEAD_BYTES = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How records are made.

    Attributes:
        size: bytes of data of each record; None: as the template makes them.
        template: of the data; None: see the module.
        keys: how many partition keys there are.
        distribution: how often each of them comes.
        seed: of everything random.
    """

    size: int | None = SIZE_DEFAULT
    template: Template | None = None
    keys: int = KEYS_DEFAULT
    distribution: Distribution = UNIFORM
    seed: int = 0

    def __post_init__(self) -> None:
        check_keys(self.keys)
        if self.size is not None and not 1 <= self.size <= RECORD_BYTES_MAX:
            raise RefusedError(f"--record-size {self.size} is not 1 to {RECORD_BYTES_MAX} bytes")
        if self.template is not None and self.size is not None and not self.template.pads:
            raise RefusedError(
                "--record-size goes with a --template that has a {{padding}} field, which is made as long as it must be"
            )
        if self.template is None and self.size is None:
            raise RefusedError("records need a size or a template")

    def sample(self) -> bytes:
        """Return a record as they will be.

        Raises:
            RefusedError: the template does not fit the size.
        """
        return self.data(0, ["key-0"], random.Random(self.seed))[0]

    def bytes_of(self, records: int) -> int:
        """Return about how many bytes so many records take on the disk."""
        return records * (len(self.sample()) + _OVERHEAD_BYTES)

    def data(self, first: int, keys: Sequence[str], source: random.Random) -> list[bytes]:
        """Return the data of records `first` and following, one for each key."""
        size, template = self.size, self.template
        if template is not None:
            return [template.fill(Filling(seq, key, source), size) for seq, key in enumerate(keys, first)]
        assert size is not None
        return [_padded(seq, size, source) for seq in range(first, first + len(keys))]


def _padded(seq: int, size: int, source: random.Random) -> bytes:
    begin = b'{"seq":%d,"padding":"' % seq
    short = size - len(begin) - 2
    if short >= 0:
        return b'%b%b"}' % (begin, letters(short, source))
    if size > 2:
        return b'"%b"' % letters(size - 2, source)
    return b"7" * size


class Maker:
    """Makes records of a recipe in a stream, now and later: each `make` goes on where the one before ended."""

    def __init__(self, recipe: Recipe, stream: Stream) -> None:
        import pyarrow as pa

        self._recipe = recipe
        self._stream = stream
        self._random = random.Random(recipe.seed)
        self._keys = Keys(recipe.keys, recipe.distribution)
        names = self._keys.names
        self._key_column = pa.array(names, pa.string())
        self._shards = pa.array((stream.shard_index(name) for name in names), pa.int16(), size=len(names))
        self.records = 0
        self.bytes = 0

    def make(self, records: int, progress: Callable[[int], None] = lambda made: None) -> None:
        """Append so many more records; `progress` is told how many more there are, now and then.

        They survive no crash of the system, and need not: the stream is a temporary one.

        Raises:
            FailedError: the disk has no room for them; nothing was appended.
            RefusedError: one does not fit the wanted size.
            LogError: a disk failed.
        """
        import pyarrow as pa

        self._require_room(records)
        rows = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // max(1, len(self._recipe.sample()))))
        with ExitStack() as stack:
            shards = self._stream.open_shards
            writers = [stack.enter_context(ShardWriter.open(shard, durability=OS)) for shard in shards]
            while records:
                some = min(rows, records)
                self._append(writers, some)
                records -= some
                progress(some)
            for writer in writers:
                writer.commit()
        pa.default_memory_pool().release_unused()  # whoever measures memory next does not want to see this

    def _append(self, writers: list[ShardWriter], records: int) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        drawn = self._keys.draw(records, self._random)
        indexes = pa.array(drawn, pa.int32())
        names = self._keys.names
        data = _column(self._recipe.data(self.records, [names[index] for index in drawn], self._random))
        keys, numbers = self._key_column.take(indexes), self._shards.take(indexes)
        for number, writer in enumerate(writers):
            mine = pc.equal(numbers, number)
            part = {"data": data.filter(mine), "keys": keys.filter(mine), "arrival": None}
            if len(part["data"]):
                writer.append_parts([part])
        self.records += records
        self.bytes += pc.sum(pc.binary_length(data)).as_py()

    def _require_room(self, records: int) -> None:
        status = os.statvfs(self._stream.directory)
        free, need = status.f_bavail * status.f_frsize, self._recipe.bytes_of(records)
        if need > free:
            raise FailedError(
                f"{records} records need {need / GIB:,.1f} GiB in {self._stream.directory}, and {free / GIB:,.1f} GiB "
                "are free: make fewer or smaller ones (--records, --record-size, --duration), or set TMPDIR to a "
                "directory with more room"
            )


def _column(values: Sequence[bytes]) -> pa.Array:
    """A binary column; pyarrow's own way looks at each value twice."""
    import pyarrow as pa

    offsets = array("i", accumulate(map(len, values), initial=0))
    return pa.Array.from_buffers(
        pa.binary(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    )
