"""What of a record filters look at, and what becomes of data that is no JSON: aws.md 4.1, 4.2."""

import json

import pytest

from streamfn.core.filter import compile_filters
from streamfn.core.filter.expression import NOT_JSON, fields_of

CONSTANTS = {
    "eventSource": "aws:dynamodb",
    "awsRegion": "us-east-1",
    "eventSourceARN": "arn:aws:dynamodb:us-east-1:000000000000:table/t/stream/2026-01-01T00:00:00.000",
}


def kinesis(*patterns):
    return compile_filters([json.dumps(each) for each in patterns], "kinesis")


def dynamodb(*patterns):
    return compile_filters([json.dumps(each) for each in patterns], "dynamodb", CONSTANTS)


@pytest.mark.conformance(
    "filters/kinesis-data",
    source="documented",
    rule="Of a Kinesis record filters see `data`, decoded and parsed.",
)
def test_kinesis_pattern_looks_at_decoded_data():
    filters = kinesis({"data": {"order": {"type": ["buy"]}}})
    assert filters.matches({"data": {"record": 12345, "order": {"type": "buy", "quantity": 1000}}})
    assert not filters.matches({"data": {"record": 12345, "order": {"type": "sell"}}})


@pytest.mark.conformance(
    "filters/kinesis-partition-key",
    source="documented",
    rule="Beside `data` a Kinesis pattern may ask for `partitionKey`, as older documents of AWS's say; newer ones name "
    "`data` alone.",
)
def test_kinesis_pattern_may_ask_for_the_partition_key():
    filters = kinesis({"partitionKey": ["1"], "data": {"a": ["x"]}})
    assert filters.matches({"partitionKey": "1", "data": {"a": "x"}})
    assert not filters.matches({"partitionKey": "2", "data": {"a": "x"}})
    assert not filters.matches({"partitionKey": "1", "data": {"a": "y"}})


@pytest.mark.conformance(
    "filters/unknown-fields",
    source="inferred",
    rule="A field that records of that kind do not have for filters is a missing one: it never matches, except for "
    "`exists: false`.",
)
def test_fields_that_filters_do_not_see_are_missing():
    assert kinesis({"kinesis": {"partitionKey": ["1"]}}).expression is False
    assert kinesis({"eventName": ["aws:kinesis:record"]}).expression is False
    assert kinesis({"body": {"a": [{"exists": False}]}}).expression is True


@pytest.mark.parametrize(("names", "name", "expected"), [
    pytest.param(["INSERT"], "INSERT", True, id="one_name"),
    pytest.param(["INSERT"], "REMOVE", False, id="another_name"),
    pytest.param(["INSERT", "MODIFY"], "MODIFY", True, id="two_names"),
])  # fmt: skip
@pytest.mark.conformance(
    "filters/dynamodb-event-name",
    source="recorded",
    rule="`eventName` of a DynamoDB record can be filtered by.",
)
def test_dynamodb_pattern_by_event_name(names, name, expected):
    assert dynamodb({"eventName": names}).matches({"eventName": name}) is expected


@pytest.mark.conformance(
    "filters/dynamodb-event-source",
    source="recorded",
    rule="`eventSource` in a DynamoDB pattern matches.",
)
def test_dynamodb_pattern_by_event_source():
    assert dynamodb({"eventName": ["INSERT"], "eventSource": ["aws:dynamodb"]}).matches({"eventName": "INSERT"})
    assert not dynamodb({"eventSource": ["aws:kinesis"]}).matches({"eventName": "INSERT"})


@pytest.mark.conformance(
    "filters/dynamodb-creation-time",
    source="recorded",
    rule="`ApproximateCreationDateTime` is a number when filters look at it.",
)
def test_creation_time_is_a_number_before_filtering():
    filters = dynamodb({"dynamodb": {"ApproximateCreationDateTime": [{"numeric": [">", 0]}]}})
    assert filters.matches({"dynamodb.ApproximateCreationDateTime": 1733418659.0})


@pytest.mark.conformance(
    "filters/dynamodb-typed-leaves",
    source="recorded",
    rule="DynamoDB values are matched on their typed leaves; numbers are strings there.",
)
def test_dynamodb_values_are_matched_on_typed_leaves():
    image = {"presentKey": {"S": "v"}, "count": {"N": "101"}}
    record = {"dynamodb.NewImage": image}
    assert dynamodb({"dynamodb": {"NewImage": {"presentKey": {"S": ["v"]}}}}).matches(record)
    assert not dynamodb({"dynamodb": {"NewImage": {"presentKey": ["v"]}}}).matches(record)
    assert not dynamodb({"dynamodb": {"NewImage": {"count": {"N": [{"numeric": [">", 100]}]}}}}).matches(record)
    assert dynamodb({"dynamodb": {"NewImage": {"count": {"N": [{"prefix": "10"}]}}}}).matches(record)
    assert dynamodb({"dynamodb": {"NewImage": {"count": {"N": ["101"]}}}}).matches(record)


@pytest.mark.conformance(
    "filters/exists-beside-others",
    source="recorded",
    rule="`exists: false` beside another expression in one list matches where even the parent is missing.",
)
def test_exists_false_matches_where_the_attribute_is_missing():
    pattern = {"dynamodb": {"NewImage": {"homemade": {"S": [{"anything-but": ["roses"]}, {"exists": False}]}}}}
    assert dynamodb(pattern).matches({"dynamodb.NewImage": {"purchased": {"N": "789"}}})
    assert dynamodb(pattern).matches({"dynamodb.NewImage": {"homemade": {"S": "lilies"}}})
    assert not dynamodb(pattern).matches({"dynamodb.NewImage": {"homemade": {"S": "roses"}}})
    assert dynamodb(pattern).matches({"eventName": "REMOVE"})


@pytest.mark.conformance(
    "filters/several-are-an-or",
    source="documented",
    rule="A record is delivered if any of the filters matches; of one filter all keys must.",
)
def test_several_filters_are_an_or():
    filters = kinesis({"data": {"a": ["x"]}}, {"data": {"b": ["y"]}})
    assert filters.matches({"data": {"a": "x"}})
    assert filters.matches({"data": {"b": "y"}})
    assert not filters.matches({"data": {"a": "y", "b": "x"}})


def test_no_filters_deliver_everything():
    assert kinesis().matches({"data": NOT_JSON})
    assert kinesis().expression is True


@pytest.mark.parametrize(("patterns", "expected"), [
    pytest.param([{"data": {"a": ["x"]}}], False, id="with_a_data_pattern_it_is_dropped"),
    pytest.param([{"data": {"a": [{"exists": False}]}}], False, id="with_a_data_pattern_for_a_missing_field_too"),
    pytest.param([{"partitionKey": ["1"]}], True, id="without_a_data_pattern_metadata_decide"),
    pytest.param([{"partitionKey": ["2"]}], False, id="and_may_drop_it"),
    pytest.param([{"partitionKey": ["1"], "data": {"a": ["x"]}}], False, id="with_both_it_is_dropped"),
    pytest.param([{"data": {"a": ["x"]}}, {"partitionKey": ["1"]}], True, id="another_filter_may_take_it"),
    pytest.param([{"$or": [{"data": {"a": ["x"]}}, {"partitionKey": ["1"]}]}], True, id="another_branch_may_take_it"),
])  # fmt: skip
@pytest.mark.conformance(
    "filters/data-that-is-no-json",
    source="documented",
    rule="Data that is no JSON passes no pattern for data; where there is none for it, metadata alone decide.",
)
def test_data_that_is_no_json(patterns, expected):
    assert kinesis(*patterns).matches({"data": NOT_JSON, "partitionKey": "1"}) is expected


def test_json_without_a_data_pattern_is_filtered_by_metadata():
    assert kinesis({"partitionKey": ["1"]}).matches({"data": {"a": 1}, "partitionKey": "1"})


@pytest.mark.conformance(
    "filters/json-scalars",
    source="ours",
    rule="Data that is JSON but no object (a number, a text, an array) is JSON: it has no fields, and the objects of "
    "an array are looked at one by one.",
)
def test_data_that_is_json_and_no_object():
    assert not kinesis({"data": {"a": ["x"]}}).matches({"data": "x"})
    assert kinesis({"data": {"a": [{"exists": False}]}}).matches({"data": 5})
    assert kinesis({"data": {"a": ["x"]}}).matches({"data": [{"a": "y"}, {"a": "x"}]})


@pytest.mark.conformance(
    "filters/user-identity",
    source="documented",
    rule="Deletions by DynamoDB's time to live carry a `userIdentity` and can be filtered by it.",
)
def test_deletions_by_ttl_can_be_told():
    filters = dynamodb({"userIdentity": {"type": ["Service"], "principalId": ["dynamodb.amazonaws.com"]}})
    identity = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
    assert filters.matches({"eventName": "REMOVE", "userIdentity": identity})
    assert not filters.matches({"eventName": "REMOVE"})


def test_what_metadata_decide_alone_needs_no_scan():
    assert dynamodb({"eventName": ["INSERT"]}).scan is False
    assert fields_of(dynamodb({"eventName": ["INSERT"]}).expression) == {"eventName"}
    mixed = dynamodb({"eventName": ["INSERT"], "dynamodb": {"NewImage": {"a": {"S": ["x"]}}}})
    assert fields_of(mixed.scan) == {"dynamodb.NewImage"}
    two = dynamodb({"eventName": ["REMOVE"]}, {"dynamodb": {"NewImage": {"a": {"S": ["x"]}}}})
    assert fields_of(two.scan) == {"dynamodb.NewImage"}
