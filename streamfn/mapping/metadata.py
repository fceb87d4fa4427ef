"""Filters over whole columns: what a record's metadata alone decide. Imported only where there is such a filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamfn.core.filter.expression import DATA_FIELDS, NOT_JSON, All, Atom, Expression, Filters
from streamfn.log.segment.masks import Columns, Mask, both, either, without
from streamfn.log.segment.scan import Message
from streamfn.mapping.filtering import SOURCES, field_value

Rows = memoryview | None  # row numbers of one message, format 'I', ascending; None: all of them


def decide(filters: Filters, messages: Sequence[Message]) -> tuple[list[Rows], list[Rows]]:
    """Return, for each message, the rows that metadata select for certain, and those that must be looked into.

    The messages must stay mapped meanwhile; what is returned is independent of them. May run in any thread.
    """
    asked = _Asked(messages)
    certain = asked.mask(filters.expression, unknown=False)
    if filters.scan is False:
        return asked.columns.rows(certain), asked.columns.rows(False)
    possible = asked.mask(filters.expression, unknown=True)
    return asked.columns.rows(certain), asked.columns.rows(without(possible, certain))


class _Asked:
    """The answers of some messages' metadata; each test is asked once."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.columns = Columns(messages)
        self._answers: dict[int, Mask] = {}

    def mask(self, expression: Expression, *, unknown: bool) -> Mask:
        """Return for which rows an expression holds, where tests of data are taken as `unknown`."""
        if isinstance(expression, bool):
            return expression
        if isinstance(expression, Atom):
            return unknown if expression.field in DATA_FIELDS else self._answer(expression)
        join, mask = (both, True) if isinstance(expression, All) else (either, False)
        result: Mask = mask
        for part in expression.parts:
            result = join(result, self.mask(part, unknown=unknown))
        return result

    def _answer(self, atom: Atom) -> Mask:
        mask = self._answers.get(id(atom))
        if mask is None:
            column = SOURCES[atom.field].column
            mask = self._answers[id(atom)] = self.columns.matching(column, lambda value: _passes(atom, value))
        return mask


def _passes(atom: Atom, value: Any) -> bool:
    seen = field_value(atom.field, value)
    return seen is not NOT_JSON and atom.test(seen)
