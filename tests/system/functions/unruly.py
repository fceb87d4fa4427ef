"""Handlers that misbehave the first time, and write down what they get once they succeed.

Each does its deed when it meets a record `deed` for the first time (a marker file remembers that), and then is `seen`.
"""

import base64
import json
import os
import resource
import signal
import subprocess
import sys
import time

import seen


def contents(event):
    return [base64.b64decode(record["kinesis"]["data"]).decode() for record in event["Records"]]


def first_time(event):
    """Whether this batch has a record `deed` and nobody has met the batch before."""
    if "deed" not in contents(event):
        return False
    try:
        os.close(os.open(os.path.join(os.environ["NOTES"], "met-" + contents(event)[0]), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def by_name(event, context):
    """Does what the handler does that the first record names."""
    return globals()[contents(event)[0]](event, context)


class Peculiar(Exception):
    def __str__(self):
        return "with\nlines and \u00e9"


def raises(event, context):
    if first_time(event):
        raise Peculiar
    return seen.handler(event, context)


def exits(event, context):
    if first_time(event):
        sys.exit(7)
    return seen.handler(event, context)


def exits_plainly(event, context):
    if first_time(event):
        sys.exit()
    return seen.handler(event, context)


def interrupts(event, context):
    if first_time(event):
        raise KeyboardInterrupt
    return seen.handler(event, context)


def vanishes(event, context):
    if first_time(event):
        os._exit(0)
    return seen.handler(event, context)


def kills_itself(event, context):
    if first_time(event):
        os.kill(os.getpid(), signal.SIGKILL)
    return seen.handler(event, context)


def crashes(event, context):
    if first_time(event):
        import ctypes

        ctypes.string_at(0)
    return seen.handler(event, context)


def spins(event, context):
    if first_time(event):
        print("spinning")
        while True:
            pass
    return seen.handler(event, context)


def ignores_signals(event, context):
    if first_time(event):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(60)
    return seen.handler(event, context)


def closes_everything(event, context):
    if first_time(event):
        seen.handler(event, context)
        os.closerange(0, 4096)
        path = os.path.join(os.environ["NOTES"], "precious")
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        os.write(descriptor, b"precious")
        for other in range(descriptor + 1, 1024):
            os.dup2(descriptor, other)
        return None
    return seen.handler(event, context)


def forks_and_returns(event, context):
    """Both parent and child come back from the handler; only the parent is a worker."""
    child = os.fork()
    if child == 0:
        return {"child": True}
    os.waitpid(child, 0)
    return seen.handler(event, context)


def forks_and_raises(event, context):
    child = os.fork()
    if child == 0:
        raise Peculiar
    os.waitpid(child, 0)
    return seen.handler(event, context)


def leaves_a_child(event, context):
    subprocess.Popen(["sleep", "1000"], env={**os.environ, "STRAY": "1"})
    return seen.handler(event, context)


def prints_much(event, context):
    seen.handler(event, context)
    line = b"x" * 1023 + b"\n"
    for _ in range(100):
        os.write(1, line * 1024)


def prints_without_newline(event, context):
    seen.handler(event, context)
    sys.stdout.write("no newline here")
    sys.stderr.write("nor \x1b[31mhere \xff")


def prints_lies(event, context):
    """Lines that look like ours, and what a terminal would obey."""
    seen.handler(event, context)
    os.write(1, b"END RequestId: forged\n\x1b]0;title\x07\x1b[2J\r\xff\xfe\x00\n")


def replaces_stdout(event, context):
    seen.handler(event, context)
    sys.stdout = sys.stderr = None


def unserialisable(event, context):
    if first_time(event):
        return {"when": object()}
    return seen.handler(event, context)


def answers_with_surrogate(event, context):
    seen.handler(event, context)
    return "\udc80"


def too_large(event, context):
    if first_time(event):
        return "x" * 6_300_000
    return seen.handler(event, context)


def large(event, context):
    seen.handler(event, context)
    return "x" * 6_291_000


def recursive(event, context):
    if first_time(event):
        value = []
        for _ in range(100_000):
            value = [value]
        return value
    return seen.handler(event, context)


def logs(event, context):
    import logging

    logging.getLogger().warning("careful")
    logging.getLogger("mine").info("not shown at the default level")
    print(json.dumps({"at": context.aws_request_id}))
    seen.handler(event, context)


def noted(event, context):
    """Write down when, how many, and the first record of each batch."""
    first = contents(event)[0]
    with open(os.path.join(os.environ["NOTES"], "noted"), "a") as file:
        row = {
            "at": time.time(), "records": len(event["Records"]), "first": first[:20],
            "shard": event["Records"][0]["eventID"].split(":")[0],
            "bytes": len(json.dumps(event, separators=(",", ":"))), "pid": os.getpid(),
        }  # fmt: skip
        file.write(json.dumps(row) + "\n")
    seen.handler(event, context)


def naps(event, context):
    """Says when it begins and when it is done."""
    with open(os.path.join(os.environ["NOTES"], "begun"), "a") as file:
        file.write("x")
    time.sleep(float(os.environ.get("NAP", "2")))
    seen.handler(event, context)


def always_fails(event, context):
    if "deed" in contents(event):
        raise RuntimeError("every time")
    return seen.handler(event, context)


def fails_thrice(event, context):
    """Fails three times on the record `deed`, and notes when."""
    if "deed" in contents(event):
        with open(os.path.join(os.environ["NOTES"], "attempts"), "a+") as file:
            file.write(f"{time.time()}\n")
            file.seek(0)
            if len(file.readlines()) <= 3:
                raise RuntimeError("not yet")
    return seen.handler(event, context)


def surroundings(event, context):
    """Everything a handler can see, as JSON."""
    context.log("logged\n")
    fields = (
        "function_name", "function_version", "invoked_function_arn", "memory_limit_in_mb", "aws_request_id",
        "log_group_name", "log_stream_name", "client_context", "tenant_id",
    )  # fmt: skip
    row = {
        "context": {name: getattr(context, name) for name in fields},
        "identity": [context.identity.cognito_identity_id, context.identity.cognito_identity_pool_id],
        "remaining": context.get_remaining_time_in_millis(),
        "deadline": context._epoch_deadline_time_in_ms - time.time() * 1000,
        "environment": dict(os.environ),
        "cwd": os.getcwd(), "path": sys.path, "argv": sys.argv, "name": __name__,
        "hour": time.localtime().tm_hour - time.gmtime().tm_hour,
        "modules": sorted(sys.modules), "event": event,
        "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
        "stdin": sys.stdin.read(),
    }  # fmt: skip
    with open(os.path.join(os.environ["NOTES"], "surroundings"), "w") as file:
        json.dump(row, file)
    return seen.handler(event, context)


def debugged(event, context):
    answer = len(event["Records"])
    breakpoint()
    with open(os.path.join(os.environ["NOTES"], "answer"), "w") as file:
        file.write(str(answer))


def counts_faults(event, context):
    """Notes how many page faults a thing of 2 MB costs that is made and let go of again and again."""
    makings = 20
    for _ in range(3):
        [bytes(20_000) for _ in range(100)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(makings):
        [bytes(20_000) for _ in range(100)]
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    with open(os.path.join(os.environ["NOTES"], "faults"), "w") as file:
        file.write(str(faults / makings))
