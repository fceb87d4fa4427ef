"""Several messages made into one."""

from __future__ import annotations

from typing import Any, Protocol

from streamfn._native import ffi, lib
from streamfn.log.format.layout import Layout
from streamfn.log.format.schema import Draft


class Mapped(Protocol):
    """Mapped messages of one layout."""

    @property
    def base(self) -> Any:
        """What their places count from."""

    @property
    def layout(self) -> Layout:
        """Their columns."""


def merged(segment: Mapped, messages: Any, count: int, end_offset: int) -> Draft:
    """Return the rows of `count` messages as one; everything below `end_offset` is durable, so it says so."""
    totals = ffi.new("uint64_t[]", 1 + lib.SF_COLUMNS_MAX)
    lib.sf_measure(segment.base, messages, count, totals)
    texts = [totals[1 + i] for i in range(len(segment.layout.texts))]
    draft = Draft(segment.layout, messages[0].first_offset, totals[0], texts)
    start = ffi.from_buffer("uint8_t[]", draft.buffer)
    lib.sf_gather(segment.base, messages, count, ffi.new("uint8_t *[]", [start + at for at in draft.columns]))
    ffi.release(start)
    draft.finish(int(messages[count - 1].epoch), end_offset)
    return draft
