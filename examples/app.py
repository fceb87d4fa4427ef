"""A plain Lambda handler: nothing in it knows of streamfn.

    streamfn put clicks '{"page": "/", "user": "ann"}'
    streamfn run app.handler --stream clicks --until-caught-up
"""

import base64
import json


def handler(event, context):
    pages = {}
    for record in event["Records"]:
        click = json.loads(base64.b64decode(record["kinesis"]["data"]))
        pages[click["page"]] = pages.get(click["page"], 0) + 1
    print(f"{len(event['Records'])} clicks, {context.get_remaining_time_in_millis()} ms left")
    return pages
