"""A module whose import takes its time, and says that it has begun."""

import os
import time

import seen

with open(os.path.join(os.environ["NOTES"], "init"), "w"):
    time.sleep(float(os.environ.get("INIT_NAP", "0")))


def handler(event, context):
    return seen.handler(event, context)
