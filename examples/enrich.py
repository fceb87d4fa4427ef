"""A handler class that is asynchronous: look-ups side by side, and what it has learnt kept from batch to batch.

    python examples/enrich.py [DATA_DIR]
    streamfn run enrich.Enrich --stream visits --until-caught-up

Each environment makes one `Enrich` before its first invocation, in the worker, so that a connection opened in
`__init__` would be nobody else's. All its invocations run on one event loop.
"""

import asyncio
import base64
import json
import sys

import streamfn

COUNTRIES = {"ann": "NO", "bob": "CH", "eve": "PT"}


class Enrich:
    """Adds each visitor's country; asks for each visitor once."""

    def __init__(self):
        self.countries = {}
        self.lookups = 0

    async def __call__(self, event, context):
        visits = [json.loads(base64.b64decode(record["kinesis"]["data"])) for record in event["Records"]]
        unknown = {visit["user"] for visit in visits} - self.countries.keys()
        await asyncio.gather(*(self.look_up(user) for user in unknown))
        return [f"{visit['user']} ({self.countries[visit['user']]})" for visit in visits] + [self.lookups]

    async def look_up(self, user):
        await asyncio.sleep(0.01)  # here a service would be asked
        self.countries[user] = COUNTRIES[user]
        self.lookups += 1


def main(data_dir):
    with streamfn.open_sync(data_dir) as session:
        users = ["ann", "bob", "ann", "bob", "eve", "ann"]
        session.put_many("visits", [json.dumps({"user": user}) for user in users])
        with session.mapping(Enrich, "visits", batch_size=2, workers=1) as mapping, mapping.outcomes() as outcomes:
            for outcome in outcomes:
                *visits, lookups = outcome.result
                print(", ".join(visits), "after", lookups, "look-ups")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
