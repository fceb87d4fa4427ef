"""What the process pools are asked to call, in a module that a fresh process imports quickly."""

from orjson import loads

from bench import handlers


def one(name, event):
    """An invocation."""
    return getattr(handlers, name)(loads(event), None)


def some(name, events):
    """As many invocations as there are events, in one call."""
    handler = getattr(handlers, name)
    return [handler(loads(event), None) for event in events]


def nothing(_=None):
    """Something to start a worker with."""


def chunks(events, size):
    """Lists of so many events."""
    return [events[first : first + size] for first in range(0, len(events), size)]
