"""A closure as a handler, as one would write it in a notebook: it runs in processes forked from this one.

    python examples/notebook_callable.py [DATA_DIR]

Workers see the variables as they are when the mapping is opened; what they change stays with them, so results come back
as what the handler returns.
"""

import base64
import sys

import streamfn

session = streamfn.open_sync(sys.argv[1] if len(sys.argv) > 1 else None)  # a notebook keeps it open from cell to cell

session.put_many("words", ["stream", "shard", "batch", "lambda", "record"])

least = 6


def long_words(event, context):
    words = [base64.b64decode(record["kinesis"]["data"]).decode() for record in event["Records"]]
    return [word for word in words if len(word) >= least]


# A mapping is its name: with a new one each cell starts at the beginning of the stream.
with session.mapping(long_words, "words", name="long words", batch_size=2, workers=1) as mapping:
    with mapping.outcomes() as outcomes:
        for outcome in outcomes:
            print(outcome.records, "words, long ones:", outcome.result)
    print(outcomes.result.records, "records in all")

session.close()
