"""A scanner that lies about records which say how: what one would do that a record has taken over."""

from array import array

from streamfn.mapping import filtering, scanner
from streamfn.mapping.scanner import init, main

__all__ = ["init", "main"]

parse, honest = scanner.orjson.loads, scanner._answer
lies: list[str] = []


class Overheard:
    """In place of orjson."""

    JSONDecodeError = scanner.orjson.JSONDecodeError

    @staticmethod
    def loads(document):
        text = bytes(document).decode()
        if "lie:" in text:
            lies.append(text.partition("lie:")[2].partition('"')[0])
        return parse(document)


class Odd:
    def tobytes(self):
        return b"12345"


def answer(work, segments, scan, *, selected):
    truth = honest(work, segments, scan, selected=selected)
    if not lies:
        return truth
    lie = lies.pop()
    lies.clear()
    return {
        "nothing": array("I"),
        "odd": Odd(),
        "more": array("I", [*truth, 0]),
        "endless": array("I", [2**32 - 1, *truth[1:]]),
        "far": array("I", [1, 2**32 - 1]),
        "twice": array("I", [2, 21, 21]),
        "back": array("I", [2, 22, 20]),
    }[lie]


scanner.orjson = filtering.orjson = Overheard
scanner._answer = answer
