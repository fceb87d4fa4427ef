"""The work behind `streamfn function`: from options to requests, and answers printed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from streamfn.cli import shorthand
from streamfn.cli.function_options import storage_mb
from streamfn.cli.options import Settings
from streamfn.cli.output import print_answer
from streamfn.cli.run_options import parse_environment
from streamfn.errors import FailedError, RefusedError
from streamfn.functions import stored
from streamfn.functions.configuration import Configuration
from streamfn.functions.managing import DELETE, GET, UPDATE, VERSIONS, StoredFunctions, not_found
from streamfn.functions.naming import split_qualifier
from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping import bell
from streamfn.state.store import Store


def create(settings: Settings, which: str | None, given: Mapping[str, Any]) -> None:
    """Store a function and print it; see `StoredFunctions.create` for what is refused."""
    asked = _request(given)
    if which is not None:
        asked["FunctionName"] = which

    def open_store() -> Store:
        data = DataDir.open(settings.data_dir, create=True)
        data.require_writable()
        return opened.enter_context(Store.open(data.state_path, create=True))

    with ExitStack() as opened:
        print_answer(StoredFunctions(open_store, Path.cwd()).create(asked), one_line=settings.json_output)
    _ring(settings)  # mappings may have waited for it


def list_(settings: Settings, most: int | None) -> None:
    """Print the functions; without a state database there are none."""
    with _opened(settings) as functions:
        print_answer({"Functions": []} if functions is None else functions.list_(most), one_line=settings.json_output)


def show(settings: Settings, which: str, qualifier: str | None) -> None:
    """Print a function, or a version of it."""
    with _required(settings, GET, which) as functions:
        print_answer(functions.get(which, qualifier), one_line=settings.json_output)


def update(settings: Settings, which: str | None, given: Mapping[str, Any]) -> None:
    """Change a function and print it; see `StoredFunctions.update` for what is refused."""
    asked = _request(given)
    named = asked.pop("FunctionName", None)
    name = which if which is not None else named
    if not isinstance(name, str):
        raise click.UsageError("name a function: as the argument, or by --function-name")
    with _required(settings, UPDATE, name, writing=True) as functions:
        print_answer(functions.update(name, asked), one_line=settings.json_output)
    _ring(settings)


def delete(settings: Settings, which: str) -> None:
    """Forget a function and print what it was."""
    with _required(settings, DELETE, which, writing=True) as functions:
        print_answer(functions.delete(which), one_line=settings.json_output)
    _ring(settings)


def versions(settings: Settings, which: str, most: int | None) -> None:
    """Print the versions of a function."""
    with _required(settings, VERSIONS, which) as functions:
        print_answer(functions.versions(which, most), one_line=settings.json_output)


def configuration_of(settings: Settings, operation: str, which: str) -> Configuration:
    """What a call or a run of a stored function starts; see `StoredFunctions.configuration` for what is refused."""
    with _required(settings, operation, which) as functions:
        return functions.configuration(operation, which)


def _ring(settings: Settings) -> None:
    """Tell whoever runs mappings that something has changed."""
    bell.ring(DataDir.open(settings.data_dir, create=False).locks_path)


@contextmanager
def _required(settings: Settings, operation: str, which: str, *, writing: bool = False) -> Iterator[StoredFunctions]:
    """The functions of a data directory; where there are none, the one that is asked for is not found."""
    with _opened(settings, writing=writing) as functions:
        if functions is None:
            named = split_qualifier(which)
            raise not_found(operation, which if named is None else named[0])
        yield functions


@contextmanager
def _opened(settings: Settings, *, writing: bool = False) -> Iterator[StoredFunctions | None]:
    """The functions of a data directory, None where nothing was ever stored; written to where that is allowed.

    Who only looks writes, too, where it can: that the code has changed.
    """
    if not settings.data_dir.exists():
        yield None
        return
    data = DataDir.open(settings.data_dir, create=False)
    if writing:
        data.require_writable()
    if not data.state_path.exists():
        yield None
        return
    with ExitStack() as opened:
        store = opened.enter_context(_store(data, writing=writing))
        yield StoredFunctions(lambda: store, Path.cwd())


def _store(data: DataDir, *, writing: bool) -> Store:
    if not writing and not os.access(data.state_path, os.W_OK):
        return Store.open(data.state_path, create=False, read_only=True)
    try:
        return Store.open(data.state_path, create=False)
    except FailedError:
        if writing:
            raise
        return Store.open(data.state_path, create=False, read_only=True)


_PLAIN = {**stored.PLAIN, "runtime": "Runtime"}


def _request(given: Mapping[str, Any]) -> dict[str, Any]:
    """The request that options make; they win over `--cli-input-json`, as in the AWS CLI."""
    text = given.get("cli_input_json")
    asked = {} if text is None else shorthand.json_input("--cli-input-json", text)
    asked |= {name: given[field] for field, name in _PLAIN.items() if given[field] is not None}
    for field, name in stored.CONCURRENCY.items():
        if given[field] is not None:
            asked[name] = _number(field, given[field])
    if given["code_dir"] is not None:
        asked["CodeDirectory"] = os.path.abspath(given["code_dir"])
    if given["ephemeral_storage"] is not None:
        asked["EphemeralStorage"] = {"Size": storage_mb(given["ephemeral_storage"])}
    if given["layers"]:
        asked["Layers"] = [os.path.abspath(layer) for layer in shorthand.texts("--layers", given["layers"])]
    if given["environment"] is not None or given["env"]:
        variables = {}
        if given["environment"] is not None:
            found = shorthand.structure("--environment", given["environment"])
            if set(found) - {"Variables"} or not isinstance(found.get("Variables", {}), dict):
                raise RefusedError(f"--environment takes Variables={{NAME=VALUE,...}}, not {given['environment']!r}")
            variables = found.get("Variables", {})
        asked["Environment"] = {"Variables": {**variables, **parse_environment(given["env"])}}
    return asked


def _number(field: str, text: str) -> int | None:
    """A number of executions; None for `none`."""
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        option = "--" + field.replace("_", "-")
        raise RefusedError(f"{option} takes a number, or none, not {text!r}") from None
