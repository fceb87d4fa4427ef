"""The pytest plugin (entry point `pytest11`): fixtures for tests of handlers.  It imports nothing before it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import pyarrow as pa

    from streamfn.mapping.context import LambdaContext
    from streamfn.testing.builders import DynamoDBEvent, KinesisEvent
    from streamfn.testing.clock import VirtualClock
    from streamfn.testing.results import MappingResult


@pytest.fixture
def kinesis_event() -> Callable[..., KinesisEvent]:
    """`streamfn.testing.kinesis_event`: a Kinesis event of the records it is given."""
    from streamfn.testing import kinesis_event

    return kinesis_event


@pytest.fixture
def dynamodb_event() -> Callable[..., DynamoDBEvent]:
    """`streamfn.testing.dynamodb_event`: a DynamoDB Streams event of the changes it is given."""
    from streamfn.testing import dynamodb_event

    return dynamodb_event


@pytest.fixture
def kinesis_batch() -> Callable[..., pa.RecordBatch]:
    """`streamfn.testing.kinesis_batch`: what an Arrow handler is given of a Kinesis stream."""
    from streamfn.testing import kinesis_batch

    return kinesis_batch


@pytest.fixture
def dynamodb_batch() -> Callable[..., pa.RecordBatch]:
    """`streamfn.testing.dynamodb_batch`: what an Arrow handler is given of a DynamoDB stream."""
    from streamfn.testing import dynamodb_batch

    return dynamodb_batch


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A clock that stands still until it is told to go on; `lambda_context` goes by it."""
    from streamfn.testing import VirtualClock

    return VirtualClock()


@pytest.fixture
def lambda_context(virtual_clock: VirtualClock) -> LambdaContext:
    """A context whose 3 seconds pass on `virtual_clock`."""
    from streamfn.testing import lambda_context

    return lambda_context(clock=virtual_clock)


@pytest.fixture
def run_mapping() -> Callable[..., MappingResult]:
    """`streamfn.testing.run_mapping`: run a mapping over records, in virtual time."""
    from streamfn.testing import run_mapping

    result: Callable[..., Any] = run_mapping
    return result
