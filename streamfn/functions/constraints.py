"""What the service's model says of values that are out of their range, in its own words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from streamfn.errors import RefusedError


def refuse(violations: Sequence[str]) -> None:
    """Raise RefusedError with every violation, as the service lists them; nothing if there is none."""
    if violations:
        raise RefusedError(listed(violations))


def listed(violations: Sequence[str]) -> str:
    """The violations, of which there is one at least, as the service lists them."""
    plural = "" if len(violations) == 1 else "s"
    return f"{len(violations)} validation error{plural} detected: {'; '.join(violations)}"


def in_range(member: str, value: int, least: int, most: int) -> Iterator[str]:
    """What is said of a number that is not in `least`..`most`."""
    prefix = f"Value '{value}' at '{member}' failed to satisfy constraint: Member must have value "
    if value < least:
        yield f"{prefix}greater than or equal to {least}"
    elif value > most:
        yield f"{prefix}less than or equal to {most}"


def one_of(member: str, value: str, values: tuple[str, ...]) -> Iterator[str]:
    """What is said of a text that is none of `values`."""
    if value not in values:
        allowed = f"Member must satisfy enum value set: [{', '.join(values)}]"
        yield f"Value '{value}' at '{member}' failed to satisfy constraint: {allowed}"


def at_most(member: str, value: str, most: int) -> Iterator[str]:
    """What is said of a text of more than `most` characters."""
    if len(value) > most:
        rule = f"Member must have length less than or equal to {most}"
        yield f"Value '{value}' at '{member}' failed to satisfy constraint: {rule}"
