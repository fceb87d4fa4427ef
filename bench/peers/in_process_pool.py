"""`concurrent.futures.ProcessPoolExecutor`, two workers.

submit    an invocation a call, 64 calls in flight
map N     `map` with a chunk size of N: N invocations a call, whose answers come together
"""

from collections import deque
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from bench.peers.call import nothing, one
from bench.peers.job import LATENCY, answer, job, trips

WORKERS = 2
IN_FLIGHT = 64


def submitting(pool, name, events):
    flying = deque()
    for event in events:
        flying.append(pool.submit(one, name, event))
        if len(flying) >= IN_FLIGHT:
            flying.popleft().result()
    while flying:
        flying.popleft().result()


def main():
    asked = job()
    events = asked.events()
    times = None
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(nothing, range(8 * WORKERS)))
        if asked.way == LATENCY:
            times = trips(lambda event: pool.submit(one, asked.handler, event).result(), events)
        elif asked.way == "submit":
            submitting(pool, asked.handler, events)
        else:
            size = int(asked.way.split()[1])
            deque(pool.map(partial(one, asked.handler), events, chunksize=size), maxlen=0)
    answer("orjson", times_ns=times)


if __name__ == "__main__":
    main()
