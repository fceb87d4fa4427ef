"""A handler that waits and one that computes, each for as long as it is told."""

import os
import time

TIMES = float(os.environ.get("BENCH_TWIN", "1"))


def waits(event, context):
    time.sleep(0.020 * TIMES)


def computes(event, context):
    total = 0
    for number in range(int(20_000 * TIMES)):
        total += number * number
    return total
