"""Streams: hash ranges and routing as Kinesis, and descriptions that survive a round trip."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfn.errors import FailedError
from streamfn.log.catalog import description, stream
from streamfn.log.catalog.stream import HASH_KEYS, Stream, uniform_shards

DIRECTORY = Path("/nowhere/00000000000000ff")


def of(count: int) -> Stream:
    return Stream(DIRECTORY, "s", stream.default_arn("s", "kinesis", 0), 1, uniform_shards(DIRECTORY, count))


def test_ranges_are_those_of_kinesis() -> None:
    assert [(s.start_hash, s.end_hash) for s in of(3).shards] == [
        (0, 113427455640312821154458202477256070484),
        (113427455640312821154458202477256070485, 226854911280625642308916404954512140969),
        (226854911280625642308916404954512140970, 340282366920938463463374607431768211455),
    ]


@given(st.integers(1, 1000), st.text(max_size=20))
def test_every_key_falls_into_the_shard_whose_range_has_its_md5(count: int, key: str) -> None:
    shards = of(count)
    number = int(hashlib.md5(key.encode()).hexdigest(), 16)
    shard = shards.shard_for(key)
    assert shard.start_hash <= number <= shard.end_hash
    assert shards.shards[shards.shard_index(key)] is shard


@given(st.integers(1, 1000))
def test_ranges_cover_all_keys_without_gap_or_overlap(count: int) -> None:
    shards = of(count).shards
    assert shards[0].start_hash == 0
    assert shards[-1].end_hash == HASH_KEYS - 1
    assert all(a.end_hash + 1 == b.start_hash for a, b in pairwise(shards))


def test_shard_ids_and_sequence_numbers_have_the_shape_of_kinesis() -> None:
    first, second = of(2).shards
    assert (first.id, second.id) == ("shardId-000000000000", "shardId-000000000001")
    assert len(first.sequence_base) == 36
    assert first.sequence_base.startswith("49")
    assert first.sequence_base != second.sequence_base


def test_a_description_survives_a_round_trip() -> None:
    before = of(5)
    after = description.decode(DIRECTORY, description.encode(before))
    assert (after.name, after.arn, after.created_ms, after.shards) == (
        before.name,
        before.arn,
        1,
        before.shards,
    )
    assert after.region == "us-east-1"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"name": "s", "arn": "a", "created_ms": 1, "shards": [{}]}']
)
def test_a_damaged_description_is_an_error_that_names_the_file(text: str) -> None:
    with pytest.raises(FailedError, match=r"stream\.json is damaged"):
        description.decode(DIRECTORY, text)


def test_sequence_numbers_of_changes_have_forty_digits_as_dynamodbs_have_at_most() -> None:
    shards = uniform_shards(DIRECTORY, 2, kind="dynamodb")
    assert [len(f"{shard.sequence_base}{0:020d}") for shard in shards] == [40, 40]
    assert int(shards[0].sequence_base) < int(shards[1].sequence_base)


def test_a_dynamodb_streams_arn_ends_in_the_millisecond_it_was_made() -> None:
    arn = stream.default_arn("orders", "dynamodb", 1_733_418_659_007)
    assert arn == "arn:aws:dynamodb:us-east-1:000000000000:table/orders/stream/2024-12-05T17:10:59.007"
