"""A scanner that is killed by records which say so: what a parser that can be crashed would be."""

import os
import signal

from streamfn.mapping import filtering, scanner
from streamfn.mapping.scanner import init, main

__all__ = ["init", "main"]

parse = scanner.orjson.loads


class Deadly:
    """In place of orjson."""

    JSONDecodeError = scanner.orjson.JSONDecodeError

    @staticmethod
    def loads(document):
        if b"deadly" in bytes(document):
            os.kill(os.getpid(), signal.SIGKILL)
        return parse(document)


scanner.orjson = filtering.orjson = Deadly
