"""A run over some records of a stream only: those whose offsets were asked for.

What lies between them is passed over, not read, as far as messages allow. To the feed it is what a filter drops:
records in between have their disposition, and batches are filled with what is wanted. Filters of the mapping come on
top.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamfn.log.shard.reader import Message, ShardReader
from streamfn.mapping.poller import Poller, Read

if TYPE_CHECKING:
    from streamfn.core.ranges import Ranges
    from streamfn.mapping.feed import Select

# What is read along: passing over less than this costs more than reading it.
APART = 1_000


class WantedPoller(Poller):
    """Reads what holds wanted records."""

    def __init__(self, reader: ShardReader, fixed_bytes: int, wanted: Ranges) -> None:
        """See `Poller`; messages are measured when it is known which of their rows are delivered."""
        super().__init__(reader, fixed_bytes, sized=False)
        self._wanted = wanted

    def _poll(self, bytes_max: int, until: int | None) -> list[Read]:
        reader = self._reader
        following = self._wanted.next_at(reader.position)
        if following is None:  # up to where the run ends there is nothing to be done
            if until is not None:
                reader.pass_to(until - 1)
            return super()._poll(bytes_max, until)
        if following - reader.position > APART:
            reader.pass_to(following)
        end = self._wanted.end_of_run(following, APART)
        return super()._poll(bytes_max, end if until is None else min(end, until))


class WantedRows:
    """Selects wanted records, and of these what the mapping's filters let through. See `mapping.feed.Select`."""

    def __init__(self, wanted: Ranges, filters: Select | None) -> None:
        self._wanted = wanted
        self._filters = filters

    async def select(self, messages: Sequence[Message]) -> list[memoryview | None]:
        """The numbers of the rows that are wanted of each message, ascending; None for all of them."""
        wanted = [self._wanted.rows(message.first_offset, message.rows) for message in messages]
        if self._filters is None:
            return wanted
        return [_both(*pair) for pair in zip(wanted, await self._filters.select(messages), strict=True)]

    def close(self) -> None:
        """Let everything go."""
        if self._filters is not None:
            self._filters.close()


def _both(one: memoryview | None, other: memoryview | None) -> memoryview | None:
    """Rows that are among these and those."""
    if one is None or other is None:
        return other if one is None else one
    among = set(one)
    return memoryview(array("I", (row for row in other if row in among)))
