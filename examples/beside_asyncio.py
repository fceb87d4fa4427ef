"""Inside an asyncio program: the session runs in threads of its own, and waiting calls go through `asyncio.to_thread`.

    python examples/beside_asyncio.py [DATA_DIR]
"""

import asyncio
import sys
from pathlib import Path

import streamfn


async def main(data_dir):
    with streamfn.open_sync(data_dir) as session:
        # Any number of tasks may put at once: their records share a sync of the disk.
        puts = [asyncio.to_thread(session.put, "clicks", f'{{"page": "/{number % 3}"}}') for number in range(30)]
        placed = await asyncio.gather(*puts)
        print(f"put {len(placed)} records, the last one as {placed[-1].sequence_number}")

        run = asyncio.create_task(
            asyncio.to_thread(session.run_until_caught_up, "app.handler", "clicks", code_dir=Path(__file__).parent)
        )
        ticks = 0
        while not run.done():  # the loop goes on meanwhile
            await asyncio.sleep(0.01)
            ticks += 1
        print(f"{run.result().records} records; the loop was free for {ticks} ticks")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
