"""Handlers with snapshot hooks: NOTES has a file `hooks` with a line for each that ran."""

import os

from snapshot_restore_py import register_after_restore, register_before_snapshot

ZYGOTE = os.getpid()
restored = []


def note(text):
    with open(os.path.join(os.environ["NOTES"], "hooks"), "a") as file:
        file.write(f"{text} {'zygote' if os.getpid() == ZYGOTE else 'worker'}\n")


@register_before_snapshot
def first():
    note("first before")


register_before_snapshot(note, "second before")


@register_after_restore
def restore():
    note("first after")
    restored.append(os.getpid())


register_after_restore(note, text="second after")
if os.environ.get("FAILS") == "before":
    register_before_snapshot(lambda: 1 / 0)
if os.environ.get("FAILS") == "after":
    register_after_restore(lambda: 1 / 0)


def handler(event, context):
    print("restored here:", restored == [os.getpid()])
    return restored == [os.getpid()]


class Handler:
    """Made behind the hooks."""

    def __init__(self):
        note("made")

    def __call__(self, event, context):
        return "made"
