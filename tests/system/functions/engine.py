"""Handlers of the engine's tests."""

import base64
import os
import time


def noop(event, context):
    pass


def naps(event, context):
    time.sleep(0.005)


def fails_once(event, context):
    try:
        os.close(os.open(os.path.join(os.environ["NOTES"], "failed"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    raise ValueError("the first time")


def prints_early(event, context):
    """Long enough after it that what was printed is handed out before the answer."""
    print("early", flush=True)
    time.sleep(0.25)


def prints(event, context):
    print("said")


def noted(event, context):
    """Write down what begins and what ends: a line with the offset for each."""
    offset = int(event["Records"][0]["kinesis"]["sequenceNumber"][-20:])
    descriptor = os.open(os.path.join(os.environ["NOTES"], "noted"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, b"begin %d\n" % offset)
    time.sleep(0.05)
    os.write(descriptor, b"end %d\n" % offset)
    os.close(descriptor)


def poisoned(event, context):
    """Writes down what it sees, and raises for the record whose number the file `poison` has."""
    numbers = [base64.b64decode(record["kinesis"]["data"]).decode() for record in event["Records"]]
    with open(os.path.join(os.environ["NOTES"], "poison")) as file:
        poison = file.read()
    descriptor = os.open(os.path.join(os.environ["NOTES"], "seen"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, " ".join(numbers).encode() + b"\n")
    os.close(descriptor)
    if poison in numbers:
        raise ValueError(f"poisoned by {poison}")


def stamped(event, context):
    """Write down which numbers it was given, and when: nanoseconds on the monotonic clock."""
    numbers = [base64.b64decode(record["kinesis"]["data"]).decode() for record in event["Records"]]
    descriptor = os.open(os.path.join(os.environ["NOTES"], "stamped"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{time.monotonic_ns()} {' '.join(numbers)}\n".encode())
    os.close(descriptor)


def stalls_once(event, context):
    """Takes half a second for the batch that has the record 20, and no time for others."""
    if any(base64.b64decode(record["kinesis"]["data"]) == b"20" for record in event["Records"]):
        time.sleep(0.5)
