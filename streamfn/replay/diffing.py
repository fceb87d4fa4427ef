"""Two handlers over the same records: where their results differ, and for which record.

Both are mappings with stores apart over the same part of a stream, whose batches are cut the same (`run(once=True)`).
Of each result a digest is kept until the other's has come; so a million records take no more memory than the one
handler is ahead of the other.  Where digests differ, both are called again on halves of the batch, by runs of the same
kind, until it is the record:

    batches of A ──▶ digest ─┐ joined by shard and offset
    batches of B ──▶ digest ─┴──▶ Comparison ──▶ the first that differ ──▶ smallest: halves of the batch ──▶ Finding

A result is the response as JSON, whatever the order of its keys, or the error's type and message.  What happens to
be said of one invocation only, its request id, is left out of what Lambda itself says of an error.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import trio

from streamfn.errors import RefusedError
from streamfn.limits import ROLE_ARN
from streamfn.log.shard.cursor import ShardCursor
from streamfn.mapping.options import FOR_EVER, RunOptions
from streamfn.mapping.resolving import event_of

if TYPE_CHECKING:
    from pathlib import Path

    from streamfn.log.segment.rows import Row
    from streamfn.mapping.mapping import EventSourceMapping
    from streamfn.mapping.outcome import Outcome
    from streamfn.mapping.result import RunResult
    from streamfn.mapping.runtime import Runtime

# Of so many differences the record is looked for, and told.
SHOWN = 5

# So many batches the faster handler may be ahead; each costs some 200 bytes.
AHEAD_MAX = 50_000


class Batch(NamedTuple):
    """What one handler made of one batch."""

    first_offset: int
    end_offset: int
    records: int
    digest: bytes


class Place(NamedTuple):
    """A batch, or a part of one, for which results differ."""

    shard_id: str
    first_offset: int
    end_offset: int
    records: int


@dataclass(slots=True)
class Comparison:
    """The results of two handlers, 0 and 1, joined.  `uncompared` are records that only one of them was given."""

    batches: int = 0
    records: int = 0
    different: int = 0
    uncompared: int = 0
    first: dict[str, list[Place]] = field(default_factory=dict)  # by shard, in order, SHOWN at most
    _waiting: dict[str, tuple[deque[Batch], deque[Batch]]] = field(default_factory=dict)
    _ahead: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, side: int, shard_id: str, batch: Batch) -> None:
        """The next batch of a shard, as handler `side` has answered it."""
        queues = self._waiting.setdefault(shard_id, (deque(), deque()))
        queues[side].append(batch)
        self._ahead[side] += 1
        while queues[0] and queues[1]:
            self._join(shard_id, queues)

    def ahead(self, side: int) -> int:
        """How many batches wait for the other handler."""
        return self._ahead[side]

    def end(self) -> None:
        """Nothing more comes."""
        for queues in self._waiting.values():
            self.uncompared += sum(batch.records for queue in queues for batch in queue)
        self._waiting.clear()
        self._ahead = [0, 0]

    def _join(self, shard_id: str, queues: tuple[deque[Batch], deque[Batch]]) -> None:
        one, other = queues[0][0], queues[1][0]
        if one[:3] != other[:3]:
            # What was trimmed meanwhile one of them never saw, and the batches before it end elsewhere.
            behind = 0 if (one.end_offset, one.first_offset) <= (other.end_offset, other.first_offset) else 1
            self.uncompared += self._take(queues, behind).records
            return
        self._take(queues, 0)
        self._take(queues, 1)
        self.batches += 1
        self.records += one.records
        if one.digest != other.digest:
            self.different += 1
            places = self.first.setdefault(shard_id, [])
            if len(places) < SHOWN:
                places.append(Place(shard_id, *one[:3]))

    def _take(self, queues: tuple[deque[Batch], deque[Batch]], side: int) -> Batch:
        self._ahead[side] -= 1
        return queues[side].popleft()


async def smallest(first: int, end: int, differs: Callable[[int, int], Awaitable[bool]]) -> tuple[int, int]:
    """The first smallest part of [first, end) for which `differs` holds, found by halving; it holds for the whole."""
    while end - first > 1:
        middle = (first + end) // 2
        if await differs(first, middle):
            end = middle
        elif await differs(middle, end):
            first = middle
        else:
            break
    return first, end


# ---- results


def result_of(outcome: Outcome) -> bytes:
    """What is compared of an outcome."""
    fault = outcome.fault
    if fault is None:
        return canonical(outcome.response)
    return b"\0".join([b"!", fault.error_type.encode(), fault.message.replace(outcome.request_id, "").encode()])


def canonical(response: bytes) -> bytes:
    """A response so that equal ones are equal bytes: JSON with its keys in order, numbers as they were written."""
    if not response.startswith((b"{", b"[")):
        return response
    try:
        value = json.loads(response, parse_float=_number, parse_int=_number, parse_constant=_number)
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, RecursionError):  # bytes that a handler returned are passed on, whatever they are
        return response


def _number(text: str) -> dict[str, str]:
    return {"number": text}


def digest_of(results: Sequence[bytes]) -> bytes:
    """Sixteen bytes that differ where results do."""
    digest = blake2b(digest_size=16)
    for result in results:
        digest.update(len(result).to_bytes(8))
        digest.update(result)
    return digest.digest()


class Said(NamedTuple):
    """What a handler said of some records: a response (JSON), or an error."""

    response: bytes
    error_type: str | None
    message: str

    @classmethod
    def of(cls, outcome: Outcome) -> Said:
        """What an outcome says."""
        fault = outcome.fault
        return cls(outcome.response, None, "") if fault is None else cls(b"", fault.error_type, fault.message)

    def to_json(self) -> object:
        """For programs: the response, or Lambda's error document without its stack trace."""
        if self.error_type is not None:
            return {"errorType": self.error_type, "errorMessage": self.message}
        try:
            return json.loads(self.response, parse_constant=str)  # NaN, which is no JSON
        except (ValueError, RecursionError):
            return self.response.decode("utf-8", "replace")


class Finding(NamedTuple):
    """Where two handlers differ, as closely as it could be found.

    `rows` are the records, one if the difference is in it; `said` what each handler says of them, called on them alone.
    `alone` is False where both then say the same: the difference is in what came before, or is one of time or
    chance; `said` are empty then, and `rows` the whole batch.
    """

    place: Place
    rows: tuple[Row, ...]
    said: tuple[Said | None, Said | None]
    alone: bool
    event: bytes


# ---- running both


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two handlers: how it is run, and where its code is (None: in the current directory)."""

    options: RunOptions
    code_dir: Path | None


def check(options: RunOptions) -> None:
    """Refuse what makes a result depend on more than the records of its batch.

    Raises:
        RefusedError: it does.
    """
    if options.tumbling_window_in_seconds:
        raise RefusedError(
            "--diff compares batches one by one: with --tumbling-window-in-seconds a result depends on those before it"
        )
    factor = options.parallelization_factor
    if factor > 1:
        raise RefusedError(
            f"--diff needs the same batches for both handlers: with --parallelization-factor {factor} they depend on "
            "which of a shard's lanes is faster; shards run beside each other anyway"
        )
    if options.debug:
        raise RefusedError("--diff runs two handlers, and --debug has one terminal: leave one of them out")


class Diff:
    """Runs two handlers over the same part of a stream.  `comparison` is what is known so far."""

    def __init__(
        self,
        runtime: Runtime,
        sides: tuple[Side, Side],
        starts: Mapping[str, int],
        ends: Mapping[str, int],
        limit: int | None = None,
    ) -> None:
        """`starts` and `ends` are offsets by shard id; the store of `runtime` must be one apart."""
        self.comparison = Comparison()
        self.mappings: list[EventSourceMapping] = []
        self.findings: list[Finding] = []
        self._runtime = runtime
        self._sides = tuple(
            replace(side, options=_plain(side.options, f"{side.options.target}, {name}"))
            for side, name in zip(sides, ("the first handler", "the second handler"), strict=True)
        )
        self._starts = starts
        self._ends = ends
        self._limit = limit
        self.probes = 0  # how often one of the handlers was called again
        self.drained = False

    async def open(self) -> None:
        """Start both functions.

        Raises:
            HandlerImportError: one cannot be loaded.
        """
        for side in self._sides:
            self.mappings.append(
                await self._runtime.mapping(side.options, code_dir=side.code_dir, starts=self._starts, follow=False)
            )

    def drain(self) -> None:
        """Stop at the edge of a batch; what has been compared is told."""
        self.drained = True
        for mapping in self.mappings:
            mapping.drain()

    async def run(self) -> None:
        """Run both, compare, and look for the records of the first differences.

        Cancellation: stops at once.

        Raises:
            LogDamaged: a shard is damaged.
        """
        one, other = self.mappings
        watched = [mapping.watch(self._watcher(side)) for side, mapping in enumerate(self.mappings)]
        try:
            if self._limit is None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._beside, one, other)
                    nursery.start_soon(self._beside, other, one)
            else:
                # Which records these are is known when the first handler has had them.
                result = await self._run(one, self._ends, self._limit)
                ends = {name: result.resumes_at.get(name, 0) for name in self._ends}
                if not self.drained:
                    await self._run(other, ends)
        finally:
            for stop in watched:
                stop()
        self.comparison.end()
        places = [place for name in self._ends for place in self.comparison.first.get(name, ())]
        for place in places[:SHOWN]:
            if self.drained:
                break
            self.findings.append(await self._find(place))

    async def _beside(self, mapping: EventSourceMapping, other: EventSourceMapping) -> None:
        await self._run(mapping, self._ends)
        other.resume()  # nobody is waited for any more

    async def _run(self, mapping: EventSourceMapping, ends: Mapping[str, int], limit: int | None = None) -> RunResult:
        return await mapping.run(ends=ends, limit=limit, once=True)

    def _watcher(self, side: int) -> Callable[[Outcome], None]:
        comparison, limited = self.comparison, self._limit is not None

        def watch(outcome: Outcome) -> None:
            digest = digest_of([result_of(outcome)])
            batch = Batch(outcome.first_offset, outcome.end_offset, outcome.records, digest)
            comparison.add(side, outcome.shard_id, batch)
            if not limited:
                self._balance(side)

        return watch

    def _balance(self, side: int) -> None:
        """Have the faster one wait, and go on when the other has come nearer: never both, which may differ by shard."""
        mapping, other, ahead = self.mappings[side], self.mappings[1 - side], self.comparison.ahead
        if other.paused:
            if ahead(1 - side) <= AHEAD_MAX // 2:
                other.resume()
        elif ahead(side) >= AHEAD_MAX and not other.ending:
            mapping.pause()

    # ---- one difference

    async def _find(self, place: Place) -> Finding:
        """Find the record in a batch."""
        name = place.shard_id
        outcomes: list[list[Outcome]] = [[], []]  # of the smallest part so far for which they differ

        async def differs(first: int, end: int) -> bool:
            both = [await self._results(side, name, first, end) for side in (0, 1)]
            results = [[result_of(outcome) for outcome in each] for each in both]
            if results[0] == results[1]:
                return False
            outcomes[:] = both
            return True

        first, end = await smallest(place.first_offset, place.end_offset, differs)
        alone = (first, end) != (place.first_offset, place.end_offset) or await differs(first, end)
        said = [Said.of(found[0]) if found else None for found in outcomes]
        rows = await trio.to_thread.run_sync(self._rows, name, first, end)
        if len(rows) > 1 and self.mappings[0].selector is not None:
            rows = []  # those that the filters have left out are among them
        shown = place._replace(first_offset=first, end_offset=end, records=len(rows) or place.records)
        event: dict[str, Any] = event_of(self.mappings[0].stream, name, rows, ROLE_ARN)
        return Finding(shown, tuple(rows), (said[0], said[1]), alone, orjson.dumps(event))

    async def _results(self, side: int, shard_id: str, first: int, end: int) -> list[Outcome]:
        """Deliver a part of a shard to one handler, as one batch unless it is too large for that; what came of it."""
        outcomes: list[Outcome] = []
        self.probes += 1
        chosen = self._sides[side]
        options = replace(chosen.options, name=f"{chosen.options.name}, again {self.probes}", filters=())
        mapping = await self._runtime.mapping(
            options, code_dir=chosen.code_dir, shared=self.mappings[side].function, starts={shard_id: first}
        )
        try:
            mapping.selector = self.mappings[side].selector  # the same filters, whose processes run already
            stop = mapping.watch(outcomes.append)
            await mapping.run(ends={shard_id: end}, once=True)
            stop()
        finally:
            mapping.selector = None
            with trio.CancelScope(shield=True):
                await self._runtime.part(mapping)
        return outcomes

    def _rows(self, shard_id: str, first: int, end: int) -> list[Row]:
        shard = self.mappings[0].stream.shard(shard_id)
        assert shard is not None, "shards of a stream stay in its description for ever"
        with ShardCursor(shard, first, end) as cursor:
            return list(cursor)


def _plain(options: RunOptions, name: str) -> RunOptions:
    """Options with which every batch is delivered once, and whatever is returned is a result."""
    return replace(
        options,
        name=name,
        maximum_batching_window_in_seconds=0,
        maximum_retry_attempts=0,
        maximum_record_age_in_seconds=FOR_EVER,
        bisect_batch_on_function_error=False,
        function_response_types=(),
        on_failure="",
        until_caught_up=False,
        limit=None,
    )
