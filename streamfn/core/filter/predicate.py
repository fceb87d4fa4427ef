"""A pattern's tree into one function of a JSON value.

What the rules say of values:

  * a path ends at leaves: scalars, those in an array one by one. Objects, `[]` and what is missing are no leaves, so
    `exists: true` does not match them, and `exists: false` does.
  * in an array of objects a path has the leaves of every element; but what is asked of several paths must be met by
    one element (event-ruler calls it array consistency). `exists: false` means that no element has a leaf there.
  * a dotted key in a record is a path, as it is in a pattern.
  * text is text, whatever it looks like: JSON in it is not looked into.

Arrays of objects under `exists: false`, and dotted keys in records, go a slower way that knows both; the fast way only
notices that it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from streamfn.core.filter.pattern import Leaf, Node

Predicate = Callable[[Any], bool]


class _Missing:
    """The value of a field that is not there."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


def predicate(node: Node) -> Predicate:
    """Return the function that says whether a value (parsed JSON, or MISSING) is as the node asks."""
    if not node.children and not node.alternatives:
        return _leaf(node.leaf) if node.leaf is not None else lambda value: True
    on_object = _object(node)
    when_empty = on_object({})
    wary = any(leaf.absent for _, leaf in node.walk())
    leaf = _leaf(node.leaf) if node.leaf is not None else None

    def test(value: Any) -> bool:
        if leaf is not None and not leaf(value):
            return False
        kind = type(value)
        if kind is dict:
            return on_object(value)
        if kind is list:
            elements = list(_objects(value))
            if not elements:
                return when_empty
            if wary and len(elements) > 1:
                return _slow(node, value)
            return any(on_object(each) for each in elements)
        return when_empty

    return test


def _leaf(leaf: Leaf) -> Predicate:
    test, absent = leaf.test, leaf.absent

    def at_leaf(value: Any) -> bool:
        kind = type(value)
        if kind is list:
            found = list(_scalars(value))
            return any(test(each) for each in found) if found else absent
        if kind is dict or value is MISSING:
            return absent
        return test(value)

    return at_leaf


def _object(node: Node) -> Predicate:
    """Return what is asked of an object: of its fields, and of one branch of each `$or`."""
    fields = [(name, predicate(child)) for name, child in node.children.items()]
    alternatives = [[predicate(branch) for branch in branches] for branches in node.alternatives]
    dotted = tuple(sorted({".".join(path[:end]) for path, _ in node.walk() for end in range(2, len(path) + 1)}))

    if len(fields) == 1 and not alternatives:
        ((name, only),) = fields

        def on_field(value: dict[str, Any]) -> bool:
            for key in dotted:
                if key in value:
                    return _slow(node, value)
            return only(value.get(name, MISSING))

        return on_field

    def on_object(value: dict[str, Any]) -> bool:
        for key in dotted:
            if key in value:
                return _slow(node, value)
        for name, field in fields:
            if not field(value.get(name, MISSING)):
                return False
        for branches in alternatives:
            for branch in branches:
                if branch(value):
                    break
            else:
                return False
        return True

    return on_object


def _flat(value: Any) -> Iterator[Any]:
    """Yield what is in an array, arrays in it taken apart, or the value that is none; data may nest as it likes."""
    rest = [value]
    while rest:
        each = rest.pop()
        if type(each) is list:
            rest.extend(reversed(each))
        else:
            yield each


def _scalars(value: Any) -> Iterator[Any]:
    """Yield the leaves that a value is, or that an array has."""
    return (each for each in _flat(value) if type(each) is not dict and each is not MISSING)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the object that a value is, or the objects of an array."""
    return (each for each in _flat(value) if type(each) is dict)


# ---- the slower way


def _slow(node: Node, value: Any) -> bool:
    value = _undotted(value, max(len(path) for path, _ in node.walk()))
    gone = {id(leaf) for path, leaf in node.walk() if leaf.absent and not _has(value, path)}
    # What the node's own leaf says has been asked already, or will be.
    return any(_holds(node, each, gone) for each in _objects(value))


def _holds(node: Node, value: dict[str, Any], gone: set[int]) -> bool:
    for name, child in node.children.items():
        inner = value.get(name, MISSING)
        leaf = child.leaf
        if leaf is not None and id(leaf) not in gone and not any(leaf.test(each) for each in _scalars(inner)):
            return False
        if child.children or child.alternatives:
            elements = list(_objects(inner)) or [{}]
            if not any(_holds(child, each, gone) for each in elements):
                return False
    return all(any(_holds(branch, value, gone) for branch in branches) for branches in node.alternatives)


def _has(value: Any, path: tuple[str, ...]) -> bool:
    if not path:
        return any(True for _ in _scalars(value))
    return any(path[0] in each and _has(each[path[0]], path[1:]) for each in _objects(value))


def _undotted(value: Any, depth: int) -> Any:
    """Return the value with dotted keys as the objects they stand for, as many steps deep as a pattern looks."""
    if type(value) is list:
        return [_undotted(each, depth) for each in _flat(value)]
    if type(value) is not dict:
        return value
    plain: dict[str, Any] = {}
    if depth:
        for key, inner in value.items():
            first, *steps = key.split(".")
            inner = _undotted(inner, depth - 1)
            for step in reversed(steps):
                inner = {step: inner}
            plain[first] = _merged(plain[first], inner) if first in plain else inner
    return plain


def _merged(one: Any, other: Any) -> Any:
    """Return both values that a path has: objects as one, others as elements of an array."""
    if type(one) is dict and type(other) is dict:
        merged = dict(one)
        for key, inner in other.items():
            merged[key] = _merged(merged[key], inner) if key in merged else inner
        return merged
    return (one if type(one) is list else [one]) + (other if type(other) is list else [other])
