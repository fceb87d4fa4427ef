"""A function: its workers, and the generations they are made from, kept alive until it is stopped.

Which workers there are to be is decided for the whole pool at once (`core.scaling`, `pool.scaler`): this is what it
looks at, and what carries it out.  A zygote that dies is replaced by a new generation; what cannot be made is tried
again with a pause that grows while nothing comes of it.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import trio

from streamfn import limits
from streamfn.core.scaling import ATTEMPTS_AHEAD, STARTING_MAX, Bounds, Held, Seen, Share
from streamfn.errors import FailedError, StreamfnError
from streamfn.pool import protocol
from streamfn.pool.config import FunctionConfig
from streamfn.pool.confine.environment import Environments
from streamfn.pool.fork import FORK_INIT_S
from streamfn.pool.generation import Generation
from streamfn.pool.reaper import Reaper
from streamfn.pool.scaler import Scaler
from streamfn.pool.worker import HELD_UP_TIMES, State, Worker

# Lambda gives Init 10 s; where it is done ahead of need, as long as the function may run, and at least this.
INIT_PROVISIONED_S = 130.0
# A worker that does Init itself may take a core for seconds: of these there are few at a time.
STARTING_INITS_MAX = 4


class Census(NamedTuple):
    """How many workers of a function, or of several, are in each state; they add up with `+`.

    `busy` ones have something in flight, `held_up` ones are busy with an invocation that takes so long that others'
    batches went elsewhere; `starting` ones do not take work yet, `retiring` ones not any more. `maximum` is how many
    there may be. `throttles` counts how often something was due and found no worker, nor room for another one.
    """

    busy: int = 0
    held_up: int = 0
    idle: int = 0
    starting: int = 0
    retiring: int = 0
    maximum: int = 0
    throttles: int = 0

    @property
    def ready(self) -> int:
        """Those that take work."""
        return self.busy + self.held_up + self.idle

    def __add__(self, more: tuple[int, ...]) -> Census:  # type: ignore[override]
        return Census(*(mine + theirs for mine, theirs in zip(self, more, strict=True)))


class Function:
    """A started function.  `workers` are the ready ones; it changes under your hands, between awaits only.

    `fault` is why there are fewer workers than there should be, when a later Init failed: it is tried
    again and again.  `init_log` is what the last Init has printed (at most 1 MiB; not in debug mode).
    """

    def __init__(
        self, config: FunctionConfig, reaper: Reaper, environments: Environments, scaler: Scaler, *, fold: bool
    ) -> None:
        self.config = config
        self.workers: list[Worker] = []
        self.fault: StreamfnError | None = None
        self.init_log = b""
        self.share = Share(_bounds(config, protocol.ZYGOTE))
        self._reaper = reaper
        self._environments = environments
        self._scaler = scaler
        self._fold = fold
        self._scope = trio.CancelScope()
        self._settled = trio.Event()  # the first workers are there, or have failed
        self._ended = trio.Event()
        self._moved = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._generation: Generation | None = None
        self._turn = trio.Lock()  # one generation is made at a time
        self._alive: set[Worker] = set()
        self._waiting: set[object] = set()
        self._throttles = 0
        self._numbers = _Numbers()
        self._numbered: set[Worker] = set()  # those that hold their number
        self._hatched = 0
        self._unforkable = ""
        self._slow = False  # Init took longer than it may at first

    # ---- from the start to the end

    async def run(self) -> None:
        """Keep the function alive until it is stopped; a task of the pool's."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    while True:
                        await self._succeed()
                        while self._generation is not None:
                            await self.wait_moved()
        finally:
            self._scaler.remove(self)
            self._ended.set()
            self._settled.set()

    async def wait_started(self) -> None:
        """Wait until every worker is ready that is to be kept so, and Init has been done once.

        Raises HandlerImportError, FailedError or RefusedError (a callable that cannot be forked) if the
        first Init failed; the function is stopped then.
        """
        await self._settled.wait()
        if not self._is_started:
            await self._ended.wait()
            raise self.fault or FailedError(f"{self.config.name} was stopped while it started")

    async def stop(self) -> None:
        """Kill the workers and end the zygote; within a second.  What is in flight is not answered."""
        self._scope.cancel()
        await self._ended.wait()

    async def wait_stopped(self) -> None:
        """Wait until there will be no more workers, and none is left."""
        await self._ended.wait()

    @property
    def is_stopped(self) -> bool:
        """Whether there will be no more workers."""
        return self._ended.is_set()

    async def renew(self, config: FunctionConfig) -> None:
        """Go over to another configuration, or the same one with Init done anew (of code that has changed).

        The next generation is brought up beside this one.  When as many of its workers are ready as there are now (at
        least the minimum), the old ones retire, each at the edge of a batch, and the new ones take their places: never
        more than the maximum are at work.  Lanes go on where they are.

        Cancellation: the old generation goes on.

        Raises:
            HandlerImportError, FailedError, RefusedError: the next generation could not be brought up.  The old one
                goes on, if there is one; else the new configuration is tried again and again.
            RefusedError: the pool's concurrency is not enough for the new bounds; then nothing has changed.
        """
        assert self._nursery is not None, "a function is renewed when it has been started"
        self._scaler.check(config.name, _bounds(config, protocol.ZYGOTE), instead_of=self)
        async with self._turn:
            slow, unforkable = self._slow, self._unforkable
            self._slow, self._unforkable = False, ""
            try:
                after = await self._bring_up(config)
            except BaseException as error:
                if self._generation is not None:
                    self._slow, self._unforkable = slow, unforkable
                elif isinstance(error, StreamfnError):
                    self._adopt(config)
                raise
            before, self._generation = self._generation, after
            self._adopt(config)
            if before is not None:
                before.leave("a new generation is there")
            self._tell()

    async def _bring_up(self, config: FunctionConfig) -> Generation:
        """Make the next generation, with as many workers standing by as there are now."""
        assert self._nursery is not None
        before = self._generation
        after = await self._beget(config)
        if after.error is not None:
            raise after.error
        wanted = 0
        if before is not None:
            wanted = min(config.maximum, max(config.minimum, len(self.workers)))
        if wanted == 0 and after.where != protocol.ZYGOTE:
            wanted = min(1, config.maximum)  # or nothing of the new code would have been tried
        most = _bounds(config, after.where).starting_max
        made = 0
        try:
            while after.standing < wanted:
                while made < wanted and made - after.standing < most:
                    after.make()
                    made += 1
                await self.wait_moved()
                if after.error is not None:
                    raise after.error
                if after.pid is None:
                    raise FailedError(f"the zygote of {config.name} ended while it started workers")
        except BaseException:
            after.leave("it could not be brought up")
            raise
        return after

    def _adopt(self, config: FunctionConfig) -> None:
        self.config = config
        self.share.bounds = _bounds(config, self._where(config))
        self.share.prospered()
        self.fault = None

    # ---- generations

    async def _succeed(self) -> None:
        """Make a generation, after the pause that is due."""
        share = self.share
        while (left_ns := share.resume_ns - time.monotonic_ns()) > 0 or self._is_given_up:
            with trio.move_on_after(max(0, left_ns) / 1e9 if left_ns > 0 else float("inf")):
                await self.wait_moved()
            if self._generation is not None:
                return
        async with self._turn:
            if self._generation is not None:  # it was renewed meanwhile
                return
            generation = await self._beget(self.config)
            self.init_log = generation.init_log
            if generation.error is not None:
                self._fail(generation.error)
            elif generation.pid is not None:
                self._generation = generation
                self._settle()
                self._tell()
            else:
                self._fail(FailedError(f"the zygote of {self.config.name} ended before it made a worker"))

    @property
    def _is_given_up(self) -> bool:
        """Whether nothing is tried any more ahead of need, because it failed so often."""
        return self.share.failures >= ATTEMPTS_AHEAD and not self._waiting

    async def _beget(self, config: FunctionConfig) -> Generation:
        """Make a generation, and another one if the first shows that Init must be done otherwise.

        `error` of it says if there is none.  What is made runs as a task of the function.
        """
        assert self._nursery is not None
        while True:
            where, limit_s = self._where(config), self._init_limit_s(config)
            generation = Generation(config, self, self._environments, where=where, limit_s=limit_s)
            generation.is_second_try = self._slow
            if await generation.begin():
                if self._scope.cancel_called:  # it was stopped meanwhile: nothing would look after it
                    await generation.close()
                    generation.error = FailedError(f"{config.name} was stopped while it was renewed")
                    return generation
                self.share.bounds = _bounds(self.config, where)
                self._nursery.start_soon(self._run, generation)
                try:
                    while not generation.can_make and generation.pid is not None:
                        await self.wait_moved()
                except BaseException:
                    generation.leave("nobody waits for it any more")
                    raise
                return generation
            if generation.unforkable and not self._unforkable:
                self._unforkable = generation.unforkable
                continue
            if generation.timed_out and not self._slow:
                self._slow = True
                if self._init_limit_s(config) > limit_s:
                    continue
            return generation

    async def _run(self, generation: Generation) -> None:
        await generation.run()
        if self._generation is generation:
            self._generation = None
            if not self._is_started:
                self._fail(FailedError(f"the zygote of {self.config.name} ended while it started workers"))
            elif not generation.hatched:
                self.share.failed(time.monotonic_ns())
            self._tell()

    def _where(self, config: FunctionConfig) -> str:
        """Where Init is done."""
        if config.start_method == "spawn":
            return protocol.FRESH
        return protocol.WORKER if self._unforkable else protocol.ZYGOTE

    def _init_limit_s(self, config: FunctionConfig) -> float:
        """How long Init may take: 10 s, then, done again for the first invocation, as long as that; see aws's docs."""
        if config.debug:
            return float("inf")
        if config.callable is not None:
            return FORK_INIT_S
        timeout_s = config.timeout_s or 0.0
        if config.provisioned:
            return max(INIT_PROVISIONED_S, timeout_s)
        return max(limits.INIT_TIMEOUT_S, timeout_s) if self._slow else limits.INIT_TIMEOUT_S

    @property
    def zygote_pid(self) -> int | None:
        """The pid of the zygote that makes workers now; None while there is none."""
        return None if self._generation is None else self._generation.pid

    @property
    def shortcomings(self) -> list[str]:
        """What is not as it should be (limits this machine does not hold, a fork that cannot be), a sentence each."""
        said = [] if self._generation is None else self._generation.shortcomings
        if self._unforkable:
            said.append(
                f"{self._unforkable}, which a fork would lose or share: each worker imports the handler by itself "
                "(start method spawn says that beforehand)"
            )
        if self._slow:
            said.append(
                f"Init took longer than {limits.INIT_TIMEOUT_S:g} s, and was done once more, for as long as an "
                "invocation may take"
            )
        return said

    # ---- what lanes ask

    def choose(self, client: object) -> Worker | None:
        """The ready worker with the fewest lanes, then the least in flight, for a lane that wants to sit down now.

        One that a long invocation holds up is not taken.  None while there is none: then `client` waits, which makes
        the function grow, until it has asked again and got one, or `forget` is called.
        """
        workers = self.workers
        chosen = self._free_worker(client not in self._waiting)
        if chosen is None:
            if client not in self._waiting:
                self._waiting.add(client)
                if not self._scaler.has_room(self):
                    self._throttles += 1
                self._tell()
            return None
        if self._waiting:
            self._waiting.discard(client)
        if len(workers) < self.config.maximum and not any(w.lanes == 0 for w in workers if w is not chosen):
            self._scaler.nudge()
        return chosen

    @property
    def has_worker(self) -> bool:
        """Whether `choose` would find one for a lane that waits."""
        return self._free_worker(newcomers=0) is not None

    def _free_worker(self, newcomers: int) -> Worker | None:
        """See `choose`; `newcomers` lanes want one beside those that wait.

        Where invocations take long, every worker is held up by one now and then, and the first that is free again
        would get all the lanes that wait.  It gets its share: others are free soon, by what invocations take here.
        """
        workers = self.workers
        chosen = min(workers, key=_load) if workers else None
        if chosen is None or chosen.is_held_up:
            return None
        if chosen.lanes and any(worker.is_held_up for worker in workers):
            soon_ns = time.monotonic_ns() - HELD_UP_TIMES * max(worker.usual_ns for worker in workers)
            soon = sum(not worker.is_held_up or worker.progress_ns > soon_ns for worker in workers)
            lanes = sum(worker.lanes for worker in workers) + len(self._waiting) + newcomers
            if chosen.lanes * soon >= lanes:
                return None
        return chosen

    def forget(self, client: object) -> None:
        """A lane does not wait for a worker any more."""
        self._waiting.discard(client)

    @property
    def alive(self) -> int:
        """The workers there are, or are about to be, in whatever state."""
        return len(self._alive)

    def census(self) -> Census:
        """What the workers do now."""
        busy = held_up = starting = retiring = 0
        for worker in self._alive:
            if worker.state is State.READY and worker.in_flight:
                busy += not worker.is_held_up
                held_up += worker.is_held_up
            starting += worker.state is State.STARTING
            retiring += worker.state is State.RETIRING
        idle = len(self.workers) - busy - held_up
        return Census(busy, held_up, idle, starting, retiring, self.config.maximum, self._throttles)

    # ---- what the scaler sees and does

    def seen(self) -> Seen:
        """What there is, for `core.scaling`."""
        share, generation = self.share, self._generation
        if share.failures and any(worker.fruitful for worker in self.workers):
            share.prospered()
        demand, retiring, held = len(self._waiting), 0, []
        for worker in self.workers:
            demand += worker.lanes
            held.append(Held(worker.since_ns, worker.idle_since_ns if not worker.lanes else None))
        for worker in self._alive:
            if worker.state is State.RETIRING:
                demand += worker.lanes
                retiring += 1
        if not self._is_started:
            demand += not self._hatched and self._where(self.config) != protocol.ZYGOTE
        coming = 0 if generation is None else generation.coming
        return Seen(demand, coming, retiring, held, generation is not None and generation.can_make)

    def grow(self, count: int) -> None:
        """Make workers; `seen` has just said that they can be made."""
        assert self._generation is not None
        for _ in range(count):
            self._generation.make()

    def retire(self, numbers: list[int], reason: str) -> None:
        """Retire some of `workers`, named by their indices as they are now."""
        for worker in [self.workers[number] for number in numbers]:
            worker.retire(reason)

    # ---- what generations ask and tell

    def make_worker(self, config: FunctionConfig) -> tuple[Worker, bool]:
        """See `Home`."""
        index, fresh = self._numbers.take()
        environment = None
        try:
            environment = self._environments.worker(config.limits)
            worker = Worker(
                self._reaper,
                self.workers,
                index,
                environment,
                timeout_s=config.timeout_s,
                debug=config.debug,
                fold=self._fold,
                left=self._left,
            )
        except BaseException:
            if environment is not None:
                environment.close()
            self._numbers.give(index, died=False)
            raise
        self._alive.add(worker)
        self._numbered.add(worker)
        return worker, fresh

    def has_room(self, generation: Generation) -> bool:
        """See `Home`."""
        if generation is not self._generation:
            return False
        retiring = sum(worker.state is State.RETIRING for worker in self._alive)
        return len(self.workers) + retiring < self.config.maximum

    async def wait_moved(self) -> None:
        """See `Home`."""
        await self._moved.wait()

    def moved(self) -> None:
        """See `Home`."""
        self._tell()

    def enlisted(self, worker: Worker) -> None:
        """See `Home`."""
        self.fault = None
        self._hatched += 1
        if self._generation is not None:
            self.init_log = self._generation.init_log
        self._settle()
        self._tell()

    def ended(self, worker: Worker, *, with_zygote: bool) -> None:
        """See `Home`."""
        self._alive.discard(worker)
        if worker in self._numbered:
            self._numbered.discard(worker)
            self._numbers.give(worker.index, died=False)
        if worker.since_ns and not with_zygote:
            if worker.fruitful or worker.retired_for:
                self.share.prospered()
            else:
                self.share.failed(time.monotonic_ns())
        self._tell()

    def fail(self, generation: Generation, error: StreamfnError) -> None:
        """See `Home`."""
        if generation.timed_out and not self._slow:
            self._slow = True
            limit_s = self._init_limit_s(generation.config)
            if limit_s > generation.limit_s:  # it is given a second try
                generation.limit_s = limit_s
                generation.is_second_try = True
                self._tell()
                return
        if generation is self._generation:
            self._fail(error)
        else:
            generation.error = error
        self._tell()

    def _fail(self, error: StreamfnError) -> None:
        """Note that no worker could be made.  At the start that is the end; later it is tried again."""
        self.fault = error
        self.share.failed(time.monotonic_ns())
        if self._is_started:
            self._reaper.tell()
        else:
            self._scope.cancel()

    @property
    def _is_started(self) -> bool:
        return self._settled.is_set() and not self._ended.is_set()

    def _settle(self) -> None:
        """Say that the function stands, if it does."""
        config, generation = self.config, self._generation
        if generation is None or self._hatched < config.minimum:
            return
        if self._hatched or generation.where == protocol.ZYGOTE or not config.maximum:
            self._settled.set()

    def _left(self, worker: Worker) -> None:
        """A worker takes nothing more.  If it dies, whoever replaces it goes on under its number."""
        if not worker.retired_for:
            self._numbered.discard(worker)
            self._numbers.give(worker.index, died=True)
        self._tell()

    def _tell(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
        self._scaler.stir()


class _Numbers:
    """The numbers of workers, small ones first: a process that died is replaced under its own."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._orphaned: set[int] = set()

    def take(self) -> tuple[int, bool]:
        """A number that is free, and whether it begins anew with it."""
        if self._orphaned:
            number, fresh = min(self._orphaned), False
            self._orphaned.discard(number)
        else:
            number = next(n for n in range(len(self._taken) + 1) if n not in self._taken)
            fresh = True
        self._taken.add(number)
        return number, fresh

    def give(self, number: int, *, died: bool) -> None:
        """The number's process is gone; if it died, its environment may go on."""
        self._taken.discard(number)
        if died:
            self._orphaned.add(number)


def _load(worker: Worker) -> tuple[bool, int, int]:
    return worker.is_held_up, worker.lanes, worker.in_flight


def _bounds(config: FunctionConfig, where: str) -> Bounds:
    return Bounds(
        minimum=config.minimum,
        maximum=config.maximum,
        reserved=config.reserved,
        idle_ns=round(config.idle_s * 1e9),
        starting_max=STARTING_MAX if where == protocol.ZYGOTE else STARTING_INITS_MAX,
    )
