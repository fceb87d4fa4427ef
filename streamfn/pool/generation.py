"""One generation of a function: a zygote, and the workers that are made from it.

A function has one generation at a time that makes workers.  When it is renewed, the next one is brought up beside
it, and the old one's workers retire; it ends with the last of them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

import trio

from streamfn.errors import FailedError, HandlerImportError, RefusedError, StreamfnError
from streamfn.pool import linux, protocol
from streamfn.pool.config import FunctionConfig
from streamfn.pool.confine.environment import Environment, Environments
from streamfn.pool.fork import fork_zygote
from streamfn.pool.inits import exited_in_init, import_error, timed_out_in_init
from streamfn.pool.lane import FailureKind
from streamfn.pool.launch import launch
from streamfn.pool.link import ZygoteLink
from streamfn.pool.logs import INVOCATION_BYTES_MAX
from streamfn.pool.reaper import TICK_S
from streamfn.pool.worker import State, Worker


class Home(Protocol):
    """The function, as its generations see it.  None of this waits but `room`."""

    def make_worker(self, config: FunctionConfig) -> tuple[Worker, bool]:
        """A new worker without a process, and whether it begins an environment anew (else it goes on in one whose
        process has died).  OSError when there are no means for it."""

    def has_room(self, generation: Generation) -> bool:
        """Whether another worker of this generation may take work now."""

    async def wait_moved(self) -> None:
        """Wait until a worker has come or gone, or the generations have changed."""

    def enlisted(self, worker: Worker) -> None:
        """It takes work now."""

    def moved(self) -> None:
        """A worker came, or went, or will take nothing more."""

    def ended(self, worker: Worker, *, with_zygote: bool) -> None:
        """It is buried, or has come to nothing; `with_zygote`: because its zygote is gone."""

    def fail(self, generation: Generation, error: StreamfnError) -> None:
        """A worker could not be made, and why."""


class Generation:
    """See the module.  `begin`, then `run` as a task of its own until it ends; `make` workers meanwhile.

    `where` says where Init is done (`protocol.ZYGOTE` and so on), `unforkable` why it must be done in each worker,
    if it must.  `coming` counts workers that do not take work yet, `standing` those of them that could, `hatched` those
    that ever did.
    """

    def __init__(
        self, config: FunctionConfig, home: Home, environments: Environments, *, where: str, limit_s: float
    ) -> None:
        self.config = config
        self.where = where
        self.limit_s = limit_s
        self.is_second_try = False  # Init has taken too long before
        self.unforkable = ""
        self.begins: str | None = None  # what each forked worker does before it is ready: see `protocol`
        self.coming = 0
        self.standing = 0
        self.hatched = 0
        self.init_log = b""
        self.init_ns = 0
        self.error: StreamfnError | None = None  # why it could not begin
        self.timed_out = False  # an Init took longer than `limit_s`
        self.workers: set[Worker] = set()
        self._home = home
        self._environments = environments
        self._link: ZygoteLink | None = None
        self._log: int | None = None
        self._files = contextlib.ExitStack()
        self._nursery: trio.Nursery | None = None
        self._gone = trio.Event()
        self._leaving: str | None = None  # why it is to end
        self._tokens = 0
        self._unused_init_ns = 0
        self._folder: Path | None = None  # for files of environments without a /tmp of their own
        self._no_tmp: str | None = None  # why they have none

    @property
    def shortcomings(self) -> list[str]:
        """What of the function's limits this machine does not hold as it should, a sentence each."""
        said = self._environments.shortcomings(self.config.limits)
        if self._no_tmp is not None and self._folder is not None:
            said.append(
                f"each worker has a directory in {self._folder} instead of a /tmp of its own, TMPDIR names it, and its "
                f"size is looked at every second: {self._no_tmp}"
            )
        return said

    @property
    def pid(self) -> int | None:
        """The zygote's; None when there is none."""
        return None if self._link is None else self._link.process.pid

    @property
    def can_make(self) -> bool:
        """Whether there is something to make workers from."""
        return self._nursery is not None and self._leaving is None and self._link is not None and not self._link.is_gone

    # ---- the zygote

    async def begin(self) -> bool:
        """Start the zygote and have Init done.  False where that failed (`error`), or each worker has to do it.

        Cancellation: nothing is left.
        """
        began_ns = time.monotonic_ns()
        try:
            if not self.config.debug:
                self._log = linux.growing_memfd("streamfn-init", append=True)
                self._files.callback(os.close, self._log)
            self._link = self._launch()
            environment = self._environments.zygote(self.config.limits, self.config.maximum)
            self._files.callback(environment.close)
            if await self._initialise(self._link, environment):
                self.init_ns = self._unused_init_ns = time.monotonic_ns() - began_ns
                return True
        except StreamfnError as error:
            self.error = error
        except OSError as error:
            self.error = self._without_means(error)
        except BaseException:
            await self.close()
            raise
        await self.close()
        return False

    async def run(self) -> None:
        """Be there until the zygote is gone, or it has been told to leave and its last worker has ended."""
        link = self._link
        assert link is not None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._wait_left, nursery.cancel_scope)
                self._home.moved()
                await link.run()
                # The workers' tasks see by themselves that it is gone, and bury what is left of them.
                self._gone.set()
                self._leaving = self._leaving or "its zygote is gone"
        finally:
            self._nursery = None
            await self.close()
            self._home.moved()

    async def _wait_left(self, scope: trio.CancelScope) -> None:
        """Wait until the last worker of a generation that leaves has ended."""
        await self._gone.wait()
        if self._link is not None and not self._link.is_gone:
            scope.cancel()

    def leave(self, reason: str) -> None:
        """End at a batch edge: make nothing more, retire all workers, and go with the last of them."""
        self._leaving = self._leaving or reason
        for worker in list(self.workers):
            if worker.state is State.STARTING:
                worker.kill()
            else:
                worker.retire(reason)
        self._look()

    def _look(self) -> None:
        if self._leaving is not None and not self.workers:
            self._gone.set()

    async def close(self) -> None:
        """End the zygote with everything below it; shielded, and takes well under a second."""
        link, self._link = self._link, None
        try:
            if link is not None:
                await link.close()
        finally:
            self._files.close()

    def _without_means(self, error: OSError) -> FailedError:
        return FailedError(f"cannot make workers for {self.config.name}: {error}")

    def _launch(self) -> ZygoteLink:
        config = self.config
        if config.callable is not None and config.start_method == "spawn":
            raise RefusedError(
                f"{config.spoken} cannot be imported by a process that is spawned, because it has no importable name; "
                "put it into a module and name it, or use the start method fork"
            )
        if config.callable is not None and config.isolation.is_sandbox:
            raise RefusedError(
                f"{config.spoken} cannot be run in a sandbox, because it has no importable name and would bring the "
                "memory of this process along; put it into a module and name it"
            )
        near, far = protocol.pair()
        try:
            if config.callable is not None:
                process = fork_zygote(
                    far.fileno(),
                    config.callable,
                    code_dir=config.code_dir,
                    environment=config.environment,
                    log=self._log,
                )
            else:
                process = launch(
                    far.fileno(),
                    name=config.name,
                    code_dir=config.code_dir,
                    environment=config.environment,
                    log=self._log,
                    isolation=config.isolation,
                    storage_bytes=config.limits.storage_bytes,
                )
        except BaseException:
            near.close()
            raise
        finally:
            far.close()
        return ZygoteLink(process, near)

    async def _initialise(self, link: ZygoteLink, environment: Environment) -> bool:
        """Have Init done.  False if there will be no workers of this zygote."""
        config = self.config
        began_ns = time.monotonic_ns()
        # A sandbox's walls have a /tmp of their own.
        self._folder = None if config.isolation.is_sandbox else self._environments.folder(config.limits)
        if self._folder is not None:
            self._files.callback(self._environments.remove_folder, self._folder)
        fields = {
            "op": "init",
            "main": config.main,
            "settings": dict(config.settings),
            "runtime_pid": os.getpid(),
            "code_dir": config.code_dir,
            "debug": config.debug,
            "init": self.where,
            "limits": config.limits.to_json(),
            "isolation": config.isolation.to_json(),
            "holding": self._environments.holding(config.limits)._asdict(),
            "workers": config.maximum,
            "folder": None if self._folder is None else str(self._folder),
        }
        message: protocol.Message | None = None
        try:
            environment.born(link.process.pid)
            async with self._watched(environment, link.process.kill):
                message = await link.initialise(
                    fields, self.limit_s, environment.doors, shelved=config.isolation.data_dir or None
                )
            environment.entered()
        except trio.TooSlowError:
            self.error = self._too_slow()
        else:
            self.error = await self._judge(link, environment, message)
        if self._log is not None:
            self.init_log = os.pread(self._log, INVOCATION_BYTES_MAX, 0)
        if isinstance(self.error, HandlerImportError):
            self._note(self.error, self.init_log, began_ns)
        return self.error is None and message is not None and message.fields["op"] == "ready"

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
        if message.fields["op"] == "unforkable":
            self.unforkable = str(message.fields["reason"])
        no_tmp = message.fields.get("no_tmp")
        self._no_tmp = None if no_tmp is None else str(no_tmp)
        begins = message.fields.get("begins")
        self.begins = None if begins is None else str(begins)
        return None

    def _note(self, error: HandlerImportError, log: bytes, began_ns: int) -> None:
        """Note how an Init went that failed."""
        error.log = log
        error.init_ns = time.monotonic_ns() - began_ns
        error.phase = "invoke" if self.is_second_try else "init"

    def _too_slow(self) -> StreamfnError:
        if self.config.callable is not None:
            return RefusedError(
                f"{self.config.spoken} cannot be run in worker processes: a process forked from this one did not come "
                f"up within {self.limit_s:g} s (another thread held a lock, perhaps); put it into a module and name it"
            )
        self.timed_out = True
        return timed_out_in_init(self.limit_s)

    # ---- a worker

    def make(self) -> None:
        """Make a worker; only if `can_make`."""
        assert self._nursery is not None
        self.coming += 1
        self._nursery.start_soon(self._keep)

    async def _keep(self) -> None:
        coming = True

        def came() -> None:
            nonlocal coming
            if coming:
                coming = False
                self.coming -= 1

        try:
            assert self._link is not None
            await self._one_worker(self._link, came)
        except OSError as error:
            self._home.fail(self, self._without_means(error))
        finally:
            came()
            self._look()
            self._home.moved()

    async def _one_worker(self, link: ZygoteLink, came: Callable[[], None]) -> None:
        """Make a worker, wait for its end, answer what it left."""
        config, home = self.config, self._home
        began_ns = time.monotonic_ns()
        worker, fresh = home.make_worker(config)
        self.workers.add(worker)
        self._tokens += 1
        token = self._tokens
        try:
            born = await link.spawn(token, worker.index, worker.birth_fds, fresh=fresh)
            if born is None:
                return
            worker.born(*born)
            worker.shelf = link.shelf
            if self._no_tmp is not None and self._folder is not None:
                worker.environment.watch_folder(self._folder / str(worker.index))
            if self.where != protocol.ZYGOTE or self.begins is not None:
                if not await self._finish_init(worker, link, token):
                    return
                if self.where != protocol.ZYGOTE:
                    self.init_log = worker.take_log().text
                elif self.begins == protocol.RESTORE:
                    worker.restore_ns = time.monotonic_ns() - began_ns
            worker.init_ns = self._unused_init_ns or time.monotonic_ns() - began_ns
            self._unused_init_ns = 0
            worker.environment.initialised()
            if not await self._find_room(worker):
                if self._leaving is None and not link.is_gone:
                    home.fail(self, FailedError(f"a worker of {config.name} ended before it was given any work"))
                return
            came()
            self.hatched += 1
            worker.enlist()
            home.enlisted(worker)
            await self._wait_ended(worker, link)
            worker.bury(await link.exit_detail(token))
            if worker.retired_for and self._leaving is None:
                await link.wipe(worker.index)
        finally:
            self.workers.discard(worker)
            worker.close()
            link.forget(token)
            home.ended(worker, with_zygote=link.is_gone)

    async def _find_room(self, worker: Worker) -> bool:
        """Wait until the worker may take work.  False if it has ended before."""
        home = self._home
        self.standing += 1
        try:
            if not home.has_room(self):
                home.moved()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._wait_room, nursery.cancel_scope)
                    await worker.wait_ended()
                    worker.kill()
                    nursery.cancel_scope.cancel()
        finally:
            self.standing -= 1
        return worker.state is State.STARTING

    async def _wait_room(self, scope: trio.CancelScope) -> None:
        while not self._home.has_room(self):
            await self._home.wait_moved()
        scope.cancel()

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
        began_ns = time.monotonic_ns()
        out_of_memory = functools.partial(worker.kill, FailureKind.OUT_OF_MEMORY)
        with trio.move_on_after(self.limit_s) as scope:
            async with self._watched(worker.environment, out_of_memory):
                await trio.lowlevel.wait_readable(worker.control.fileno())
            try:
                message = protocol.receive(worker.control, protocol.OF_ITSELF)
            except (protocol.Garbled, BlockingIOError):
                worker.kill()
        error: StreamfnError
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
            self._note(error, log, began_ns)
        if self._leaving is None:
            self._home.fail(self, error)
        return False
