"""A function: its zygote and its workers, kept alive until it is stopped.

One generation is one zygote and the workers forked from it.  A dead worker is replaced by its zygote, a
dead zygote by a new generation; both with a pause that grows while nothing comes of it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import trio

from streamfn import limits
from streamfn.errors import FailedError, HandlerImportError, RefusedError, StreamfnError
from streamfn.pool import linux, protocol
from streamfn.pool.confine.environment import Environment, Keeper
from streamfn.pool.confine.isolation import Isolation
from streamfn.pool.confine.limits import Limits
from streamfn.pool.fork import FORK_INIT_S, fork_zygote
from streamfn.pool.lane import FailureKind
from streamfn.pool.launch import launch
from streamfn.pool.link import ZygoteLink
from streamfn.pool.logs import INVOCATION_BYTES_MAX
from streamfn.pool.reaper import TICK_S, Reaper
from streamfn.pool.worker import Worker

_PAUSE_S = 0.05
_PAUSE_S_MAX = 5.0


@dataclass(frozen=True, kw_only=True)
class FunctionConfig:
    """What a function is.

    `main` names the module that workers run: it has `init(settings) -> state`, which may raise
    `protocol.InitFailed`, and `main(state, seat)`.  `settings` must be JSON-able.  `environment` is the
    complete environment of the workers.  `timeout_s` None: never.  `debug`: workers inherit the terminal.
    `minimum` workers are kept ready, and there are never more than `maximum`.  `start_method` "fork": Init is done once
    and workers are forked from there; "spawn": each worker does Init itself, as it also is where Init leaves something
    behind that does not survive a fork.  `limits` and `isolation` are those of every execution environment.
    `callable`: a function without an importable name; its zygote is forked from this process, and `init`
    finds it as `settings["callable"]`.
    """

    name: str
    main: str
    settings: Mapping[str, object]
    code_dir: str
    environment: Mapping[str, str]
    minimum: int
    maximum: int
    timeout_s: float | None
    start_method: Literal["fork", "spawn"] = "fork"
    limits: Limits = field(default_factory=Limits)
    isolation: Isolation = field(default_factory=Isolation)
    debug: bool = False
    callable: Callable[..., object] | None = None


class Function:
    """A started function.  `workers` are the ready ones; it changes under your hands, between awaits only.

    `fault` is why there are fewer workers than there should be, when a later Init failed: it is tried
    again and again.  `init_log` is what the last Init has printed (at most 1 MiB; not in debug mode).
    """

    def __init__(self, config: FunctionConfig, reaper: Reaper, keeper: Keeper, *, fold: bool) -> None:
        self.config = config
        self.workers: list[Worker] = []
        self.zygote_pid: int | None = None
        self.fault: StreamfnError | None = None
        self.init_log = b""
        self._reaper = reaper
        self._keeper = keeper
        self._fold = fold
        self._scope = trio.CancelScope()
        self._settled = trio.Event()  # the first generation stands, or has failed
        self._ended = trio.Event()
        self._unforkable = False
        self._begins: str | None = None  # what each forked worker does before it is ready: see `protocol`
        self._tokens = 0
        self._hatched = 0

    async def run(self) -> None:
        """Keep the function alive until it is stopped; a task of the pool's."""
        try:
            with self._scope:
                barren = 0
                while True:
                    born = self._hatched
                    await self._generation()
                    barren = 0 if self._hatched > born else barren + 1
                    await trio.sleep(_pause_s(barren))
        finally:
            self._ended.set()
            self._settled.set()

    async def wait_started(self) -> None:
        """Wait until every worker is ready.

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

    @property
    def is_stopped(self) -> bool:
        """Whether there will be no more workers."""
        return self._ended.is_set()

    @property
    def _is_started(self) -> bool:
        return self._hatched >= self.config.minimum

    def _fail(self, error: StreamfnError) -> None:
        """Note that no worker could be made.  At the start that is the end; later it is tried again."""
        self.fault = error
        if self._is_started:
            self._reaper.tell()
        else:
            self._scope.cancel()

    # ---- a generation ----

    async def _generation(self) -> None:
        with contextlib.ExitStack() as files:
            log: int | None = None
            try:
                if not self.config.debug:
                    log = linux.growing_memfd("streamfn-init", append=True)
                    files.callback(os.close, log)
                link = self._launch(log)
            except StreamfnError as error:
                return self._fail(error)
            except OSError as error:
                return self._fail(self._without_means(error))
            try:
                environment = self._keeper.zygote(self.config.limits, self.config.maximum)
                files.callback(environment.close)
                await self._serve(link, environment, log)
            except OSError as error:
                self._fail(self._without_means(error))
            finally:
                self.zygote_pid = None
                await link.close()

    async def _serve(self, link: ZygoteLink, environment: Environment, log: int | None) -> None:
        """Have a zygote do Init, and keep its workers until it is gone."""
        self.zygote_pid = link.process.pid
        if not await self._initialise(link, environment, log):
            return
        async with trio.open_nursery() as nursery:
            for index in range(self.config.minimum):
                nursery.start_soon(self._keep_worker, link, index)
            await link.run()
        if not self._is_started:
            self._fail(FailedError(f"the zygote of {self.config.name} ended while it started workers"))

    def _without_means(self, error: OSError) -> FailedError:
        return FailedError(f"cannot make workers for {self.config.name}: {error}")

    def _launch(self, log: int | None) -> ZygoteLink:
        config = self.config
        if config.callable is not None and config.start_method == "spawn":
            raise RefusedError(
                f"{_named(config.callable)} cannot be imported by a process that is spawned, because it has no "
                "importable name; put it into a module and name it, or use the start method fork"
            )
        if config.callable is not None and config.isolation.is_sandbox:
            raise RefusedError(
                f"{_named(config.callable)} cannot be run in a sandbox, because it has no importable name and would "
                "bring the memory of this process along; put it into a module and name it"
            )
        near, far = protocol.pair()
        try:
            if config.callable is not None:
                process = fork_zygote(
                    far.fileno(),
                    config.callable,
                    code_dir=config.code_dir,
                    environment=config.environment,
                    log=log,
                )
            else:
                process = launch(
                    far.fileno(),
                    name=config.name,
                    code_dir=config.code_dir,
                    environment=config.environment,
                    log=log,
                    isolation=config.isolation,
                    storage_bytes=config.limits.storage_bytes,
                )
        except BaseException:
            near.close()
            raise
        finally:
            far.close()
        return ZygoteLink(process, near)

    async def _initialise(self, link: ZygoteLink, environment: Environment, log: int | None) -> bool:
        """Have Init done.  False if there will be no workers of this zygote."""
        config = self.config
        fields = {
            "op": "init",
            "main": config.main,
            "settings": dict(config.settings),
            "runtime_pid": os.getpid(),
            "code_dir": config.code_dir,
            "debug": config.debug,
            "init": self._where_init_is_done,
            "limits": config.limits.to_json(),
            "isolation": config.isolation.to_json(),
            "holding": self._keeper.holding(config.limits)._asdict(),
            "workers": config.maximum,
        }
        error: StreamfnError | None
        message: protocol.Message | None = None
        try:
            environment.born(link.process.pid)
            async with self._watched(environment, link.process.kill):
                message = await link.initialise(fields, self._init_limit_s, environment.doors)
            environment.entered()
        except trio.TooSlowError:
            error = self._too_slow()
        except OSError as refusal:
            error = self._without_means(refusal)
        else:
            error = await self._judge(link, environment, message)
        if log is not None:
            self.init_log = os.pread(log, INVOCATION_BYTES_MAX, 0)
        if error is not None:
            if isinstance(error, HandlerImportError):
                error.log = self.init_log
            self._fail(error)
            return False
        return message is not None and message.fields["op"] == "ready"

    @property
    def _where_init_is_done(self) -> str:
        if self.config.start_method == "spawn":
            return protocol.FRESH
        return protocol.WORKER if self._unforkable else protocol.ZYGOTE

    @property
    def _init_limit_s(self) -> float:
        if self.config.debug:
            return float("inf")
        return FORK_INIT_S if self.config.callable is not None else limits.INIT_TIMEOUT_S

    @contextlib.asynccontextmanager
    async def _watched(self, environment: Environment, kill: Callable[[], None]) -> AsyncIterator[None]:
        """Kill a process that uses more memory than it may, for as long as the block lasts: that of an Init."""

        async def watch() -> None:
            while True:
                await trio.sleep(TICK_S)
                if environment.is_over():
                    return kill()

        if self.config.limits.memory_mb is None:
            yield
            return
        error: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                yield
            except Exception as raised:  # it comes out as it is, in no exception group
                error = raised
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error

    async def _judge(
        self, link: ZygoteLink, environment: Environment, message: protocol.Message | None
    ) -> StreamfnError | None:
        if message is None:
            await trio.lowlevel.wait_readable(link.process.pidfd)
            return exited_in_init(link.process.exit_detail(), out_of_memory=environment.ran_out())
        if message.fields["op"] == "failed":
            return import_error(message.fields["document"])
        if message.fields["op"] == "unwalled":
            return RefusedError(
                f"isolation 'sandbox' cannot be had for {self.config.name}: {message.fields['reason']}; "
                "`streamfn doctor` says what this machine allows"
            )
        # Not forkable as it is: the next zygote leaves Init to its workers.
        self._unforkable = self._unforkable or message.fields["op"] == "unforkable"
        begins = message.fields.get("begins")
        self._begins = None if begins is None else str(begins)
        return None

    def _too_slow(self) -> StreamfnError:
        if self.config.callable is not None:
            return RefusedError(
                f"{_named(self.config.callable)} cannot be run in worker processes: a process forked from this one did "
                f"not come up within {FORK_INIT_S:g} s (another thread held a lock, perhaps); put it into a module and "
                f"name it"
            )
        text = f"Task timed out after {limits.INIT_TIMEOUT_S:.2f} seconds"
        return HandlerImportError(f"Init: {text}", {"errorType": "Sandbox.Timedout", "errorMessage": text})

    # ---- one place for a worker ----

    async def _keep_worker(self, link: ZygoteLink, index: int) -> None:
        barren = 0
        while not link.is_gone:
            try:
                fruitful = await self._one_worker(link, index)
            except OSError as error:
                fruitful = False
                self._fail(self._without_means(error))
            barren = 0 if fruitful else barren + 1
            with trio.move_on_after(_pause_s(barren)):
                await link.wait_gone()

    async def _one_worker(self, link: ZygoteLink, index: int) -> bool:
        """Make a worker, wait for its end, answer what it left.  True if it had done anything."""
        config = self.config
        environment = self._keeper.worker(config.limits)
        try:
            worker = Worker(
                self._reaper,
                self.workers,
                index,
                environment,
                timeout_s=config.timeout_s,
                debug=config.debug,
                fold=self._fold,
            )
        except OSError:
            environment.close()
            raise
        self._tokens += 1
        token = self._tokens
        try:
            asked_ns = time.monotonic_ns()
            born = await link.spawn(token, index, worker.birth_fds)
            if born is None:
                return False
            worker.born(*born)
            if self._where_init_is_done != protocol.ZYGOTE or self._begins is not None:
                if not await self._finish_init(worker, link, token):
                    return False
                if self._where_init_is_done != protocol.ZYGOTE:
                    self.init_log = worker.take_log().text
                elif self._begins == protocol.RESTORE:
                    worker.restore_ns = time.monotonic_ns() - asked_ns
            worker.environment.initialised()
            self._enlist(worker)
            await self._wait_ended(worker, link)
            worker.bury(await link.exit_detail(token))
            return worker.fruitful or bool(worker.retired_for)
        finally:
            worker.close()
            link.forget(token)

    def _enlist(self, worker: Worker) -> None:
        worker.enlist()
        self.fault = None
        self._hatched += 1
        if self._is_started:
            self._settled.set()

    async def _wait_ended(self, worker: Worker, link: ZygoteLink) -> None:
        async def follow_zygote() -> None:
            await link.wait_gone()
            worker.kill()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow_zygote)
            await worker.wait_ended()
            nursery.cancel_scope.cancel()

    async def _finish_init(self, worker: Worker, link: ZygoteLink, token: int) -> bool:
        """Wait for the Init that a worker does itself, or what it begins with.  False, and noted, if it failed."""
        message: protocol.Message | None = None
        out_of_memory = functools.partial(worker.kill, FailureKind.OUT_OF_MEMORY)
        with trio.move_on_after(self._init_limit_s) as scope:
            async with self._watched(worker.environment, out_of_memory):
                await trio.lowlevel.wait_readable(worker.control.fileno())
            try:
                message = protocol.receive(worker.control, protocol.OF_ITSELF)
            except (protocol.Garbled, BlockingIOError):
                worker.kill()
        if scope.cancelled_caught:
            error = self._too_slow()
        elif message is None:
            await self._wait_ended(worker, link)
            error = exited_in_init(await link.exit_detail(token), out_of_memory=worker.environment.ran_out())
        elif message.fields.get("op") == "ready":
            return True
        else:
            error = import_error(str(message.fields.get("document")))
        log = worker.take_log().text
        if isinstance(error, HandlerImportError):
            error.log = log
        self._fail(error)
        return False


def _named(function: Callable[..., object]) -> str:
    return str(getattr(function, "__qualname__", repr(function)))


def import_error(text: str) -> HandlerImportError:
    """Make the exception of an error document."""
    document: Any
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        document = {"errorMessage": text}
    message = document.get("errorMessage")
    return HandlerImportError(message if isinstance(message, str) else "", document)


def exited_in_init(detail: str, *, out_of_memory: bool) -> HandlerImportError:
    """Make the exception for a process that ended in Init, in Lambda's words."""
    reason = "without providing a reason" if detail == "exit status 0" else f"with error: {detail}"
    text = f"Runtime exited {reason}"
    kind = "Runtime.OutOfMemory" if out_of_memory else "Runtime.ExitError"
    return HandlerImportError(f"Init: {text}", {"errorType": kind, "errorMessage": text})


def _pause_s(barren: int) -> float:
    """Give the pause after `barren` attempts in a row of which nothing came."""
    return min(_PAUSE_S_MAX, _PAUSE_S * 2.0 ** (barren - 1)) if barren else 0.0
