"""A script: put some records, run a Lambda handler over them, see what is in the stream.

    python examples/sync_script.py [DATA_DIR]

Run it again: the mapping remembers how far it was, and only the new records are delivered.
"""

import json
import sys
from pathlib import Path

import streamfn


def main(data_dir):
    with streamfn.open_sync(data_dir) as session:
        session.create_stream("clicks", shards=2)
        session.put_many("clicks", [click(number) for number in range(1000)])

        # `app.handler` is examples/app.py, named as in Lambda.
        here = Path(__file__).parent
        result = session.run_until_caught_up("app.handler", "clicks", code_dir=here, batch_size=250)
        print(f"{result.records} records in {result.batches} batches, {result.errors} errors")

        for record in session.records("clicks"):
            print(record.shard_id, record.partition_key, record.data.decode())
            break


def click(number):
    user = f"user-{number % 10}"
    return streamfn.NewRecord(json.dumps({"page": f"/{number % 3}", "user": user}).encode(), partition_key=user)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
