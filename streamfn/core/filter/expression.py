"""Several patterns over the fields of a record, as one expression of and, or, and tests of single fields.

There is no "not" in it, so it can be asked with fields that are not known yet: with their tests taken as failed, it
says what is selected for certain; as passed, what is still possible. That is how what only metadata decides is
decided without looking at the data.

Fields of a record, by the kind of its stream; anything else in a pattern is a field that no record has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from streamfn.core.filter.pattern import FilterError, Node, parse
from streamfn.core.filter.predicate import MISSING, Predicate, predicate
from streamfn.errors import RefusedError
from streamfn.limits import FILTER_CHARS_MAX, FILTERS_MAX, FILTERS_MAX_DEFAULT

KINESIS, DYNAMODB = "kinesis", "dynamodb"

# Lambda's documents name `data` alone; that `partitionKey` stands beside it is what older ones said.
DATA: Final = "data"
KINESIS_FIELDS = frozenset({DATA, "partitionKey"})
DYNAMODB_FIELDS = frozenset(
    {
        "eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "eventSourceARN", "userIdentity",
        "dynamodb.ApproximateCreationDateTime", "dynamodb.Keys", "dynamodb.NewImage", "dynamodb.OldImage",
        "dynamodb.SequenceNumber", "dynamodb.SizeBytes", "dynamodb.StreamViewType",
    }
)  # fmt: skip
# What has to be parsed, record by record.
DATA_FIELDS = frozenset({DATA, "dynamodb.Keys", "dynamodb.NewImage", "dynamodb.OldImage"})


class _NotJson:
    """The value of a data field that is no JSON."""

    def __repr__(self) -> str:
        return "NOT_JSON"


# No test of such a field is passed, not even `exists: false`: a pattern that looks at the data drops what is not JSON.
NOT_JSON: Final = _NotJson()


@dataclass(frozen=True, slots=True, eq=False)
class Atom:
    """A test of one field."""

    field: str
    test: Predicate
    node: Node


@dataclass(frozen=True, slots=True, eq=False)
class All:
    """Every part."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Some:
    """At least one part."""

    parts: tuple[Expression, ...]


Expression = bool | Atom | All | Some


@dataclass(frozen=True, slots=True)
class Filters:
    """The filter criteria of a mapping, compiled. `expression` is true for what is to be delivered.

    `scan` is what is left to ask of records whose metadata make a match possible, and not certain; False if there are
    none.
    """

    kind: str
    expression: Expression
    scan: Expression

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Say whether a record is delivered; `record` has the values of its fields by their names here."""
        return evaluate(self.expression, lambda field: record.get(field, MISSING))


def check(patterns: Sequence[str], kind: str | None = None, at_most: int = FILTERS_MAX_DEFAULT) -> None:
    """Check filter criteria, as Lambda does at creation; `kind` is the stream's if it is known.

    Raises:
        RefusedError: there are too many, or one is too long.
        FilterError: one is not valid.
    """
    _trees(patterns, kind, at_most)


def compile_filters(
    patterns: Sequence[str], kind: str, constants: Mapping[str, Any] | None = None, at_most: int = FILTERS_MAX_DEFAULT
) -> Filters:
    """Compile filter criteria for a stream of a kind; `constants` are fields that all its records have alike.

    Without patterns nothing is filtered.

    Raises:
        RefusedError: as `check`.
    """
    trees = _trees(patterns, kind, at_most)
    if not trees:
        return Filters(kind, True, False)
    each = [_expression(tree, kind, constants or {}) for tree in trees]
    return Filters(kind, _some(each), _scan(each))


def _trees(patterns: Sequence[str], kind: str | None, at_most: int) -> list[Node]:
    if len(patterns) > at_most:
        more = "" if at_most == FILTERS_MAX else f"; up to {FILTERS_MAX} can be allowed"
        raise RefusedError(f"a mapping has at most {at_most} filters, not {len(patterns)}{more}")
    trees = []
    for number, pattern in enumerate(patterns, 1):
        if len(pattern) > FILTER_CHARS_MAX:
            raise RefusedError(
                f"1 validation error detected: Value '{pattern}' at 'filterCriteria.filters.{number}.member.pattern' "
                f"failed to satisfy constraint: Member must have length less than or equal to {FILTER_CHARS_MAX}"
            )
        tree = parse(pattern, number)
        _check_data(tree, kind, number)
        trees.append(tree)
    return trees


def _check_data(root: Node, kind: str | None, number: int) -> None:
    """Refuse patterns for data that is plain text: in streams it has to be JSON (Lambda Developer Guide)."""
    keys = {KINESIS: [(DATA,)], DYNAMODB: [("dynamodb",)]}.get(kind or "", [(DATA,), ("dynamodb",)])
    for path, _ in root.walk():
        if path in keys:
            reason = f"the pattern for {path[0]} must be an object: streams are filtered as JSON, not as text"
            raise FilterError(reason, path[0], number=number)


# ---- from trees to expressions


def _expression(root: Node, kind: str, constants: Mapping[str, Any]) -> Expression:
    return _fields(root, "", kind, constants)


def _fields(node: Node, prefix: str, kind: str, constants: Mapping[str, Any]) -> Expression:
    known = DYNAMODB_FIELDS if kind == DYNAMODB else KINESIS_FIELDS
    parts: list[Expression] = []
    for name, child in node.children.items():
        field = prefix + name
        if kind == DYNAMODB and field == "dynamodb":
            parts.append(_fields(child, "dynamodb.", kind, constants))
            continue
        test = predicate(child)
        if field not in known or field in constants:
            parts.append(test(constants.get(field, MISSING) if field in known else MISSING))
        else:
            parts.append(Atom(field, test, child))
    for branches in node.alternatives:
        parts.append(_some([_fields(branch, prefix, kind, constants) for branch in branches]))
    return _all(parts)


def _all(parts: Sequence[Expression]) -> Expression:
    return _joined(parts, All, decides=False)


def _some(parts: Sequence[Expression]) -> Expression:
    return _joined(parts, Some, decides=True)


def _joined(parts: Sequence[Expression], kind: type[All] | type[Some], *, decides: bool) -> Expression:
    """One expression of all parts; `decides` is the answer that a single part settles it with."""
    flat = [each for part in parts for each in (part.parts if isinstance(part, kind) else (part,))]
    if any(part is decides for part in flat):
        return decides
    left = [part for part in flat if not isinstance(part, bool)]
    if not left:
        return not decides
    # What costs no parsing is asked first.
    left.sort(key=lambda part: not _metadata_only(part))
    return left[0] if len(left) == 1 else kind(tuple(left))


def _scan(patterns: Sequence[Expression]) -> Expression:
    """What is left to ask where the metadata of a record make a match possible, and not certain."""
    open_ones = [each for each in patterns if not _metadata_only(each)]
    if len(open_ones) == 1 and isinstance(open_ones[0], All):  # its metadata are as it wants them
        return _all([part for part in open_ones[0].parts if not _metadata_only(part)])
    return _some(open_ones)


def fields_of(expression: Expression) -> frozenset[str]:
    """Return the fields that an expression asks for."""
    return frozenset(atom.field for atom in atoms(expression))


def atoms(expression: Expression) -> Iterator[Atom]:
    """Yield every test in an expression."""
    if isinstance(expression, Atom):
        yield expression
    elif not isinstance(expression, bool):
        for part in expression.parts:
            yield from atoms(part)


def _metadata_only(expression: Expression) -> bool:
    return not fields_of(expression) & DATA_FIELDS


# ---- asking


def evaluate(expression: Expression, value_of: Callable[[str], Any]) -> bool:
    """Ask an expression of one record; `value_of` gives the value of a field, MISSING or NOT_JSON."""
    if isinstance(expression, bool):
        return expression
    if isinstance(expression, Atom):
        value = value_of(expression.field)
        return value is not NOT_JSON and expression.test(value)
    if isinstance(expression, All):
        return all(evaluate(part, value_of) for part in expression.parts)
    return any(evaluate(part, value_of) for part in expression.parts)


def asker(expression: Expression, values: Mapping[str, Callable[[int], Any]]) -> Callable[[int], bool]:
    """Return a function that asks an expression of a row; `values` give each field's value in a row."""
    if isinstance(expression, bool):
        return lambda row: expression
    if isinstance(expression, Atom):
        value_of, test = values[expression.field], expression.test

        def ask(row: int) -> bool:
            value = value_of(row)
            return value is not NOT_JSON and test(value)

        return ask
    parts = [asker(part, values) for part in expression.parts]
    if isinstance(expression, All):
        return lambda row: all(part(row) for part in parts)
    return lambda row: any(part(row) for part in parts)
