"""Which filter patterns are refused, with Lambda's one text and the reason behind it: aws.md 2.5, 4.2 and 4.4."""

# ruff: noqa: E501 - tables

import json

import pytest

from streamfn.core.filter import LAMBDA_TEXT, FilterError, check
from streamfn.errors import RefusedError

COMPLEX = (
    "Rule is too complex - try using fewer wildcard characters or fewer repeating character sequences after a "
    "wildcard character"
)
ANYTHING_BUT = "Value of anything-but must be an array or single string/number value."

REFUSED = [
    ("value_is_a_string", {"eventSource": "aws:sqs"}, '"eventSource" must be an object or an array'),
    ("value_is_a_number", {"a": 5}, '"a" must be an object or an array'),
    ("value_is_null", {"a": None}, '"a" must be an object or an array'),
    ("value_is_an_empty_array", {"eventSource": []}, "Empty arrays are not allowed"),
    ("value_is_an_empty_object", {"a": {}}, "Empty objects are not allowed"),
    ("pattern_is_an_empty_object", {}, "Empty objects are not allowed"),
    ("array_in_an_array", {"a": [["x"]]}, "Match value must be String, number, true, false, or null"),
    ("operator_in_upper_case", {"a": [{"NUMERIC": ["=", 5]}]}, "Unrecognized match type NUMERIC"),
    ("operator_unknown", {"a": [{"regex": ".*"}]}, "Unrecognized match type regex"),
    ("two_operators_in_one_expression", {"a": [{"prefix": "x", "suffix": "y"}]}, "Only one key allowed in match expression"),
    ("numeric_is_no_array", {"a": [{"numeric": 5}]}, "Value of numeric must be an array."),
    ("numeric_of_a_string", {"a": [{"numeric": ["<", "5"]}]}, "Value of < must be numeric"),
    ("numeric_of_a_boolean", {"a": [{"numeric": ["<", True]}]}, "Value of < must be numeric"),
    ("numeric_without_a_number", {"a": [{"numeric": ["="]}]}, "Value of = must be numeric"),
    ("numeric_range_twice_upwards", {"a": [{"numeric": [">", 0, ">", 1]}]}, "Bad numeric range operator: >"),
    ("numeric_range_downwards_first", {"a": [{"numeric": ["<", 5, ">", 1]}]}, "Too many elements in numeric expression"),
    ("numeric_range_of_two_equals", {"a": [{"numeric": ["=", 5, "=", 5]}]}, "Too many elements in numeric expression"),
    ("numeric_range_that_is_empty", {"a": [{"numeric": [">", 5, "<", 5]}]}, "Bottom must be less than top"),
    ("numeric_range_with_a_third_bound", {"a": [{"numeric": [">", 1, "<", 5, "<", 6]}]}, "Too many terms in numeric range expression"),
    ("prefix_of_a_number", {"a": [{"prefix": 5}]}, "prefix match pattern must be a string"),
    ("prefix_of_a_list", {"a": [{"prefix": ["x"]}]}, "prefix match pattern must be a string"),
    ("suffix_of_null", {"a": [{"suffix": None}]}, "suffix match pattern must be a string"),
    ("ignore_case_of_a_list", {"a": [{"equals-ignore-case": ["x"]}]}, "equals-ignore-case match pattern must be a string"),
    ("wildcard_of_a_number", {"a": [{"wildcard": 5}]}, "wildcard match pattern must be a string"),
    ("wildcards_in_a_row", {"a": [{"wildcard": "arn:aws:events:us-east-1:**:event-bus/*"}]}, "Consecutive wildcard characters at pos 26"),
    ("wildcard_with_a_bad_escape", {"a": [{"wildcard": "a\\b"}]}, "Invalid escape character at pos 2"),
    ("wildcard_with_an_open_escape", {"a": [{"wildcard": "a\\"}]}, "Invalid escape character at pos 2"),
    ("wildcards_too_many", {"a": [{"wildcard": "*:*:*:*:*:event-bus/*"}]}, COMPLEX),
    ("anything_but_null", {"a": [{"anything-but": None}]}, ANYTHING_BUT),
    ("anything_but_true", {"a": [{"anything-but": True}]}, ANYTHING_BUT),
    ("anything_but_a_prefix_ignoring_case", {"a": [{"anything-but": {"prefix": {"equals-ignore-case": "x"}}}]}, ANYTHING_BUT),
    ("anything_but_a_suffix_ignoring_case", {"a": [{"anything-but": {"suffix": {"equals-ignore-case": "x"}}}]}, ANYTHING_BUT),
    ("anything_but_a_list_with_null", {"a": [{"anything-but": ["x", None]}]}, "Inside anything but list, start|null|boolean is not supported."),
    ("anything_but_a_list_with_a_boolean", {"a": [{"anything-but": [True]}]}, "Inside anything but list, start|null|boolean is not supported."),
    ("anything_but_a_mixed_list", {"a": [{"anything-but": ["x", 1]}]}, "Inside anything but list, either all values are number or string, mixed type is not supported"),
    ("anything_but_a_prefix_of_a_number", {"a": [{"anything-but": {"prefix": 5}}]}, "prefix/suffix match pattern must be a string"),
    ("anything_but_an_empty_prefix", {"a": [{"anything-but": {"prefix": ""}}]}, "Null prefix/suffix not allowed"),
    ("anything_but_an_empty_suffix", {"a": [{"anything-but": {"suffix": ""}}]}, "Null prefix/suffix not allowed"),
    ("anything_but_a_wildcard_of_a_number", {"a": [{"anything-but": {"wildcard": 5}}]}, "wildcard match pattern must be a string"),
    ("anything_but_a_list_ignoring_case_with_a_number", {"a": [{"anything-but": {"equals-ignore-case": ["x", 1]}}]}, "Inside anything-but/equals-ignore-case list, number|start|null|boolean is not supported."),
    ("anything_but_a_range", {"a": [{"anything-but": {"numeric": ["=", 1]}}]}, "Unsupported anything-but pattern: numeric"),
    ("exists_of_a_string", {"a": [{"exists": "true"}]}, "exists match pattern must be either true or false."),
    ("cidr_without_a_slash", {"a": [{"cidr": "10.0.0.0"}]}, "Malformed CIDR, one '/' required"),
    ("cidr_with_a_bad_mask", {"a": [{"cidr": "10.0.0.0/xx"}]}, "Malformed CIDR, mask bits must be an integer"),
    ("cidr_with_a_bad_address", {"a": [{"cidr": "xx.11.xx/8"}]}, "Nonstandard IP address: xx.11.xx"),
    ("cidr_v6_with_a_bad_address", {"a": [{"cidr": "xxxx:db8::/32"}]}, "Nonstandard IP address: xxxx:db8::"),
    ("cidr_with_too_many_bits", {"a": [{"cidr": "10.0.0.0/33"}]}, "IPv4 mask bits must be in range 0-32"),
    ("cidr_of_a_number", {"a": [{"cidr": 5}]}, "prefix match pattern must be a string"),
    ("exactly_a_number", {"a": [{"exactly": 5}]}, "exact match pattern must be a string"),
    ("or_of_one", {"$or": [{"a": ["x"]}]}, "Unrecognized match type a"),
    ("refused_inside_or", {"$or": [{"a": ["x"]}, {"b": []}]}, "Empty arrays are not allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "reason"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED])
@pytest.mark.conformance(
    "filters/refusals",
    source="recorded",
    rule="A pattern that is not valid is refused at creation with `Invalid filter pattern definition.` and no reason.",
    differs="The command line goes on with the reason and its place, behind Lambda's words.",
)
def test_invalid_pattern_is_refused_with_its_reason(pattern, reason):
    with pytest.raises(FilterError) as caught:
        check([json.dumps(pattern)])
    assert caught.value.lambda_text == LAMBDA_TEXT == "Invalid filter pattern definition."
    assert caught.value.reason == reason
    assert str(caught.value).startswith(LAMBDA_TEXT)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "text", ["null", '"a string"', "a string", "5", "[]", "", "{", '{"a": ["x"]}}', '{"a": [NaN]}']
)
@pytest.mark.conformance("filters/refusals")
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(FilterError) as caught:
        check([text])
    assert caught.value.lambda_text == LAMBDA_TEXT


def test_error_names_pattern_and_place():
    with pytest.raises(FilterError) as caught:
        check(['{"data": {"a": ["x"]}}', '{"data": {"order": {"type": ["buy", {"prefix": 1}]}}}'])
    assert str(caught.value) == (
        "Invalid filter pattern definition. (pattern 2, at data.order.type[1]: prefix match pattern must be a string)"
    )


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        pytest.param("kinesis", {"data": ["text"]}, id="kinesis_string"),
        pytest.param("kinesis", {"data": [{"prefix": "x"}]}, id="kinesis_operator"),
        pytest.param("kinesis", {"$or": [{"partitionKey": ["1"]}, {"data": ["text"]}]}, id="kinesis_inside_or"),
        pytest.param("dynamodb", {"dynamodb": ["text"]}, id="dynamodb_string"),
        pytest.param(None, {"data": ["text"]}, id="before_the_stream_is_known"),
    ],
)
@pytest.mark.conformance(
    "filters/plain-string-pattern",
    source="documented",
    rule="A plain-string pattern for the data of a stream is refused at creation.",
)
def test_plain_string_pattern_for_data_is_refused(kind, pattern):
    with pytest.raises(FilterError, match="Invalid filter pattern definition"):
        check([json.dumps(pattern)], kind)


@pytest.mark.conformance(
    "filters/limits",
    source="documented",
    rule="A mapping has up to 5 filters, 10 by an option, each of up to 4,096 characters.",
)
def test_number_and_length_of_patterns_are_limited():
    pattern = '{"data": {"a": ["x"]}}'
    check([pattern] * 5)
    check([pattern] * 10, at_most=10)
    with pytest.raises(RefusedError, match="at most 5 filters, not 6; up to 10"):
        check([pattern] * 6)
    with pytest.raises(RefusedError, match="at most 10 filters, not 11$"):
        check([pattern] * 11, at_most=10)
    check([pattern + " " * (4096 - len(pattern))])
    with pytest.raises(RefusedError, match="length less than or equal to 4096"):
        check([pattern + " " * (4097 - len(pattern))])


def test_pattern_may_have_line_ends():
    check(['{\n "data": {\n  "a": ["x"]\n }\n}\n'])


@pytest.mark.parametrize("text", ["[" * 2000, '{"a":' * 600 + '["x"]' + "}" * 600])
def test_deep_pattern_is_refused_without_harm(text):
    with pytest.raises(FilterError):
        check([text])
