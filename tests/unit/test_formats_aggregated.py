"""Aggregated records are taken apart as the KPL put them together; anything else stays an ordinary record."""

from __future__ import annotations

import base64
import json
import sys
from hashlib import md5
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfn.errors import RefusedError
from streamfn.formats.aggregated import MAGIC, Deaggregator, UserRecord
from streamfn.formats.captures import read_captures
from streamfn.formats.documents import whole_documents
from streamfn.formats.fields import key_of
from streamfn.formats.rows import Reading, Rows

aggregator = pytest.importorskip("aws_kinesis_agg.aggregator", reason="it makes the records of these tests")

KEYS = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable())


def aggregated(records: list[tuple[str, bytes, str | None]]) -> bytes:
    made = aggregator.RecordAggregator()
    for key, data, hash_key in records:
        assert made.add_user_record(key, data, hash_key) is None, "it stays in one record"
    content: bytes = made.clear_and_get().get_contents()[2]
    return content


@given(st.lists(st.tuples(KEYS, st.binary(max_size=50), st.none() | st.just("42")), min_size=1, max_size=20))
def test_what_the_library_aggregates_comes_out_as_it_went_in(records: list[tuple[str, bytes, str | None]]) -> None:
    found = Deaggregator().user_records(aggregated(records))
    assert found == [UserRecord(key, data) for key, data, _ in records]


WHOLE = aggregated([("k", b"one", None), ("j", b"two", None)])


def sealed(body: bytes) -> bytes:
    return MAGIC + body + md5(body).digest()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MAGIC,
        b"an ordinary record",
        WHOLE[:-1] + bytes([WHOLE[-1] ^ 1]),
        WHOLE[:20] + bytes([WHOLE[20] ^ 1]) + WHOLE[21:],
        b"\0" + WHOLE[1:],
        WHOLE[:-1],
        sealed(b"\xff\xff\xff"),
        sealed(b""),
        sealed(b"\x1a\x04\x08\x07\x1a\x00"),  # the key of number 7 of a table that is empty
        sealed(b"\x0a\x00\x1a\x04\x08\x00\x1a\x00"),  # an empty partition key
        sealed(b"\x0a\x01\xff\x1a\x04\x08\x00\x1a\x00"),  # one that is not UTF-8
    ],
)
def test_what_is_not_wholly_an_aggregated_record_is_an_ordinary_one(data: bytes) -> None:
    assert Deaggregator().user_records(data) is None


def captured(*datas: bytes) -> bytes:
    records = [
        {
            "SequenceNumber": str(100 + i),
            "ApproximateArrivalTimestamp": 1.5 + i,
            "Data": base64.b64encode(data).decode(),
            "PartitionKey": "a",
        }
        for i, data in enumerate(datas)
    ]
    return json.dumps({"Records": records}).encode()


def read(content: bytes, **options: Any) -> list[Rows]:
    found = list(read_captures(whole_documents([content], skip_bad=False), Reading(key_of(None), **options)))
    assert all(isinstance(rows, Rows) for rows in found)
    return [rows for rows in found if isinstance(rows, Rows)]


def test_records_out_of_an_aggregated_one_keep_its_number_and_their_place_in_it() -> None:
    (rows,) = read(captured(WHOLE, b"alone"), deaggregate=True)
    assert rows.data == [b"one", b"two", b"alone"]
    assert rows.keys == ["k", "j", "a"]
    assert rows.arrivals == [1500, 1500, 2500]
    assert rows.sources == ["100", "100", "101"]
    assert rows.subsources == [0, 1, None]
    assert (rows.numbers, rows.origin, rows.last_line) == (None, None, 2), "they get new numbers"


def test_without_the_option_an_aggregated_record_stays_whole_as_lambda_delivers_it() -> None:
    (rows,) = read(captured(WHOLE))
    assert (rows.data, rows.numbers) == ([WHOLE], ["100"])


def test_without_protobuf_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("google.protobuf")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(RefusedError, match=r"pip install 'streamfn\[kpl\]'"):
        Deaggregator()
