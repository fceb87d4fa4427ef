"""What a mapping is told to do, and which values are refused.

A value that Lambda refuses is refused here, in Lambda's own words and with Lambda's own parameter names;
where a parameter is ours, so are the words.  The command line and the library check here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamfn import limits
from streamfn.core.filter import check as check_filters
from streamfn.errors import RefusedError
from streamfn.functions.configuration import Configuration, function_name_of
from streamfn.functions.constraints import at_most, in_range, one_of, refuse
from streamfn.functions.ranges import WORKERS_MAX, check_function, check_handler, function_violations
from streamfn.mapping.destinations import check_destination
from streamfn.pool.confine.isolation import PROCESS

STARTING_POSITIONS = ("LATEST", "AT_TIMESTAMP", "TRIM_HORIZON")  # in the order of Lambda's own error text
LOGS = ("failed", "all", "none")
ON_DAMAGE = ("strict", "salvage")
NAME_CHARS_MAX = 512  # ours; a default name, HANDLER@STREAM, is at most 257 long
RESPONSE_TYPES = ("ReportBatchItemFailures",)
ARN_PATTERN = (  # the service model's
    r"arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+:((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)"
)
FOR_EVER = -1  # Lambda's: as often, or as long, as the stream keeps the record

_SECONDS_FAR = 1e12  # behind every time that can be told


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """One `run` of one handler on one stream.

    Attributes:
        handler: `module.function`, `dir/module.function` or `module:function`.
        function: the name of the stored function that is run; empty: the handler is none that is stored.
        stream: the stream's name.
        name: the mapping's name; `HANDLER@STREAM`, or `FUNCTION@STREAM`, where none is given.
        batch_size: records in a batch, at most.
        maximum_batching_window_in_seconds: how long a batch may wait to become full.
        starting_position: one of STARTING_POSITIONS; only a mapping's first run looks at it.
        starting_position_timestamp: seconds since 1970, UTC, as Lambda's API has it; with AT_TIMESTAMP only.
        parallelization_factor: batches of one shard that may be in invocations at once.
        maximum_retry_attempts: of a batch, after its first delivery; FOR_EVER: until it succeeds.
        maximum_record_age_in_seconds: older records are discarded; FOR_EVER: none is too old.
        bisect_batch_on_function_error: a failed batch of more than one record is split in two.
        function_response_types: of RESPONSE_TYPES: the handler says which records of its batch failed.
        tumbling_window_in_seconds: state is carried through windows so long; 0: there are none.
        filters: event filter patterns, as JSON texts; a record that matches any of them is delivered. None: all are.
        filters_max: how many of them are allowed: Lambda's 5, or up to 10, to which AWS raises it when asked.
        on_failure: where descriptions of discarded batches go: see `destinations`; empty: nowhere.
        workers: worker processes.
        timeout_s: of one invocation; None, for debugging only: no timeout.
        memory_size: of one execution environment, in MB of 1,048,576 bytes; None: no limit.
        ephemeral_storage: the size of an environment's own /tmp, in MB; None: /tmp is the machine's.
        layers: directories that are put on the path behind the code directory: their `python/`, and themselves.
        isolation: `process` or `sandbox`: see `pool.confine.isolation`.
        allow_network: a sandbox has the machine's network.
        provisioned_concurrency: how many of `workers` are kept warm; None: all.
        reserved_concurrency: how many invocations the function may have at a time; None: as many as it has workers.
        start_method: `fork`: workers are forked when the module was imported; `spawn`: they import it themselves.
        until_caught_up: end when everything that is there at the start has a disposition.
        limit: hand over exactly so many records, then end; None: no limit.
        environment: variables added to the handlers' environment.
        logs: which invocations write Lambda's log lines: one of LOGS.
        on_damage: one of ON_DAMAGE: a damaged shard stops (strict), or goes on behind what cannot be read (salvage).
        debug: one worker, with the terminal as its standard streams and no timeout.
        measured: workers stamp when an event has been built, for `Stages`; some 100 ns an invocation.
    """

    handler: str
    stream: str
    function: str = ""
    name: str = ""
    batch_size: int = limits.BATCH_SIZE_DEFAULT
    maximum_batching_window_in_seconds: int = 0
    starting_position: str = "TRIM_HORIZON"
    starting_position_timestamp: float | None = None
    parallelization_factor: int = 1
    maximum_retry_attempts: int = FOR_EVER
    maximum_record_age_in_seconds: int = FOR_EVER
    bisect_batch_on_function_error: bool = False
    function_response_types: tuple[str, ...] = ()
    tumbling_window_in_seconds: int = 0
    filters: tuple[str, ...] = ()
    filters_max: int = limits.FILTERS_MAX_DEFAULT
    on_failure: str = ""
    workers: int = 1
    timeout_s: int | None = limits.FUNCTION_TIMEOUT_S_DEFAULT
    memory_size: int | None = None
    ephemeral_storage: int | None = None
    layers: tuple[str, ...] = ()
    isolation: str = PROCESS
    allow_network: bool = False
    provisioned_concurrency: int | None = None
    reserved_concurrency: int | None = None
    start_method: str = "fork"
    until_caught_up: bool = False
    limit: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    logs: str = "failed"
    on_damage: str = "strict"
    debug: bool = False
    measured: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", f"{self.target}@{self.stream}")

    @property
    def target(self) -> str:
        """What is run, by the name that a mapping keeps: the stored function's, or the handler's."""
        return self.function or self.handler

    def configuration(self, code_dir: str) -> Configuration:
        """The function that is run, with its code in an absolute directory."""
        return Configuration(
            name=self.function or function_name_of(self.handler),
            handler=self.handler,
            code_dir=code_dir,
            timeout_s=self.timeout_s,
            memory_size=self.memory_size,
            ephemeral_storage=self.ephemeral_storage,
            environment=self.environment,
            layers=self.layers,
            isolation=self.isolation,
            allow_network=self.allow_network,
            provisioned_concurrency=self.provisioned_concurrency,
            reserved_concurrency=self.reserved_concurrency,
            start_method=self.start_method,
        )

    @property
    def starting_position_ms(self) -> int | None:
        """`starting_position_timestamp` in milliseconds since 1970, UTC.

        Raises:
            RefusedError: it is no number, or has no bounds.
        """
        seconds = self.starting_position_timestamp
        if seconds is None:
            return None
        if not abs(seconds) < _SECONDS_FAR:  # JSON as Python reads it has NaN and infinities
            raise RefusedError(f"starting position timestamp {seconds} is not between 1970 and now")
        return round(seconds * 1000)


def of_function(configuration: Configuration, processors: int, workers: int | None = None) -> dict[str, Any]:
    """What a run of a stored function is told of it, as fields of `RunOptions`.

    `workers` is how many there may be, if that is said. If not, it is what is reserved, else one for each processor, or
    more where more are provisioned. Of what is provisioned as much is kept as there may be.
    """
    provisioned = configuration.provisioned_concurrency
    most = workers or configuration.reserved_concurrency or max(processors, provisioned or 1)
    return {
        "handler": configuration.handler,
        "function": configuration.name,
        "timeout_s": configuration.timeout_s,
        "memory_size": configuration.memory_size,
        "ephemeral_storage": configuration.ephemeral_storage,
        "layers": configuration.layers,
        "isolation": configuration.isolation,
        "allow_network": configuration.allow_network,
        "environment": configuration.environment,
        "start_method": configuration.start_method,
        "workers": most,
        "provisioned_concurrency": None if provisioned is None else min(most, provisioned),
        "reserved_concurrency": configuration.reserved_concurrency,
    }


def check_not_throttled(configuration: Configuration) -> None:
    """Raise RefusedError for a function that is not to run at all."""
    if configuration.reserved_concurrency == 0:
        raise RefusedError(
            f"the function {configuration.name!r} has a reserved concurrency of 0: nothing runs it. "
            f"streamfn function update {configuration.name} --reserved-concurrency none"
        )


def validate(options: RunOptions, *, now_ms: int) -> None:
    """Refuse what Lambda would refuse, and what cannot be meant.

    `now_ms` is milliseconds since 1970, UTC: no starting position may lie behind it.

    Raises:
        RefusedError: with every violation that Lambda would list, or the first of the others.
    """
    check_ranges(options)
    check_meaning(options, now_ms=now_ms)


def check_meaning(options: RunOptions, *, now_ms: int) -> None:
    """Refuse what each value's range allows, and what cannot be meant.

    Raises:
        RefusedError: with the first of them.
    """
    _check_names(options)
    _check_position(options, now_ms)
    _check_failures(options)
    check_function(options)
    provisioned = options.provisioned_concurrency
    if provisioned is not None and provisioned > options.workers:
        raise RefusedError(f"a provisioned concurrency of {provisioned} needs as many workers, not {options.workers}")
    if options.debug and (options.workers != 1 or options.timeout_s is not None):
        raise RefusedError("debugging means one worker and no timeout")
    if options.timeout_s is None and not options.debug:
        raise RefusedError("only debugging goes without a timeout")


def check_ranges(options: RunOptions) -> None:
    """Refuse what the service's model refuses, before anything else is looked at.

    Raises:
        RefusedError: with every violation.
    """
    refuse(list(_violations(options)))


def _violations(options: RunOptions) -> Iterator[str]:
    """Yield, in Lambda's words, each value that is out of its range."""
    yield from in_range("batchSize", options.batch_size, 1, limits.BATCH_SIZE_MAX)
    window = options.maximum_batching_window_in_seconds
    yield from in_range("maximumBatchingWindowInSeconds", window, 0, limits.BATCH_WINDOW_S_MAX)
    yield from one_of("startingPosition", options.starting_position, STARTING_POSITIONS)
    yield from in_range("parallelizationFactor", options.parallelization_factor, 1, limits.PARALLELIZATION_FACTOR_MAX)
    yield from in_range("maximumRetryAttempts", options.maximum_retry_attempts, FOR_EVER, limits.RETRY_ATTEMPTS_MAX)
    age = options.maximum_record_age_in_seconds
    yield from in_range("maximumRecordAgeInSeconds", age, FOR_EVER, limits.RECORD_AGE_S_MAX)
    window = options.tumbling_window_in_seconds
    yield from in_range("tumblingWindowInSeconds", window, 0, limits.TUMBLING_WINDOW_S_MAX)
    yield from _response_types(options.function_response_types)
    yield from in_range("filtersMax", options.filters_max, 1, limits.FILTERS_MAX)
    for number, pattern in enumerate(options.filters, 1):
        yield from at_most(f"filterCriteria.filters.{number}.member.pattern", pattern, limits.FILTER_CHARS_MAX)
    yield from at_most("destinationConfig.onFailure.destination", options.on_failure, limits.DESTINATION_CHARS_MAX)
    yield from function_violations(options)
    yield from in_range("workers", options.workers, 1, WORKERS_MAX)
    if options.limit is not None and options.limit < 1:
        yield from in_range("limit", options.limit, 1, options.limit)
    yield from one_of("logs", options.logs, LOGS)
    yield from one_of("onDamage", options.on_damage, ON_DAMAGE)


def _response_types(types: tuple[str, ...]) -> Iterator[str]:
    if not set(types) <= set(RESPONSE_TYPES):
        allowed = f"Member must satisfy constraint: [Member must satisfy enum value set: [{', '.join(RESPONSE_TYPES)}]]"
        yield f"Value '[{', '.join(types)}]' at 'functionResponseTypes' failed to satisfy constraint: {allowed}"
    elif len(types) > 1:
        rule = "Member must have length less than or equal to 1"
        yield f"Value '[{', '.join(types)}]' at 'functionResponseTypes' failed to satisfy constraint: {rule}"


def _check_names(options: RunOptions) -> None:
    if not re.fullmatch(limits.STREAM_NAME_PATTERN, options.stream):
        raise RefusedError(f"stream name {options.stream!r} is not valid: it must match {limits.STREAM_NAME_PATTERN}")
    if not options.function:  # that of a stored function was checked when it was stored
        check_handler(options.handler)
    if not 1 <= len(options.name) <= NAME_CHARS_MAX or not options.name.isprintable():
        raise RefusedError(f"mapping name {options.name!r} is not valid: 1 to {NAME_CHARS_MAX} printable characters")


def _check_position(options: RunOptions, now_ms: int) -> None:
    given_ms = options.starting_position_ms
    if options.starting_position == "AT_TIMESTAMP":
        if given_ms is None:
            raise RefusedError("starting position AT_TIMESTAMP needs a starting position timestamp")
        if not 0 <= given_ms <= now_ms:
            raise RefusedError(f"starting position timestamp {given_ms / 1000} is not between 1970 and now")
    elif given_ms is not None:
        raise RefusedError(f"a starting position timestamp goes with AT_TIMESTAMP, not {options.starting_position}")


def _check_failures(options: RunOptions) -> None:
    """Refuse what the model allows and the guide does not; the words are ours: nobody has recorded Lambda's."""
    age = options.maximum_record_age_in_seconds
    if 0 <= age < limits.RECORD_AGE_S_MIN:
        raise RefusedError(
            f"Value '{age}' at 'maximumRecordAgeInSeconds' is not valid: "
            f"it is {limits.RECORD_AGE_S_MIN} to {limits.RECORD_AGE_S_MAX}, or {FOR_EVER} for no limit"
        )
    if options.tumbling_window_in_seconds and options.parallelization_factor > 1:
        raise RefusedError(
            f"a tumbling window ('tumblingWindowInSeconds' {options.tumbling_window_in_seconds}) needs a "
            f"'parallelizationFactor' of 1, not {options.parallelization_factor}: "
            "a window's state goes from one invocation to the next"
        )
    check_filters(options.filters, at_most=options.filters_max)
    check_destination(options.on_failure, options.stream)
