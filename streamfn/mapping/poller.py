"""Reading one shard: verified messages from the log, with the JSON sizes the planner needs.

Catching up with a backlog means checking megabytes and, perhaps, waiting for the disk: that happens in a thread.
Following the log's end means a few kilobytes that were just written: that is done on the spot, because the hop
through a thread would cost more than the read.
"""

from __future__ import annotations

from typing import NamedTuple

import trio

from streamfn.events.size import json_prefix
from streamfn.log.shard.gaps import Gap
from streamfn.log.shard.reader import Message, ShardReader

# What one read in a thread may take: some milliseconds of checking, long enough to make the hop unimportant.
BACKLOG_BYTES = 16 * 1024 * 1024
# What is read on the Trio thread: about 30 µs of checking.
FOLLOW_BYTES = 256 * 1024


class Read(NamedTuple):
    """A message, with the running sums of its records' JSON bytes (rows + 1 values) where they are wanted at once."""

    message: Message
    prefix_bytes: memoryview | None


class Poller:
    """Reads a shard in order, from a given offset on."""

    def __init__(self, reader: ShardReader, fixed_bytes: int, *, sized: bool = True) -> None:
        """`reader` stands where reading begins; `fixed_bytes` is what each record takes beside its columns.

        Without `sized` messages are not measured as they are read.
        """
        self._reader = reader
        self._sized = sized
        self._fixed = fixed_bytes
        self._following = False
        self.committed_end: int = reader.committed().end_offset  # as it was seen last

    @property
    def reader(self) -> ShardReader:
        """The reader, for its committed end and its position."""
        return self._reader

    @property
    def gap(self) -> Gap | None:
        """What is gone where reading stands: there is nothing to read before `skip_gap`."""
        return self._reader.gap

    def skip_gap(self) -> None:
        """Go on behind the gap."""
        self._reader.skip()
        self._following = False  # whatever lies there may have to be opened, and that is done in a thread

    @property
    def behind(self) -> bool:
        """Whether the log had more when it was read last."""
        return not self._following

    async def read(self, until: int | None) -> list[Read]:
        """What comes next, in order; an empty list when the log has no more for now.

        The first message may begin before the offset that reading begins at. Nothing at or past `until` is read, except
        in a message that begins before it. All of it lies in one segment, which stays mapped until the next
        call: who needs it longer retains it.

        Cancellation: a read in a thread is waited for; nothing is lost, since the reader stands behind it only when
        it returned (a cancelled read ends the feed anyway).

        Raises:
            LogDamaged: what lies there is not what was written.
        """
        # A reader that was held up may find its place in a cold segment by now, which has to be inflated first.
        if self._following and self._reader.at_hand():
            found = self._poll(FOLLOW_BYTES, until)
            await trio.lowlevel.checkpoint()
        else:
            found = await trio.to_thread.run_sync(self._poll, BACKLOG_BYTES, until)
        self.committed_end = self._reader.committed().end_offset
        self._following = self._reader.position >= self.committed_end
        return found

    def _poll(self, bytes_max: int, until: int | None) -> list[Read]:
        measure = self.measure if self._sized else _not_measured
        return [Read(message, measure(message)) for message in self._reader.poll(bytes_max, until)]

    def measure(self, message: Message, rows: memoryview | None = None) -> memoryview:
        """The running sums of the message's records as JSON (rows + 1 values); of some `rows` alone, or of all."""
        return json_prefix(message.segment.address, message.cdata, self._fixed, rows)

    def close(self) -> None:
        """Let the reader's segment go."""
        self._reader.close()


def _not_measured(message: Message) -> None:
    return None
