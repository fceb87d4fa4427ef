"""Reading a filter pattern: JSON text into a tree of paths and tests, or Lambda's refusal with our reason behind it.

The language is EventBridge's (Lambda Developer Guide, "Control which events Lambda sends to your function"; texts of
the reasons: AWS's event-ruler and recordings of EventBridge). Lambda shows none of the reasons: whatever is wrong,
it says `Invalid filter pattern definition.`
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from streamfn.core.filter.operators import Bad, Test, anything, one_of, reserved, test_of
from streamfn.errors import RefusedError

LAMBDA_TEXT = "Invalid filter pattern definition."
OR = "$or"

# Deeper patterns fit into 4,096 characters, but nobody means them.
_DEPTH_MAX = 100


class FilterError(RefusedError):
    """A filter pattern is refused. The text begins with Lambda's own, and goes on with where and why.

    `lambda_text` is Lambda's alone, `reason` the reason that event-ruler has for it, `where` the place in the pattern.
    """

    def __init__(self, reason: str, where: str, *, number: int | None = None) -> None:
        place = [f"pattern {number}"] if number is not None else []
        place += [f"at {where}"] if where else []
        super().__init__(f"{LAMBDA_TEXT} ({', '.join(place)}: {reason})" if place else f"{LAMBDA_TEXT} ({reason})")
        self.lambda_text = LAMBDA_TEXT
        self.reason = reason
        self.where = where


@dataclass(slots=True, eq=False)
class Leaf:
    """What is asked of the values at the end of a path: one of them passes `test`, or there is none and `absent`.

    `strings` are the only texts that can pass, where that is so.
    """

    test: Test
    absent: bool = False
    strings: frozenset[str] | None = None


@dataclass(slots=True, eq=False)
class Node:
    """What is asked of the values at a path: all of it.

    `children` are keyed by one step (a dotted key is several), `alternatives` are `$or`s: one node of each is enough.
    """

    leaf: Leaf | None = None
    children: dict[str, Node] = field(default_factory=dict)
    alternatives: list[list[Node]] = field(default_factory=list)

    def walk(self) -> Iterator[tuple[tuple[str, ...], Leaf]]:
        """Yield every leaf below, with its path from here."""
        if self.leaf is not None:
            yield (), self.leaf
        for name, child in self.children.items():
            for path, leaf in child.walk():
                yield (name, *path), leaf
        for branches in self.alternatives:
            for branch in branches:
                yield from branch.walk()


def parse(text: str, number: int | None = None) -> Node:
    """Read one pattern; `number` (from 1) is for the error.

    Raises:
        FilterError: it is not a pattern.
    """
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise FilterError("it is nested too deeply", "", number=number) from None
    except ValueError as error:
        raise FilterError(f"it is not JSON: {error}", "", number=number) from None
    if not isinstance(document, dict):
        raise FilterError("Filter is not an object", "", number=number)
    try:
        root = Node()
        _read_object(root, document, ())
    except _At as error:
        raise FilterError(error.reason, error.where, number=number) from None
    return root


class _At(Exception):
    """A reason, and where."""

    def __init__(self, reason: str, where: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.where = where


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _fail(reason: str, path: tuple[str, ...]) -> NoReturn:
    raise _At(reason, ".".join(path))


def _read_object(node: Node, document: dict[str, Any], path: tuple[str, ...]) -> None:
    if not document:
        _fail("Empty objects are not allowed", path)
    if len(path) > _DEPTH_MAX:
        _fail("it is nested too deeply", path[:4])
    for key, value in document.items():
        if key == OR and _is_or(value):
            branches = []
            for index, each in enumerate(value):
                branch = Node()
                _read_object(branch, each, (*path, f"{OR}[{index}]"))
                branches.append(branch)
            node.alternatives.append(branches)
            continue
        here = (*path, key)
        if not isinstance(value, (dict, list)):
            _fail(f'"{key}" must be an object or an array', here)
        target = node
        for step in key.split("."):  # a dotted key is a path
            target = target.children.setdefault(step, Node())
        if isinstance(value, dict):
            _read_object(target, value, here)
        else:
            target.leaf = _read_leaf(value, here)


def _is_or(value: Any) -> bool:
    """Whether `$or` is the operator: otherwise it is a field of that name, as any other."""
    return (
        isinstance(value, list)
        and len(value) >= 2
        and all(isinstance(each, dict) and each and not any(key in reserved for key in each) for each in value)
    )


def _read_leaf(values: list[Any], path: tuple[str, ...]) -> Leaf:
    if not values:
        _fail("Empty arrays are not allowed", path)
    literals: list[Any] = []
    tests: list[Test] = []
    absent = False
    for index, value in enumerate(values):
        if isinstance(value, list):
            _fail("Match value must be String, number, true, false, or null", (*path[:-1], f"{path[-1]}[{index}]"))
        if not isinstance(value, dict):
            literals.append(value)
            continue
        try:
            if len(value) != 1:
                raise Bad("Only one key allowed in match expression" if value else "Match expression name not found")
            ((operator, argument),) = value.items()
            if operator == "exists":
                if not isinstance(argument, bool):
                    raise Bad("exists match pattern must be either true or false.")
                if argument:
                    tests.append(anything)
                else:
                    absent = True
            elif operator == "exactly":
                if not isinstance(argument, str):
                    raise Bad("exact match pattern must be a string")
                literals.append(argument)
            else:
                tests.append(test_of(operator, argument))
        except Bad as error:
            _fail(str(error), (*path[:-1], f"{path[-1]}[{index}]"))
    if literals:
        tests.insert(0, one_of(literals))
    only_texts = bool(literals) and len(tests) == 1 and not absent and all(isinstance(each, str) for each in literals)
    return Leaf(_any_of(tests), absent, frozenset(literals) if only_texts else None)


def _any_of(tests: list[Test]) -> Test:
    if not tests:
        return lambda value: False
    if len(tests) == 1:
        return tests[0]
    first, second = tests[0], _any_of(tests[1:])
    return lambda value: first(value) or second(value)
