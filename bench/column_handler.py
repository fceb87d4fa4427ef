"""The Arrow handler that `bench.columns` measures; not in `handlers`, because it loads pyarrow."""

import time

import pyarrow as pa
import pyarrow.compute as pc

from bench.handlers import witness
from streamfn import arrow_handler

ARRIVAL_MS = 1_700_000_000_000


@arrow_handler
def handler(batch, context):
    """Add up the arrival times, counted from ARRIVAL_MS."""
    began = time.monotonic_ns()
    total = pc.sum(batch.column(2).view(pa.int64())).as_py() - ARRIVAL_MS * batch.num_rows
    witness.note(began, batch.num_rows, total)
    return total
