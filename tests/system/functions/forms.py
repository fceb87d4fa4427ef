"""Handlers of every form: coroutines, classes with state, methods, partials, decorated ones."""

import asyncio
import functools
import os
import sys
import time

MADE_IN = os.getpid()  # the zygote, for workers that were forked


async def asynchronous(event, context):
    await asyncio.sleep(0)
    return [len(event["Records"]), context.get_remaining_time_in_millis() > 0]


loops = []


async def loops_seen(event, context):
    loops.append(asyncio.get_running_loop())
    return [len(loops), len(set(loops)), asyncio.get_event_loop_policy().get_event_loop() is loops[0]]


async def leaves_tasks(event, context):
    """Starts a task that is never ready; says how the one of the invocation before ended."""
    before = getattr(leaves_tasks, "task", None)
    ended = before is None or before.cancelled()

    async def never_ready():
        await asyncio.sleep(3600)

    leaves_tasks.task = asyncio.create_task(never_ready(), name="laggard")
    return ended


async def keeps_task(event, context):
    """Counts in a task that lives on; returns what it has counted to."""
    import streamfn

    if not hasattr(keeps_task, "task"):
        keeps_task.ticks = 0

        async def tick():
            while True:
                keeps_task.ticks += 1
                await asyncio.sleep(0)

        keeps_task.task = streamfn.keep_task(asyncio.create_task(tick()))
    for _ in range(3):
        await asyncio.sleep(0)
    return [keeps_task.ticks, keeps_task.task.done()]


async def inner():
    raise ValueError("asynchronously")


async def raises(event, context):
    await asyncio.sleep(0)
    await inner()


async def exits(event, context):
    await asyncio.sleep(0)
    sys.exit(5)


async def never_returns(event, context):
    await asyncio.sleep(3600)


async def forks(event, context):
    """Returns in both processes; only the worker answers."""
    left = asyncio.create_task(asyncio.sleep(60))
    if os.fork() == 0:
        return "child"
    await asyncio.sleep(0.05)
    left.cancel()
    os.wait()
    return "parent"


def logged(function):
    @functools.wraps(function)
    def wrapper(event, context):
        return function(event, context)

    return wrapper


@logged
async def decorated(event, context):
    return "decorated"


class Counter:
    """Counts invocations; the class attribute says in how many processes it was made."""

    def __init__(self):
        self.pid = os.getpid()
        self.count = 0

    def __call__(self, event, context):
        self.count += 1
        return [self.count, self.pid == os.getpid(), self.pid == MADE_IN]

    def method(self, event, context):
        return ["method", *self(event, context)]

    @staticmethod
    def static(event, context):
        return "static"

    @classmethod
    def of_class(cls, event, context):
        return cls.__name__


class Witness(Counter):
    def __call__(self, event, context):
        time.sleep(0.01)  # so that one worker does not do all there is to do before the other has begun
        return [os.getpid(), super().__call__(event, context)[0]]


class AsyncCounter:
    def __init__(self):
        self.count = 0

    async def __call__(self, event, context):
        await asyncio.sleep(0)
        self.count += 1
        return self.count


class Unmakeable:
    def __init__(self):
        raise RuntimeError("no database")

    def __call__(self, event, context):
        raise AssertionError


class Plain(dict):
    """Has no __call__: it is called itself, as in Lambda."""

    def __init__(self, event, context):
        super().__init__(records=len(event["Records"]))


instance = Counter()
