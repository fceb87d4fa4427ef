"""The demo's Lambda handler: delays by route.  It knows nothing of streamfn and would run on AWS as it is."""

from __future__ import annotations

import base64
import json
from typing import Any

MINUTES_NONE = -(10**6)  # the worst delay of a route on which nothing has arrived


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Return what a batch of flights says about each route.

    For each route: flights, cancelled ones, arrived ones, the sum of their delays and the worst one, in
    minutes.  Each of the five can be merged with those of other batches.
    """
    routes: dict[str, list[int]] = {}
    for record in event["Records"]:
        flight = json.loads(base64.b64decode(record["kinesis"]["data"]))
        route = routes.setdefault(f"{flight['origin']}-{flight['dest']}", [0, 0, 0, 0, MINUTES_NONE])
        route[0] += 1
        if flight["dep_time"] is None:
            route[1] += 1
        delay = flight["arr_delay"]
        if delay is not None:
            route[2] += 1
            route[3] += delay
            route[4] = max(route[4], delay)
    return {"routes": routes}
