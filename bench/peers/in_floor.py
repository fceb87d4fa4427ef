"""The floor: one process that parses ready-made JSON and calls the handler. Nothing is handed over."""

from orjson import loads

from bench import handlers
from bench.peers.job import answer, job


def main():
    asked = job()
    handler = getattr(handlers, asked.handler)
    for event in asked.events():
        handler(loads(event), None)
    answer("orjson")


if __name__ == "__main__":
    main()
