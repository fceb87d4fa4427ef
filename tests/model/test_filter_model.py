"""Compiled filter patterns against an oracle that is slow and obvious: a pattern's alternatives written out, the event
as a list of its leaves, and for each alternative a search for leaves that meet it.

An event's leaf knows in which object of which array it lies, so that two leaves can be told to be of different ones.
"""

from __future__ import annotations

import json
import operator
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from itertools import count, product

from hypothesis import given, settings
from hypothesis import strategies as st

from streamfn.core.filter import FilterError, check, compile_filters

# ---- the oracle

COMPARED = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def leaves(event):
    """Every leaf of an event: its path in dots, its value, and the place it has in each array of objects above it."""
    arrays = count()

    def walk(value, path, places):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(inner, f"{path}.{key}" if path else key, places)
        elif isinstance(value, list):
            array = next(arrays)
            for place, inner in enumerate(value):
                inside = places if not isinstance(inner, (dict, list)) else {**places, array: place}
                yield from walk(inner, path, inside)
        else:
            yield path, value, places

    return list(walk(event, "", {}))


def alternatives(pattern, path=""):
    """The pattern as lists of (path, expressions) of which one is enough."""
    parts = []
    for key, value in pattern.items():
        if key == "$or":
            parts.append([chosen for branch in value for chosen in alternatives(branch, path)])
            continue
        here = f"{path}.{key}" if path else key
        parts.append(alternatives(value, here) if isinstance(value, dict) else [[(here, value)]])
    return [[each for part in chosen for each in part] for chosen in product(*parts)]


def passes(expression, value):
    """Whether a leaf's value is as one expression says."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not isinstance(expression, dict):
        if isinstance(expression, (int, float)) and not isinstance(expression, bool):
            return number and expression == value
        return type(expression) is type(value) and expression == value
    ((name, argument),) = expression.items()
    text = value if isinstance(value, str) else None
    if name == "exists":
        return argument
    if name == "numeric":
        pairs = zip(argument[::2], argument[1::2], strict=True)
        return number and all(COMPARED[sign](value, bound) for sign, bound in pairs)
    if name == "anything-but":
        if isinstance(argument, dict):
            ((inner, texts),) = argument.items()
            return not any(passes({inner: each}, value) for each in (texts if isinstance(texts, list) else [texts]))
        return not any(passes(each, value) for each in (argument if isinstance(argument, list) else [argument]))
    if text is None:
        return False
    if isinstance(argument, dict):
        text, argument = text.lower(), argument["equals-ignore-case"].lower()
    if name == "prefix":
        return text[: len(argument)] == argument
    if name == "suffix":
        return argument == "" or text[-len(argument) :] == argument
    if name == "equals-ignore-case":
        return text.lower() == argument.lower()
    if name == "wildcard":
        return argument != "" and fnmatchcase(text, argument.replace("[", "[[]").replace("?", "[?]"))
    try:
        address = ip_address(text)
    except ValueError:
        return False
    network = ip_network(argument, strict=False)
    return address.version == network.version and address in network


def oracle(pattern, event):
    """Whether a pattern matches an event."""
    found = leaves(event)

    def met(asked, places):
        if not asked:
            return True
        (path, expressions), *rest = asked
        at_path = [leaf for leaf in found if leaf[0] == path]
        if not at_path and {"exists": False} in expressions:
            return met(rest, places)
        for _, value, where in at_path:
            consistent = all(places.get(array, place) == place for array, place in where.items())
            if consistent and any(passes(each, value) for each in expressions) and met(rest, {**places, **where}):
                return True
        return False

    return any(met(chosen, {}) for chosen in alternatives(pattern))


# ---- what is drawn

TEXTS = st.sampled_from(["", "a", "A", "ab", "aB", "b", "ba", "aba", "null", "1", "10.0.0.1", "10.0.1.9", "::1"])
NUMBERS = st.sampled_from([0, 1, 1.0, -1, 2.5, 300, 300.0, 2**63, 1e300])
SCALARS = TEXTS | NUMBERS | st.none() | st.booleans()
# Of the dotted ones none begins like another key does, or it would not be clear what is in one array with what.
KEYS = st.sampled_from(["a", "b", "A", "d.a", "d.b"])
PATTERN_KEYS = st.sampled_from(["a", "b", "A", "d.a", "d", "a.b", "a.a"])

VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
EVENTS = st.dictionaries(KEYS, VALUES, max_size=4)

WILDCARDS = st.sampled_from(["", "*", "a*", "*a", "a*a", "*b*", "a*b*a"])
FOLDED = TEXTS.map(lambda text: {"equals-ignore-case": text})
OPERATORS = st.one_of(
    st.fixed_dictionaries({"exists": st.booleans()}),
    st.fixed_dictionaries({"prefix": TEXTS | FOLDED}),
    st.fixed_dictionaries({"suffix": TEXTS | FOLDED}),
    st.fixed_dictionaries({"equals-ignore-case": TEXTS}),
    st.fixed_dictionaries({"wildcard": WILDCARDS}),
    st.fixed_dictionaries({"cidr": st.sampled_from(["10.0.0.0/24", "10.0.0.0/8", "::/0"])}),
    st.fixed_dictionaries({"numeric": st.tuples(st.sampled_from(["=", "<", "<=", ">", ">="]), NUMBERS).map(list)}),
    st.just({"numeric": [">", 0, "<=", 300]}),
    st.fixed_dictionaries({"anything-but": TEXTS | NUMBERS}),
    st.fixed_dictionaries({"anything-but": st.lists(TEXTS, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"anything-but": st.lists(NUMBERS, min_size=1, max_size=2)}),
    st.just({"anything-but": {"prefix": ["a", "b"]}}),
    st.just({"anything-but": {"equals-ignore-case": "ab"}}),
    st.fixed_dictionaries({"anything-but": st.fixed_dictionaries({"wildcard": WILDCARDS})}),
)  # fmt: skip
LISTS = st.lists(SCALARS | OPERATORS, min_size=1, max_size=3)
PATTERNS = st.recursive(
    st.dictionaries(PATTERN_KEYS, LISTS, min_size=1, max_size=2),
    lambda inner: st.one_of(
        st.dictionaries(PATTERN_KEYS, LISTS | inner, min_size=1, max_size=3),
        st.tuples(
            st.dictionaries(PATTERN_KEYS, LISTS | inner, max_size=2), st.lists(inner, min_size=2, max_size=3)
        ).map(lambda both: {**both[0], "$or": both[1]}),
    ),
    max_leaves=5,
)


def asked_twice(pattern):
    """Whether some path is asked for in two ways that are written differently: what then holds is nobody's rule."""
    seen = {}

    def walk(part, path):
        for key, value in part.items():
            if key == "$or":
                for branch in value:
                    walk(branch, path)
                continue
            here = f"{path}.{key}" if path else key
            if isinstance(value, dict):
                walk(value, here)
            else:
                seen.setdefault(here, []).append(value)

    walk(pattern, "")
    return any(len(asked) > 1 for asked in seen.values())


@settings(max_examples=600, deadline=None)
@given(PATTERNS, EVENTS)
def test_compiled_pattern_equals_the_oracle(pattern, event):
    if asked_twice(pattern):
        return
    text = json.dumps({"data": pattern})
    assert compile_filters([text], "kinesis").matches({"data": event}) is oracle(pattern, event)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40) | st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["a", "$or", "prefix", "numeric", "anything-but", "cidr", "exists", ">", "wildcard"]), inner)
).map(json.dumps))  # fmt: skip
def test_any_text_is_compiled_or_refused(text):
    try:
        check([text])
    except FilterError:
        return
    filters = compile_filters([text], "kinesis")
    assert filters.matches({"data": {"a": "x"}, "partitionKey": "k"}) in (True, False)
