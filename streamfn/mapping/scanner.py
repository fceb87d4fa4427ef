"""The scan process's main: ring entry → rows of a mapped message → filters → the numbers of the rows that pass.

It is a worker of the pool with no handler in it: data has to be parsed to be filtered, and that would hold the
runtime's interpreter. The answer's payload says for each extent of an entry how many rows are selected, and their
numbers in its message, ascending, all as native uint32. A scan process never answers with an error: what it cannot do
ends it, and the runtime hears of that.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, NoReturn

import orjson

from streamfn._native import ffi, lib
from streamfn.core.filter.expression import DATA_FIELDS, Atom, Expression, asker, compile_filters, fields_of
from streamfn.core.filter.predicate import MISSING
from streamfn.log.segment.places import Place, layout_of, places
from streamfn.mapping.filtering import SOURCES
from streamfn.pool.seat import Seat

SLICE_NS = 100_000_000


class State(NamedTuple):
    """What the zygote prepared: the kind of the stream, and what is left to ask of a row."""

    kind: str
    expression: Expression


def init(settings: Mapping[str, Any]) -> State:
    """Compile the filters. `settings`: kind, filters (pattern texts), constants (see `filtering.constants`)."""
    patterns, kind = settings["filters"], settings["kind"]
    filters = compile_filters(patterns, kind, settings["constants"], at_most=len(patterns))
    return State(kind, filters.scan)


class Segments:
    """The segments this process has mapped; one that is missing is on its way through the socket."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._mapped: dict[int, tuple[Any, memoryview]] = {}

    def __getitem__(self, segment_id: int) -> tuple[Any, memoryview]:
        """Return where a segment begins (cdata), and its bytes."""
        while segment_id not in self._mapped:
            received_id, _, descriptor = self._seat.receive_segment()
            size = os.fstat(descriptor).st_size
            address = lib.sf_map(descriptor, size)
            os.close(descriptor)
            if not address:
                raise OSError(ffi.errno, f"cannot map segment {received_id} of {size} bytes")
            base = ffi.cast("uint8_t *", address)
            self._mapped[received_id] = base, memoryview(ffi.buffer(base, size))
        return self._mapped[segment_id]

    def retire(self, segment_id: int) -> None:
        """Let a mapping go."""
        base, content = self[segment_id]
        del self._mapped[segment_id]
        size = content.nbytes
        content.release()
        lib.sf_unmap(base, size)


def main(state: State, seat: Seat) -> NoReturn:
    """Serve the rings until the process is ended from outside."""
    segments, scan = Segments(seat), Scan(state)
    desk, work = seat.desk, ffi.new("sf_work *")
    while True:
        kind = lib.sf_desk_next(desk, work, SLICE_NS)
        if kind in (lib.SF_NEXT_INVOKE, lib.SF_NEXT_SELECTED):
            answer = _answer(work, segments, scan, selected=kind == lib.SF_NEXT_SELECTED).tobytes()
            if not lib.sf_desk_finish(desk, lib.SF_OK, answer, len(answer)):
                os._exit(1)
        elif kind == lib.SF_NEXT_RETIRE:
            segments.retire(work.segment_id)
            if not lib.sf_desk_retired(desk):
                os._exit(1)
        elif kind == lib.SF_NEXT_LOST:
            os._exit(1)


def _answer(work: Any, segments: Segments, scan: Scan, *, selected: bool) -> array[int]:
    answer: array[int] = array("I")
    extents = ffi.cast("sf_extent *", work.extents)
    numbers: list[int] = []
    if selected:
        numbers = ffi.unpack(ffi.cast("uint32_t *", work.selection), work.selected)
    for place in range(work.extent_count):
        extent = extents[place]
        rows: Sequence[int] = range(extent.first_row, extent.first_row + extent.rows)
        if extent.first_row == lib.SF_SELECTED:
            rows, numbers = numbers[: extent.rows], numbers[extent.rows :]
        found = scan.selected(*segments[extent.segment_id], extent.column, rows)
        answer.append(len(found))
        answer += found
    return answer


class Scan:
    """The filters over the rows of messages of one kind."""

    def __init__(self, state: State) -> None:
        self._expression = state.expression
        self._fields = fields_of(state.expression)
        self._layout = layout_of(state.kind)
        self._columns = frozenset(SOURCES[field].column for field in self._fields)
        self._kinesis = state.kind != "dynamodb"

    def selected(self, base: Any, content: memoryview, column: Any, rows: Sequence[int]) -> array[int]:
        """Return the numbers of those `rows` that pass. `column` is that of the message's extent."""
        placed = self._places(base, column)
        expression = self._expression
        if isinstance(expression, Atom) and expression.field in DATA_FIELDS:
            return _documents(expression, content, placed[SOURCES[expression.field].column], rows)
        values = {field: _reader(field, content, placed[SOURCES[field].column]) for field in self._fields}
        ask = asker(expression, values)
        return array("I", [row for row in rows if ask(row)])

    def _places(self, base: Any, column: Any) -> Mapping[str, Place]:
        if not self._kinesis:
            return places(base, self._layout, column[lib.SF_BODY], column[lib.SF_BODY_ROWS], self._columns)
        # An extent of a Kinesis log names its columns, and not how many rows its message has.
        key, data = self._layout.columns[1], self._layout.columns[3]
        return {
            "partition_key": Place(key, None, column[lib.SF_KEY_OFFSETS], column[lib.SF_KEY_BYTES], 0),
            "data": Place(data, None, column[lib.SF_DATA_OFFSETS], column[lib.SF_DATA_BYTES], 0),
        }


def _documents(atom: Atom, content: memoryview, place: Place, rows: Sequence[int]) -> array[int]:
    """The rows whose document passes one test: the loop that most filters are."""
    passed: array[int] = array("I")
    keep, test, parse, broken = passed.append, atom.test, orjson.loads, orjson.JSONDecodeError
    assert place.offsets is not None
    at, validity, values = place.offsets, place.validity, place.values
    if validity is None and isinstance(rows, range):
        offsets = content[at + 4 * rows.start : at + 4 * (rows.stop + 1)].cast("i").tolist()
        for row, (start, end) in enumerate(pairwise(offsets), rows.start):
            try:
                document = parse(content[values + start : values + end])
            except broken:
                continue
            if test(document):
                keep(row)
        return passed
    missing = test(MISSING)
    for row in rows:
        if validity is not None and not content[validity + (row >> 3)] >> (row & 7) & 1:
            if missing:
                keep(row)
            continue
        start, end = content[at + 4 * row : at + 4 * row + 8].cast("i")
        try:
            document = parse(content[values + start : values + end])
        except broken:
            continue
        if test(document):
            keep(row)
    return passed


def _reader(field: str, content: memoryview, place: Place) -> Callable[[int], Any]:
    """Return a function that gives a field's value in a row; it remembers the last: several tests may ask for it."""
    value_of = SOURCES[field].value
    offsets, values, validity = place.offsets, place.values, place.validity
    last_row, last = -1, None

    def read(row: int) -> Any:
        nonlocal last_row, last
        if row == last_row:
            return last
        if validity is not None and not content[validity + (row >> 3)] >> (row & 7) & 1:
            value: Any = MISSING
        elif offsets is None:
            value = value_of(content[values + 8 * row : values + 8 * row + 8].cast("q")[0])
        else:
            start, end = content[offsets + 4 * row : offsets + 4 * row + 8].cast("i")
            value = value_of(content[values + start : values + end])
        last_row, last = row, value
        return value

    return read
