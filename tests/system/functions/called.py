"""Handlers that are called once: what they were given, and every way of not succeeding."""

import os
import sys
import time


def echo(event, context):
    return event


def told(event, context):
    print("a line")
    return {
        "event": event,
        "stage": os.environ.get("STAGE"),
        "memory": context.memory_limit_in_mb,
        "name": context.function_name,
        "arn": context.invoked_function_arn,
        "remaining": context.get_remaining_time_in_millis(),
        "path": sys.path[:4],
    }


def raises(event, context):
    raise ValueError("no")


def sleeps(event, context):
    time.sleep(60)


def exits(event, context):
    os._exit(3)


def too_large(event, context):
    return "x" * (6 * 1024 * 1024 + 101)


def unprintable(event, context):
    return {1, 2}
