"""Filter criteria: Lambda's patterns, checked, compiled, and asked of records. Pure.

check             what creation of a mapping checks
compile_filters   patterns into one expression over the fields of a record
"""

from __future__ import annotations

from streamfn.core.filter.expression import Filters, check, compile_filters
from streamfn.core.filter.pattern import LAMBDA_TEXT, FilterError

__all__ = [
    "LAMBDA_TEXT",
    "FilterError",
    "Filters",
    "check",
    "compile_filters",
]
