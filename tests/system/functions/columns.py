"""Arrow handlers: what they see of their batches, and what they keep of them."""

import asyncio

import pyarrow as pa
import pyarrow.compute as pc

import streamfn

kept = []


def seen(batch):
    """Rows, a sum over the data read as numbers, and whether the sequence numbers ascend."""
    numbers = batch["sequence_number"].to_pylist()
    total = pc.sum(batch["data"].cast(pa.string()).cast(pa.int64())).as_py()
    return [batch.num_rows, total, numbers == sorted(numbers), batch.schema.metadata[b"shardId"].decode()]


@streamfn.arrow_handler
def sums(batch, context):
    assert context.get_remaining_time_in_millis() > 0
    return seen(batch)


@streamfn.arrow_handler
async def sums_later(batch, context):
    await asyncio.sleep(0)
    return seen(batch)


@streamfn.arrow_handler
class Running:
    """Adds up over all its invocations."""

    def __init__(self):
        self.total = 0

    def __call__(self, batch, context):
        self.total += seen(batch)[1]
        return self.total


def mapped_segments():
    with open("/proc/self/maps") as maps:
        return sum(".arrow" in line for line in maps)


@streamfn.arrow_handler
def keeps(batch, context):
    """Keeps every batch, and adds all of them up again each time."""
    kept.append(batch)
    return [seen(each)[1] for each in kept], mapped_segments()


@streamfn.arrow_handler
def keeps_nothing(batch, context):
    return mapped_segments()


@streamfn.arrow_handler
def reports(batch, context):
    """Reports the first record whose data are a multiple of 7, but for those it was given first."""
    bad = pc.index(pc.equal(pc.bit_wise_and(numbers(batch), 7), 7), value=True).as_py()
    if bad <= 0:
        return {"batchItemFailures": []}
    return {"batchItemFailures": [{"itemIdentifier": batch["sequence_number"][bad].as_py()}]}


def numbers(batch):
    return batch["data"].cast(pa.string()).cast(pa.int64())


@streamfn.arrow_handler
def changes(batch, context):
    return [batch["event_name"].to_pylist(), batch["new_image"].null_count, pc.sum(batch["size_bytes"]).as_py()]
