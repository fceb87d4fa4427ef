"""Handlers that say where they run."""

import os
import threading
import time

SPAWNED_BY_IMPORT = os.environ.get("SCALED_THREAD") and threading.Thread(target=time.sleep, args=(3600,), daemon=True)
if SPAWNED_BY_IMPORT:
    SPAWNED_BY_IMPORT.start()

IMPORTED_BY = os.getpid()


def slow(event, context):
    print(os.getpid(), os.getpid() == IMPORTED_BY, os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"])
    time.sleep(0.05)


def third(event, context):
    """Take a third of a second, longer than what holds a worker up."""
    time.sleep(0.3)
    print(os.getpid(), os.getpid() == IMPORTED_BY, os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"])
