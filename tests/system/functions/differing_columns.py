"""A pair of handlers of columns for comparisons, apart from the others because of what they import."""

import pyarrow.compute as compute

import streamfn


@streamfn.arrow_handler
def sizes(batch, context):
    return compute.sum(compute.binary_length(batch["data"])).as_py()


@streamfn.arrow_handler
def sizes_again(batch, context):
    return sizes(batch, context) + sum(b"wrong" in data for data in batch["data"].to_pylist())
