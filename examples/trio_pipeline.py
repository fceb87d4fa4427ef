"""A Trio pipeline: one task appends to a stream, a mapping runs a Lambda handler on it, and what the handler returns
for each batch comes back as an async iterator.

    python examples/trio_pipeline.py [DATA_DIR]
"""

import json
import sys
from pathlib import Path

import trio

import streamfn

CLICKS = 500


async def produce(session):
    for number in range(CLICKS):
        await session.put("clicks", json.dumps({"page": f"/{number % 3}"}))


async def main(data_dir):
    pages = {}
    async with (
        streamfn.open(data_dir) as session,
        trio.open_nursery() as nursery,
    ):
        await session.create_stream("clicks", shards=2)
        nursery.start_soon(produce, session)
        async with (
            session.mapping("app.handler", "clicks", code_dir=Path(__file__).parent, workers=2) as mapping,
            mapping.outcomes() as outcomes,
        ):
            nursery.start_soon(mapping.run)
            seen = 0
            async for outcome in outcomes:
                if outcome.fault is not None:  # it is tried again until it succeeds
                    print(f"batch failed: {outcome.fault.error_type}", file=sys.stderr)
                    continue
                for page, count in outcome.result.items():
                    pages[page] = pages.get(page, 0) + count
                seen += outcome.records
                if seen >= CLICKS:
                    mapping.drain()  # at a batch edge; the iterator ends when the checkpoints are durable
    print(f"last request id: {outcome.request_id}")
    print(pages)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else None)
