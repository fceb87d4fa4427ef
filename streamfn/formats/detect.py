"""Which format a file has."""

from __future__ import annotations

from streamfn.errors import RefusedError

FORMATS = ("jsonl", "lines", "csv", "parquet")
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "lines",
    ".log": "lines",
}


def format_of(name: str) -> str:
    """Return the format that a file's name says it has; standard input (`-`) is taken as jsonl.

    Raises:
        RefusedError: the name does not say.
    """
    if name == "-":
        return "jsonl"
    for suffix, found in _SUFFIXES.items():
        if name.lower().endswith(suffix):
            return found
    raise RefusedError(f"cannot tell the format of {name!r} from its name: give --format {'|'.join(FORMATS)}")
