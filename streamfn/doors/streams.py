"""A stream as the library shows it: what it is called, its shards, and its records as Arrow columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from streamfn.log.catalog.stream import Shard
from streamfn.log.catalog.stream import Stream as StoredStream

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds


class Stream:
    """A stream as it was when `Session.stream` returned it; ask again for what was resharded since."""

    __slots__ = ("_stored",)

    def __init__(self, stored: StoredStream) -> None:
        self._stored = stored

    def __repr__(self) -> str:
        return f"<Stream {self.name} of {len(self.shards)} shards>"

    @property
    def name(self) -> str:
        """What it is called in its data directory."""
        return self._stored.name

    @property
    def arn(self) -> str:
        """Its ARN, or that of the stream it was captured from."""
        return self._stored.arn

    @property
    def kind(self) -> str:
        """`kinesis` or `dynamodb`."""
        return self._stored.kind

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All shards it ever had, closed ones too, in the order they were made."""
        return self._stored.shards

    @property
    def open_shards(self) -> tuple[Shard, ...]:
        """The shards that can be put to, by their hash keys."""
        return self._stored.open_shards

    def scan(self, shard_ids: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the committed records as Arrow record batches over the mapped segments, without copying.

        Shard after shard, each in its order; every batch was checked by its CRC before, has `shard_id` and
        `first_offset` in its schema's metadata, and stays valid for as long as it is referred to. What retention, or
        damage that was given up, has taken is left out. Waits for the disk.

        Raises:
            RefusedError: there is no shard of such an id.
            LogDamaged: a message is damaged; those before it have been yielded.
            LogError: a file cannot be read.
        """
        from streamfn.log.shard import columns

        return columns.scan(self._stored, shard_ids)

    def dataset(self, shard_ids: Sequence[str] | None = None) -> ds.Dataset:
        """Return the committed records of this moment as a pyarrow dataset, with a column `shard_id`, without copying.

        Sealed segments are read by pyarrow, which trusts them: `streamfn verify` checks them first. Waits for the disk.

        Raises:
            RefusedError, LogDamaged, LogError: as `scan`.
        """
        from streamfn.log.shard import columns

        return columns.dataset(self._stored, shard_ids)
