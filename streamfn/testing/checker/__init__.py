"""Judge a history of one mapping: was anything lost, reordered, skipped, given up or repeated without a reason?

The history is told by witnesses in the order in which things happened: producers, who owned the mapping, what the
*worker* saw and how that ended, which checkpoints and discards became durable, what the log has at the end.  What the
runtime believes is no evidence and does not occur.  The rules and their names:

    R1   lost-append, phantom-record, corrupt-record: what was acknowledged is in the log; what is in it was put;
         neither is another record than that
    R2   log-nonmonotonic, inconsistent-content: offsets rise by one, sequence numbers rise; an offset and a sequence
         number name one record for ever, also in what workers are handed
    R3   lost-delivery, two-dispositions: at the end every covered record was delivered with success, discarded once
         or gone
    R4   skip: a batch begins where its epoch's last disposition in the lane ended, so no record is handed over before
         every earlier one of its lane is done
    R5   int-skip, mixed-lanes, not-covered, batch-too-big, retry-differs: inside a batch records of one lane follow
         each other, none is filtered out, size and event are within bounds; after a failure the same batch comes
         again, or its first half where it is bisected, and what is left is never topped up
    R5   mixed-windows, window-order, state-differs (tumbling windows): records lie in the invocation's window, windows
         follow each other, and the state that comes in is the one that the last success of the window gave
    R6   overlapping-invocations: one live invocation of a lane within an epoch
    R7   checkpoint-ahead, checkpoint-backwards, delivered-after-checkpoint: below a checkpoint everything was
         delivered with success or has a durable discard *before*; it never moves back; its owner delivers nothing
         below it
    R8   epoch-not-increasing, stale-epoch-checkpoint: every owner has a higher epoch, and commits nothing once replaced
    R9   child-before-parent, child-before-checkpoint: nothing of a shard is handed over while a record of one that
         was split or merged into it, generations back, lacks its disposition, or that is not durable
    R10  unexplained-duplicate: a record is delivered once, plus once for every failed delivery of it, plus once for
         every change of owner while it was not checkpointed
    R11  discard-too-early, discard-with-infinite-retries, discard-after-success, discard-unexplained,
         too-many-attempts, too-many-levels: records are given up when their attempts are used up or they are too old
         (or their event alone is too big), not before; the same records are delivered at most 1 + retries times;
         bisecting ends
    R12  never-tried, unsettled, settled-twice, unknown-request: what was accepted to be done later is tried, and
         settled once
    R13  lag: at the end the checkpoint is at the end

A lane is what must stay in order: a shard, the part of it that one of several parallel lanes has, or the records of one
partition key (`Facts.lane`).  `Checker` depends on nothing else of streamfn: feed it from a simulation, or from files
that handlers wrote while the runtime was being killed.
"""

from streamfn.testing.checker.history import (
    Accepted,
    Acknowledged,
    Attempted,
    Clock,
    Committed,
    Discard,
    Ended,
    Event,
    Gone,
    Logged,
    Owned,
    Put,
    Resharded,
    Seen,
    Settled,
    Window,
)
from streamfn.testing.checker.judge import Checker, check
from streamfn.testing.checker.rules import Facts, Rules, Violation

__all__ = [
    "Accepted",
    "Acknowledged",
    "Attempted",
    "Checker",
    "Clock",
    "Committed",
    "Discard",
    "Ended",
    "Event",
    "Facts",
    "Gone",
    "Logged",
    "Owned",
    "Put",
    "Resharded",
    "Rules",
    "Seen",
    "Settled",
    "Violation",
    "Window",
    "check",
]
