"""How fast a shard may be asked, and how long to wait after trouble: every limit named, with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamfn.core.backoff import Backoff
from streamfn.limits import MIB

_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The read limits of one shard.

    Attributes:
        interval_ns: between two calls for a shard, at least.
        idle_interval_ns: the same once everything that is there has been read.
        bytes_per_s: what a shard answers; after a large answer the next call waits until it has been earned.
        iterator_life_ns: an iterator that is older is not used any more.
        empty_answers: so many in a row stand for "caught up" where the source does not say how far behind
            a reader is, and for the end of a closed shard where the source (an emulator) does not say so.
        throttled: the wait after a refusal for too many calls or bytes.
        transient: the wait after a network failure or a failure of the source.
    """

    interval_ns: int
    idle_interval_ns: int
    bytes_per_s: int
    iterator_life_ns: int
    empty_answers: int = 5
    throttled: Backoff = field(default=Backoff(initial_ns=_S, max_ns=30 * _S))
    transient: Backoff = field(default=Backoff(initial_ns=_S // 2, max_ns=30 * _S))


# Kinesis: 5 calls/s a shard, shared by everybody who reads it; four leave room for one other, and for calls that
# were sent evenly and arrive unevenly.  2 MB/s: an answer of 10 MiB blocks the shard for 5 s, and so we wait 5.2.
# GetShardIterator has the same 5/s, so it is paced alike.  An iterator lives 5 minutes.  Caught up, one call a
# second, as Lambda's own poller does.
KINESIS = Pace(interval_ns=_S // 4, idle_interval_ns=_S, bytes_per_s=2_000_000, iterator_life_ns=290 * _S)

# DynamoDB Streams: answers of 1 MB or 1,000 records; Lambda's own poller asks 4 times a second.  No limit in bytes is
# documented beyond twice the table's write capacity; 4 MB/s are four full answers.  An iterator lives 15 minutes.
DYNAMODB = Pace(interval_ns=_S // 4, idle_interval_ns=_S // 4, bytes_per_s=4 * MIB, iterator_life_ns=890 * _S)
