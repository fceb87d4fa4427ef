"""Handlers of the library's tests: imported by name, and passed in as what they are."""

import os
import time

SECRET = "as imported"


def count(event, context):
    return {"records": len(event["Records"])}


def echo(event, context):
    return {"request_id": context.aws_request_id, "pid": os.getpid(), "secret": SECRET, "cwd": os.getcwd()}


def sleeper(event, context):
    time.sleep(60)


def often_fails(event, context):
    raise RuntimeError("never works")


def environment(event, context):
    return os.environ.get("LIBRARY_TEST")


class Tool:
    @staticmethod
    def used(event, context):
        return "static"
