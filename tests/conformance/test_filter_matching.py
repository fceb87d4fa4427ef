"""What filter patterns match: aws.md 4.4, case by case, as recorded from the service."""

# ruff: noqa: E501 - tables

import json

import pytest

from streamfn.core.filter import compile_filters


def matches(pattern, event):
    """Whether a Kinesis record with this data passes a pattern for its data."""
    filters = compile_filters([json.dumps({"data": pattern})], "kinesis")
    return filters.matches({"data": event, "partitionKey": "k"})


MISSING_FIELD = {"other": 1}

CASES = [
    # literals
    ("literal_string_equals", {"a": ["x"]}, {"a": "x"}, True),
    ("literal_string_is_case_sensitive", {"a": ["x"]}, {"a": "X"}, False),
    ("literal_string_is_not_trimmed", {"a": ["x"]}, {"a": " x"}, False),
    ("literal_string_is_full_unicode", {"a": ["é𝄞漢"]}, {"a": "é𝄞漢"}, True),
    ("literal_string_is_not_normalised", {"a": ["\u00e9"]}, {"a": "e\u0301"}, False),
    ("empty_string_matches_empty_string", {"a": [""]}, {"a": ""}, True),
    ("empty_string_does_not_match_a_space", {"a": [""]}, {"a": " "}, False),
    ("empty_string_does_not_match_null", {"a": [""]}, {"a": None}, False),
    ("null_matches_null", {"a": [None]}, {"a": None}, True),
    ("null_does_not_match_the_word", {"a": [None]}, {"a": "null"}, False),
    ("null_does_not_match_a_missing_field", {"a": [None]}, MISSING_FIELD, False),
    ("null_does_not_match_an_empty_array", {"a": [None]}, {"a": []}, False),
    ("true_matches_true", {"a": [True]}, {"a": True}, True),
    ("true_does_not_match_the_word", {"a": [True]}, {"a": "true"}, False),
    ("true_does_not_match_one", {"a": [True]}, {"a": 1}, False),
    ("false_does_not_match_zero", {"a": [False]}, {"a": 0}, False),
    ("false_does_not_match_true", {"a": [False]}, {"a": True}, False),
    ("number_matches_by_value", {"a": [300]}, {"a": 300.0}, True),
    ("number_with_a_fraction_matches_by_value", {"a": [300.0]}, {"a": 300}, True),
    ("number_with_an_exponent_matches_by_value", {"a": [3.018e2]}, {"a": 301.8}, True),
    ("number_does_not_match_its_text", {"a": [300]}, {"a": "300"}, False),
    ("text_does_not_match_a_number", {"a": ["300"]}, {"a": 300}, False),
    ("one_does_not_match_true", {"a": [1]}, {"a": True}, False),
    ("several_literals_are_an_or", {"a": ["x", 5, None]}, {"a": 5}, True),
    ("several_literals_and_none_of_them", {"a": ["x", 5, None]}, {"a": "5"}, False),
    ("address_literal_is_text", {"a": ["10.0.0.1"]}, {"a": "10.0.0.1"}, True),
    ("address_literal_is_not_another_spelling", {"a": ["10.0.0.1"]}, {"a": "10.0.0.01"}, False),
    ("exactly_equals_the_literal", {"a": [{"exactly": "x"}]}, {"a": "x"}, True),
    ("exactly_is_not_a_prefix", {"a": [{"exactly": "x"}]}, {"a": "xy"}, False),
    # several keys, several operators
    ("keys_are_an_and", {"a": ["x"], "b": ["y"]}, {"a": "x", "b": "y"}, True),
    ("keys_are_an_and_and_one_fails", {"a": ["x"], "b": ["y"]}, {"a": "x", "b": "z"}, False),
    ("operators_in_a_list_are_an_or", {"a": [{"prefix": "x"}, {"suffix": "y"}]}, {"a": "zy"}, True),
    ("keys_are_case_sensitive", {"a": ["x"]}, {"A": "x"}, False),
    # arrays
    ("array_matches_by_any_element", {"a": ["x"]}, {"a": ["z", "x"]}, True),
    ("array_without_the_element", {"a": ["x"]}, {"a": ["z", "y"]}, False),
    ("empty_array_matches_nothing", {"a": ["x"]}, {"a": []}, False),
    ("empty_array_does_not_match_anything_but", {"a": [{"anything-but": "x"}]}, {"a": []}, False),
    ("empty_array_does_not_exist", {"a": [{"exists": True}]}, {"a": []}, False),
    ("array_of_objects_matches_by_path", {"a": {"b": ["x"]}}, {"a": [{"c": 1}, {"b": "x"}]}, True),
    ("array_of_objects_without_the_path", {"a": {"b": ["x"]}}, {"a": [{"c": 1}, {"b": "y"}]}, False),
    # keys with dots
    ("dotted_key_in_the_pattern", {"a.b": ["x"]}, {"a": {"b": "x"}}, True),
    ("dotted_key_in_the_event", {"a": {"b": ["x"]}}, {"a.b": "x"}, True),
    ("dotted_key_in_both", {"a.b": ["x"]}, {"a.b": "x"}, True),
    ("dotted_key_in_the_pattern_and_an_extra_level", {"a.b": {"b": ["x"]}}, {"a": {"b": "x"}}, False),
    ("dotted_key_in_the_event_and_an_extra_level", {"a": {"b": ["x"]}}, {"a.b": {"b": "x"}}, False),
    ("dotted_key_deep_in_the_event", {"a": {"b": {"c": ["x"]}}}, {"a": {"b.c": "x"}}, True),
    ("json_in_a_string_is_not_descended_into", {"a": {"b": ["x"]}}, {"a": '{"b": "x"}'}, False),
    # prefix and suffix
    ("prefix_matches", {"a": [{"prefix": "ab"}]}, {"a": "abc"}, True),
    ("prefix_is_case_sensitive", {"a": [{"prefix": "ab"}]}, {"a": "ABC"}, False),
    ("empty_prefix_matches_every_string", {"a": [{"prefix": ""}]}, {"a": ""}, True),
    ("empty_prefix_does_not_match_a_number", {"a": [{"prefix": ""}]}, {"a": 1}, False),
    ("empty_prefix_does_not_match_null", {"a": [{"prefix": ""}]}, {"a": None}, False),
    ("prefix_does_not_match_a_number", {"a": [{"prefix": "1"}]}, {"a": 12}, False),
    ("suffix_matches", {"a": [{"suffix": ".png"}]}, {"a": "x.png"}, True),
    ("suffix_is_case_sensitive", {"a": [{"suffix": ".png"}]}, {"a": "x.PNG"}, False),
    ("empty_suffix_matches_every_string", {"a": [{"suffix": ""}]}, {"a": "x"}, True),
    ("prefix_ignoring_case", {"a": [{"prefix": {"equals-ignore-case": "AbC"}}]}, {"a": "aBcd"}, True),
    ("prefix_ignoring_case_of_another_text", {"a": [{"prefix": {"equals-ignore-case": "AbC"}}]}, {"a": "abd"}, False),
    ("suffix_ignoring_case", {"a": [{"suffix": {"equals-ignore-case": ".PNG"}}]}, {"a": "x.pnG"}, True),
    ("suffix_ignoring_case_of_another_text", {"a": [{"suffix": {"equals-ignore-case": ".PNG"}}]}, {"a": "x.jpg"}, False),
    # equals-ignore-case
    ("ignore_case_matches", {"a": [{"equals-ignore-case": "Alice"}]}, {"a": "aLICE"}, True),
    ("ignore_case_does_not_match_another_text", {"a": [{"equals-ignore-case": "Alice"}]}, {"a": "Alicia"}, False),
    ("ignore_case_of_the_empty_string", {"a": [{"equals-ignore-case": ""}]}, {"a": ""}, True),
    ("ignore_case_of_the_empty_string_does_not_match_others", {"a": [{"equals-ignore-case": ""}]}, {"a": "x"}, False),
    ("ignore_case_does_not_match_a_number", {"a": [{"equals-ignore-case": "1"}]}, {"a": 1}, False),
    # anything-but
    ("anything_but_a_string", {"a": [{"anything-but": "x"}]}, {"a": "y"}, True),
    ("anything_but_that_string", {"a": [{"anything-but": "x"}]}, {"a": "x"}, False),
    ("anything_but_a_missing_field", {"a": [{"anything-but": "x"}]}, MISSING_FIELD, False),
    ("anything_but_matches_null", {"a": [{"anything-but": "x"}]}, {"a": None}, True),
    ("anything_but_a_list", {"a": [{"anything-but": ["x", "y"]}]}, {"a": "z"}, True),
    ("anything_but_one_of_a_list", {"a": [{"anything-but": ["x", "y"]}]}, {"a": "y"}, False),
    ("anything_but_a_list_of_a_missing_field", {"a": [{"anything-but": ["x", "y"]}]}, MISSING_FIELD, False),
    ("anything_but_a_list_matches_null", {"a": [{"anything-but": ["x", "y"]}]}, {"a": None}, True),
    ("anything_but_a_number", {"a": [{"anything-but": 5}]}, {"a": 6}, True),
    ("anything_but_that_number", {"a": [{"anything-but": 5}]}, {"a": 5.0}, False),
    ("anything_but_zero", {"a": [{"anything-but": 0}]}, {"a": 1}, True),
    ("anything_but_a_list_of_numbers", {"a": [{"anything-but": [5, 6]}]}, {"a": 6}, False),
    ("anything_but_a_prefix", {"a": [{"anything-but": {"prefix": "in"}}]}, {"a": "out"}, True),
    ("anything_but_that_prefix", {"a": [{"anything-but": {"prefix": "in"}}]}, {"a": "inside"}, False),
    ("anything_but_a_prefix_of_a_missing_field", {"a": [{"anything-but": {"prefix": "in"}}]}, MISSING_FIELD, False),
    ("anything_but_a_prefix_matches_null", {"a": [{"anything-but": {"prefix": "in"}}]}, {"a": None}, True),
    ("anything_but_a_prefix_matches_a_number", {"a": [{"anything-but": {"prefix": "in"}}]}, {"a": 7}, True),
    ("anything_but_prefixes", {"a": [{"anything-but": {"prefix": ["in", "out"]}}]}, {"a": "outside"}, False),
    ("anything_but_prefixes_matches_a_number", {"a": [{"anything-but": {"prefix": ["in", "out"]}}]}, {"a": 7}, True),
    ("anything_but_a_suffix", {"a": [{"anything-but": {"suffix": ".txt"}}]}, {"a": "x.rtf"}, True),
    ("anything_but_that_suffix", {"a": [{"anything-but": {"suffix": ".txt"}}]}, {"a": "x.txt"}, False),
    ("anything_but_a_suffix_matches_null", {"a": [{"anything-but": {"suffix": ".txt"}}]}, {"a": None}, True),
    ("anything_but_suffixes", {"a": [{"anything-but": {"suffix": [".txt", ".rtf"]}}]}, {"a": "x.rtf"}, False),
    ("anything_but_ignoring_case", {"a": [{"anything-but": {"equals-ignore-case": "X"}}]}, {"a": "y"}, True),
    ("anything_but_that_ignoring_case", {"a": [{"anything-but": {"equals-ignore-case": "X"}}]}, {"a": "x"}, False),
    ("anything_but_ignoring_case_matches_null", {"a": [{"anything-but": {"equals-ignore-case": "X"}}]}, {"a": None}, True),
    ("anything_but_a_list_ignoring_case", {"a": [{"anything-but": {"equals-ignore-case": ["X", "Y"]}}]}, {"a": "y"}, False),
    ("anything_but_a_wildcard", {"a": [{"anything-but": {"wildcard": "*/lib/*"}}]}, {"a": "x/bin/y"}, True),
    ("anything_but_that_wildcard", {"a": [{"anything-but": {"wildcard": "*/lib/*"}}]}, {"a": "x/lib/y"}, False),
    ("anything_but_a_wildcard_matches_a_number", {"a": [{"anything-but": {"wildcard": "*/lib/*"}}]}, {"a": 7}, True),
    ("anything_but_a_wildcard_matches_null", {"a": [{"anything-but": {"wildcard": "*/lib/*"}}]}, {"a": None}, True),
    ("anything_but_an_empty_wildcard", {"a": [{"anything-but": {"wildcard": ""}}]}, {"a": "x"}, True),
    ("anything_but_wildcards", {"a": [{"anything-but": {"wildcard": ["*.png", "*/lib/*"]}}]}, {"a": "x.png"}, False),
    ("anything_but_of_an_array_is_any_element", {"a": [{"anything-but": "x"}]}, {"a": ["x", "y"]}, True),
    # numeric
    ("numeric_equals", {"a": [{"numeric": ["=", 5]}]}, {"a": 5.0}, True),
    ("numeric_less", {"a": [{"numeric": ["<", 5]}]}, {"a": 4.999}, True),
    ("numeric_less_is_not_equal", {"a": [{"numeric": ["<", 5]}]}, {"a": 5}, False),
    ("numeric_less_or_equal", {"a": [{"numeric": ["<=", 5]}]}, {"a": 5}, True),
    ("numeric_greater_or_equal", {"a": [{"numeric": [">=", 5]}]}, {"a": 5}, True),
    ("numeric_range", {"a": [{"numeric": [">", 0, "<=", 5]}]}, {"a": 5}, True),
    ("numeric_range_is_open_below", {"a": [{"numeric": [">", 0, "<=", 5]}]}, {"a": 0}, False),
    ("numeric_of_a_float", {"a": [{"numeric": ["=", 301.8]}]}, {"a": 301.8}, True),
    ("numeric_never_matches_a_string", {"a": [{"numeric": [">", 100]}]}, {"a": "101"}, False),
    ("numeric_never_matches_null", {"a": [{"numeric": [">=", 0]}]}, {"a": None}, False),
    ("numeric_never_matches_a_boolean", {"a": [{"numeric": [">=", 0]}]}, {"a": True}, False),
    # exists
    ("exists_true_on_a_leaf", {"a": [{"exists": True}]}, {"a": "x"}, True),
    ("exists_true_on_null", {"a": [{"exists": True}]}, {"a": None}, True),
    ("exists_true_on_a_missing_field", {"a": [{"exists": True}]}, MISSING_FIELD, False),
    ("exists_true_on_a_non_leaf", {"a": [{"exists": True}]}, {"a": {"b": 1}}, False),
    ("exists_false_on_a_leaf", {"a": [{"exists": False}]}, {"a": "x"}, False),
    ("exists_false_on_a_missing_field", {"a": [{"exists": False}]}, MISSING_FIELD, True),
    ("exists_false_on_a_non_leaf", {"a": [{"exists": False}]}, {"a": {"b": 1}}, True),
    ("exists_false_with_a_missing_parent", {"a": {"b": [{"exists": False}]}}, MISSING_FIELD, True),
    ("exists_false_beside_an_operator", {"a": [{"anything-but": ["roses"]}, {"exists": False}]}, {"a": "lilies"}, True),
    ("exists_false_beside_an_operator_that_fails", {"a": [{"anything-but": ["roses"]}, {"exists": False}]}, {"a": "roses"}, False),
    ("exists_false_beside_an_operator_with_a_missing_field", {"a": [{"anything-but": ["roses"]}, {"exists": False}]}, {}, True),
    ("exists_false_beside_an_operator_with_a_missing_parent",
     {"p": {"S": [{"anything-but": ["roses"]}, {"exists": False}]}}, {"q": {"N": "789"}}, True),
    # cidr
    ("cidr_v4", {"a": [{"cidr": "10.0.0.0/24"}]}, {"a": "10.0.0.255"}, True),
    ("cidr_v4_outside", {"a": [{"cidr": "10.0.0.0/24"}]}, {"a": "10.0.1.0"}, False),
    ("cidr_v4_with_host_bits", {"a": [{"cidr": "10.0.0.77/24"}]}, {"a": "10.0.0.1"}, True),
    ("cidr_v6", {"a": [{"cidr": "2001:db8::/32"}]}, {"a": "2001:0db8:0:0::1"}, True),
    ("cidr_v6_outside", {"a": [{"cidr": "2001:db8::/32"}]}, {"a": "2001:db9::1"}, False),
    ("cidr_of_what_is_no_address", {"a": [{"cidr": "10.0.0.0/24"}]}, {"a": "10.0.0"}, False),
    ("cidr_of_a_number", {"a": [{"cidr": "10.0.0.0/24"}]}, {"a": 10}, False),
    ("cidr_of_the_other_version", {"a": [{"cidr": "0.0.0.0/0"}]}, {"a": "::1"}, False),
    # wildcard
    ("wildcard_is_any_run", {"a": [{"wildcard": "dir/*.png"}]}, {"a": "dir/sub/x.png"}, True),
    ("wildcard_is_an_empty_run", {"a": [{"wildcard": "ab*c"}]}, {"a": "abc"}, True),
    ("wildcard_anchors_at_both_ends", {"a": [{"wildcard": "b*"}]}, {"a": "abc"}, False),
    ("wildcard_parts_do_not_overlap", {"a": [{"wildcard": "aba*ba"}]}, {"a": "aba"}, False),
    ("wildcard_several", {"a": [{"wildcard": "arn:*:events:*:bus/*"}]}, {"a": "arn:aws:events:x:bus/y"}, True),
    ("wildcard_repeating", {"a": [{"wildcard": "*a*a"}]}, {"a": "banana"}, True),
    ("wildcard_escaped_star", {"a": [{"wildcard": "a\\*b"}]}, {"a": "a*b"}, True),
    ("wildcard_escaped_star_is_no_run", {"a": [{"wildcard": "a\\*b"}]}, {"a": "axb"}, False),
    ("wildcard_escaped_backslash", {"a": [{"wildcard": "a\\\\*"}]}, {"a": "a\\x"}, True),
    ("empty_wildcard_matches_nothing", {"a": [{"wildcard": ""}]}, {"a": ""}, False),
    ("wildcard_never_matches_a_number", {"a": [{"wildcard": "*"}]}, {"a": 1}, False),
    # $or
    ("or_first_branch", {"$or": [{"a": ["x"]}, {"b": ["y"]}]}, {"a": "x"}, True),
    ("or_second_branch", {"$or": [{"a": ["x"]}, {"b": ["y"]}]}, {"b": "y"}, True),
    ("or_no_branch", {"$or": [{"a": ["x"]}, {"b": ["y"]}]}, {"a": "y", "b": "x"}, False),
    ("or_beside_keys_is_an_and", {"c": ["z"], "$or": [{"a": ["x"]}, {"b": ["y"]}]}, {"a": "x"}, False),
    ("or_at_a_deeper_level", {"d": {"$or": [{"a": ["x"]}, {"b": [{"numeric": ["<", 5]}]}]}}, {"d": {"b": 4}}, True),
    ("or_in_or", {"$or": [{"a": ["x"]}, {"$or": [{"b": ["y"]}, {"c": ["z"]}]}]}, {"c": "z"}, True),
    ("or_with_a_missing_parent", {"d": {"$or": [{"a": [{"exists": False}]}, {"b": ["y"]}]}}, {}, True),
    ("or_with_an_operators_name_is_a_field", {"$or": [{"prefix": "x"}, {"suffix": "y"}]}, {"$or": "xz"}, True),
    ("or_with_an_operators_name_is_no_alternative", {"$or": [{"prefix": "x"}, {"suffix": "y"}]}, {"prefix": "x"}, False),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "event", "expected"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
@pytest.mark.conformance(
    "filters/match-semantics",
    source="recorded",
    rule="Each operator of the pattern language matches what it was recorded to match (aws.md 4.4, case by case).",
)
def test_pattern_matches_as_recorded(pattern, event, expected):
    assert matches(pattern, event) is expected


@pytest.mark.conformance(
    "filters/number-by-value",
    source="recorded",
    rule="A number in a pattern matches by value: 300 matches 300.0, against a note in AWS's documents.",
)
def test_numbers_match_by_value():
    assert matches({"a": [300]}, {"a": 300.0})
    assert not matches({"a": [300]}, {"a": 300.5})


@pytest.mark.conformance(
    "filters/exists-on-leaves-only",
    source="recorded",
    rule="`exists: true` on what is not a leaf never matches, and `exists: false` on it always does.",
)
def test_exists_looks_at_leaves_only():
    filters = compile_filters(['{"dynamodb": {"NewImage": {"presentKey": [{"exists": false}]}}}'], "dynamodb")
    assert filters.matches({"dynamodb.NewImage": {"presentKey": {"S": "v"}}})
    assert filters.matches({"dynamodb.NewImage": {"otherKey": {"S": "v"}}})
    filters = compile_filters(['{"dynamodb": {"NewImage": {"presentKey": [{"exists": true}]}}}'], "dynamodb")
    assert not filters.matches({"dynamodb.NewImage": {"presentKey": {"S": "v"}}})


@pytest.mark.conformance(
    "filters/duplicate-keys",
    source="recorded",
    rule="Of a key that stands twice in a pattern the last one counts.",
)
def test_last_of_equal_keys_in_a_pattern_wins():
    filters = compile_filters(['{"data": {"a": ["x"], "a": ["y"]}}'], "kinesis")
    assert filters.matches({"data": {"a": "y"}})
    assert not filters.matches({"data": {"a": "x"}})


@pytest.mark.conformance(
    "filters/array-consistency",
    source="inferred",
    rule="What is asked of several paths through one array of objects must be met by one of its elements, as in AWS's "
    "event-ruler.",
)
def test_one_element_of_an_array_must_meet_everything_asked_of_it():
    pattern = {"staff": {"first": ["Anna"], "last": ["Jones"]}}
    anna, peter = {"first": "Anna", "last": "Smith"}, {"first": "Peter", "last": "Jones"}
    assert not matches(pattern, {"staff": [anna, peter]})
    assert matches(pattern, {"staff": [anna, peter, {"first": "Anna", "last": "Jones"}]})


@pytest.mark.conformance(
    "filters/absent-in-arrays",
    source="ours",
    rule="In an array of objects `exists: false` means that no element has the leaf: the reverse of `exists: true`.",
)
def test_absent_in_an_array_means_in_no_element():
    pattern = {"a": {"b": [{"exists": False}]}}
    assert matches(pattern, {"a": [{"c": 1}, {"c": 2}]})
    assert not matches(pattern, {"a": [{"c": 1}, {"b": 2}]})
    assert not matches({"a": {"b": [{"exists": False}], "c": [1]}}, {"a": [{"c": 1}, {"b": 2}]})


def test_data_may_nest_as_it_likes():
    deep = "x"
    for _ in range(1000):  # as deep as the parser goes
        deep = [deep]
    assert matches({"a": ["x"]}, {"a": deep})
    assert matches({"a": {"b": ["x"]}}, {"a": {"b": deep}, "c": deep})
    assert matches({"a": {"b": ["x"]}}, {"a.b": "x", "c": deep})
    assert not matches({"a": {"b": ["x"]}}, {"a.b": "y", "c": {"d": deep}, "a": deep})


def test_pattern_may_be_as_deep_as_is_allowed():
    pattern, event = ["x"], "x"
    for _ in range(98):
        pattern, event = {"a": pattern}, [{"a": event}, {"a": "y"}, {"a.a": "z"}]
    assert matches(pattern, event[0])
    assert not matches(pattern, {"a": "x"})
