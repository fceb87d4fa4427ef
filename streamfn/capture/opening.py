"""Finding the source that a target names, with errors that say what to do."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from streamfn.capture import pace
from streamfn.capture.client import Access, open_client
from streamfn.capture.dynamodb import DynamoDBSource, stream_arn_of
from streamfn.capture.kinesis import KinesisSource
from streamfn.capture.pace import Pace
from streamfn.capture.source import Description, Source, SourceShard, Trouble, TroubleKind
from streamfn.capture.target import Target
from streamfn.capture.threads import CALLS_MAX
from streamfn.core.backoff import Backoff
from streamfn.errors import FailedError, RefusedError, StreamfnError
from streamfn.log.catalog.stream import KINESIS

# Somebody waits at a terminal: a source that does not answer is given up after some seconds.
ATTEMPTS = 5
_BACKOFF = Backoff(initial_ns=250_000_000, max_ns=4_000_000_000)
_PERMISSIONS = {
    KINESIS: "kinesis:DescribeStreamSummary, ListShards, GetShardIterator and GetRecords",
    "dynamodb": "dynamodb:ListStreams, DescribeStream, GetShardIterator and GetRecords",
}
_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized")

T = TypeVar("T")


class Opened(NamedTuple):
    """A source, how fast it may be read, and what it is at the start."""

    source: Source
    pace: Pace
    described: Description
    listed: list[SourceShard]


def open_source(target: Target, access: Access) -> Opened:
    """Find a source and ask what it is.  May take some seconds where it does not answer.

    Raises:
        RefusedError: boto3 or credentials are missing, or there is no such stream.
        FailedError: access is denied, or the source does not answer.
    """
    if access.region is None and target.region is not None:
        access = Access(endpoint_url=access.endpoint_url, region=target.region, profile=access.profile)
    if target.kind == KINESIS:
        client = open_client("kinesis", access, connections=CALLS_MAX)
    else:
        client = open_client("dynamodbstreams", access, connections=CALLS_MAX)
    try:
        return _opened(client, target, access)
    except BaseException:
        client.close()
        raise


def _opened(client: Any, target: Target, access: Access) -> Opened:
    source: Source
    if target.kind == KINESIS:
        source, limits = KinesisSource(client, target), pace.KINESIS
        missing = f"there is no stream {target.name!r} in region {client.meta.region_name}"
    else:
        arn = target.arn or _patiently(lambda: stream_arn_of(client, target, access), target, "")
        source, limits = DynamoDBSource(client, arn), pace.DYNAMODB
        missing = f"there is no stream {arn}"
    described = _patiently(source.describe, target, missing)
    return Opened(source, limits, described, _patiently(source.shards, target, missing))


def _patiently(ask: Callable[[], T], target: Target, missing: str) -> T:
    """Ask until there is an answer, a few times."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return ask()
        except Trouble as trouble:
            if trouble.kind not in (TroubleKind.THROTTLED, TroubleKind.TRANSIENT) or attempt == ATTEMPTS:
                raise explained(trouble, target, missing) from None
            time.sleep(_BACKOFF.delay_ns(attempt, random.random) / 1e9)
    raise AssertionError("unreachable")


def explained(trouble: Trouble, target: Target, missing: str) -> StreamfnError:
    """Return a trouble that nothing can be done about here, as an error that says what a user can do."""
    if trouble.kind is TroubleKind.GONE:
        return RefusedError(missing)
    if trouble.code == "NoCredentials":
        return RefusedError(f"cannot record {target}: {trouble}")
    if trouble.code in _DENIED:
        return FailedError(f"cannot record {target}: {trouble} (needed are {_PERMISSIONS[target.kind]})")
    return FailedError(f"cannot record {target}: {trouble}")
