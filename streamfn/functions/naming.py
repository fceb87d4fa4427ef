"""How a stored function is named: by its name, or by an ARN, with a version or without."""

from __future__ import annotations

import re

# The service model's pattern of a FunctionName, as it is in its error texts.
PATTERN = (
    r"(arn:(aws[a-zA-Z-]*)?:lambda:)?([a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?"
    r"([a-zA-Z0-9-_]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?"
)
NAME_CHARS_MAX = 64  # Lambda's, of the name alone

_BARE = re.compile(r"[a-zA-Z0-9-_]+(:(\$LATEST|[0-9]+))?")


def is_stored_name(text: str) -> bool:
    """Whether a text names a stored function, and no handler: a name, or an ARN; handlers have a `.`, `:` or `/`."""
    return bool(_BARE.fullmatch(text)) or text.startswith("arn:")


def split_qualifier(text: str) -> tuple[str, str | None] | None:
    """Name and qualifier of a name or an ARN; None if it is neither."""
    found = re.fullmatch(PATTERN, text)
    return None if found is None else (found[10], found[12])
