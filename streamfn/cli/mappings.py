"""The work behind `streamfn mapping`: from options to requests, and answers printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import click

from streamfn.cli import shorthand
from streamfn.cli.options import Settings
from streamfn.cli.output import count_of, print_answer
from streamfn.errors import RefusedError
from streamfn.formats.times import parse_seconds_ms
from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping import refusals
from streamfn.mapping.managing import DELETE, GET, UPDATE, Mappings
from streamfn.mapping.resetting import RESET, reset_checkpoint
from streamfn.state.store import Store

# Options that are structures, and the one that is a list; the others are plain values.
_STRUCTURES = ("filter_criteria", "destination_config", "metrics_config", "tags")
_WORDS = {"arn": "Arn", "uuid": "UUID"}


def create(settings: Settings, given: Mapping[str, Any]) -> None:
    """Make a mapping and print it; see `Mappings.create` for what is refused."""
    with _opened(settings, writing=True, make=True) as place:
        print_answer(place.mappings.create(_timed(_request(given))), one_line=settings.json_output)


def list_(settings: Settings, given: Mapping[str, Any], everything: bool) -> None:
    """Print the mappings; without a state database there are none."""
    with _opened(settings) as place:
        asked = _request(given)
        if place.empty:
            print_answer({"EventSourceMappings": []}, one_line=settings.json_output)
        else:
            print_answer(place.mappings.list_(asked, everything=everything), one_line=settings.json_output)


def show(settings: Settings, which: str, metrics: bool) -> None:
    """Print a mapping, or what it has counted."""
    with _opened(settings) as place:
        place.require(GET, which)
        answer = place.mappings.get(which)
        if metrics:
            answer = {"UUID": answer["UUID"], **place.store().progress(answer["UUID"]).counts()}
        print_answer(answer, one_line=settings.json_output)


def update(settings: Settings, which: str | None, given: Mapping[str, Any]) -> None:
    """Change a mapping and print it; see `Mappings.update` for what is refused."""
    asked = _request(given)
    named = asked.pop("UUID", None)
    if which is None and not isinstance(named, str):
        raise click.UsageError("name one mapping: its UUID or name as the argument, or --uuid")
    with _opened(settings, writing=True) as place:
        place.require(UPDATE, which or str(named))
        print_answer(place.mappings.update(which or str(named), asked), one_line=settings.json_output)


def delete(settings: Settings, which: str) -> None:
    """Delete a mapping and print what it was; what it still had to tell a destination is dropped, and that is said."""
    with _opened(settings, writing=True) as place:
        place.require(DELETE, which)
        store = place.store()
        found = store.find(which)
        pending = 0 if found is None else sum(map(store.pending_count, store.with_redrive(found.uuid)))
        answer = place.mappings.delete(which)
        if pending and place.store().find(answer["UUID"]) is None:
            click.echo(f"streamfn: {count_of(pending, 'pending on-failure record')} dropped with it", err=True)
        print_answer(answer, one_line=settings.json_output)


def reset(settings: Settings, which: str, position: str) -> None:
    """Put a mapping elsewhere and say where."""
    with _opened(settings, writing=True) as place:
        place.require(RESET, which)
        done = reset_checkpoint(place.data, place.store(), which, position)
        print_answer({"UUID": done.uuid, "Name": done.name, "Offsets": done.offsets}, one_line=settings.json_output)


class _NoData(DataDir):
    """A data directory that is not there: like an account in which nothing was ever made, and nothing is made here."""

    def stream_ids(self) -> list[str]:
        """None."""
        return []


class _Place:
    """A data directory with its store, which is opened when it is first needed."""

    def __init__(self, data: DataDir, opened: ExitStack, *, writing: bool, make: bool) -> None:
        self.data = data
        self.empty = not make and not data.state_path.exists()
        self.store = cache(
            lambda: opened.enter_context(Store.open(data.state_path, create=make, read_only=not writing))
        )
        self.mappings = Mappings(data, self.store, Path.cwd())

    def require(self, operation: str, which: str) -> None:
        """Refuse to look for a mapping where there is no store."""
        if self.empty:
            raise refusals.not_found(operation, which)


@contextmanager
def _opened(settings: Settings, *, writing: bool = False, make: bool = False) -> Iterator[_Place]:
    if settings.data_dir.exists():
        data = DataDir.open(settings.data_dir, create=False)
        if writing:
            data.require_writable()
    else:
        data = _NoData(settings.data_dir)
    with ExitStack() as opened:
        yield _Place(data, opened, writing=writing, make=make)


def _request(given: Mapping[str, Any]) -> dict[str, Any]:
    """The request that options make; they win over `--cli-input-json`, as in the AWS CLI."""
    text = given.get("cli_input_json")
    asked = {} if text is None else shorthand.json_input("--cli-input-json", text)
    for field, value in given.items():
        option = "--" + field.replace("_", "-")
        if value is None or value == () or field == "cli_input_json":
            continue
        if field in _STRUCTURES:
            value = shorthand.structure(option, value)
        elif field == "function_response_types":
            value = shorthand.texts(option, value)
        asked["".join(_WORDS.get(word, word.capitalize()) for word in field.split("_"))] = value
    return asked


def _timed(asked: dict[str, Any]) -> dict[str, Any]:
    """The same, with a time that was given as a text as what it is on the wire."""
    stamp = asked.get("StartingPositionTimestamp")
    if isinstance(stamp, str):
        try:
            asked["StartingPositionTimestamp"] = parse_seconds_ms(stamp) / 1000
        except ValueError as error:
            raise RefusedError(f"--starting-position-timestamp: {error}") from None
    return asked
