"""Tumbling windows: what each shop has taken in each minute, without a database.

    python examples/windows.py [DATA_DIR]

Every invocation of a window gets the state that the one before it returned, and the last one only has that state. So
the handler adds up while records come, and tells the sums when their minute is over.
"""

import base64
import json
import sys

import streamfn

NOON = 1_607_515_200_000  # 2020-12-09T12:00:00Z, in milliseconds


def takings(event, context):
    """A plain Lambda handler for TumblingWindowInSeconds."""
    sums = event["state"]
    for record in event["Records"]:
        sale = json.loads(base64.b64decode(record["kinesis"]["data"]))
        sums[sale["shop"]] = sums.get(sale["shop"], 0) + sale["cents"]
    if event["isFinalInvokeForWindow"] or event["isWindowTerminatedEarly"]:
        minute = event["window"]["start"][11:16]
        return {"state": {}, "minute": minute, "takings": sums}  # here it would be written somewhere
    return {"state": sums}


def sale(number):
    data = {"shop": "north" if number % 3 else "south", "cents": 100 + number}
    return streamfn.NewRecord(json.dumps(data).encode(), data["shop"], arrival_ms=NOON + number * 1_000)


def main(data_dir):
    with streamfn.open_sync(data_dir) as session:
        session.put_many("sales", [sale(number) for number in range(150)])  # one a second
        options = {"batch_size": 25, "tumbling_window_in_seconds": 60, "workers": 1}
        with session.mapping(takings, "sales", **options) as mapping, mapping.outcomes() as outcomes:
            for outcome in outcomes:
                if "takings" in outcome.result:
                    print(outcome.result["minute"], outcome.result["takings"])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
