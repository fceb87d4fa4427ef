"""What commands print: JSON for programs, and text that cannot take over a terminal for people."""

from __future__ import annotations

import json
from collections.abc import Mapping

import click
import orjson


def print_json(value: object) -> None:
    """Print one JSON value on one line of standard output."""
    click.echo(orjson.dumps(value))


def print_answer(answer: Mapping[str, object], *, one_line: bool) -> None:
    """Print an answer as the AWS CLI does, or on one line."""
    if one_line:
        print_json(answer)
    else:
        click.echo(json.dumps(answer, indent=4, ensure_ascii=False))


def printable(text: str) -> str:
    """Return `text` with everything escaped that is not printable, line ends included."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def shown_bytes(data: bytes) -> str:
    """Return data as one printable line: UTF-8 as text, other bytes as \\xNN."""
    return printable(data.decode("utf-8", "backslashreplace"))


def count_of(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 record`, `1,234 records`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def shown_size(size: int) -> str:
    """Return a size in the unit that suits it: 512 B, 1.5 KiB, 2.0 GiB."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"


def shown_age(ms: int) -> str:
    """Return a duration with one or two units: 250 ms, 4.2 s, 3 min 5 s, 2 h 4 min, 12 d."""
    if ms < 1000:
        return f"{ms} ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, whole = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {whole} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d"
