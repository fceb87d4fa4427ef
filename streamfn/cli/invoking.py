"""The work behind `streamfn invoke`: the event, the function, the call, and what is printed of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import orjson
import trio

from streamfn import limits
from streamfn.cli import shorthand
from streamfn.cli.function_options import FunctionFlags
from streamfn.cli.functions import configuration_of
from streamfn.cli.options import Settings
from streamfn.cli.output import print_json
from streamfn.cli.run_options import parse_environment
from streamfn.errors import RefusedError
from streamfn.functions.configuration import Configuration, function_name_of
from streamfn.functions.constraints import one_of, refuse
from streamfn.functions.naming import is_stored_name
from streamfn.functions.ranges import check_function, check_handler, function_violations
from streamfn.functions.refusals import ServiceRefused
from streamfn.mapping.invoking import INVOKE, Invocation, checked_event, invoke_once
from streamfn.mapping.logs import LogLines, LogWriter, to_standard_error
from streamfn.mapping.options import LOGS


def invoke(
    settings: Settings,
    handler: str,
    flags: FunctionFlags,
    *,
    event: str | None,
    payload: str | None,
    timeout: int | None,
    environment: Sequence[str],
    logs: str,
    debug: bool,
) -> int:
    """Call a handler or a stored function once, print what came of it, and return the exit code of the help.

    Raises:
        RefusedError: the event, an option, the handler's name or the function is refused; nothing was called.
        FailedError: no worker can be made on this machine.
    """
    refuse(list(one_of("logs", logs, LOGS)))
    if debug and timeout is not None:
        raise RefusedError("--debug means no timeout: leave --timeout out")
    function = _function(settings, handler, flags, timeout, parse_environment(environment))
    content = checked_event(_event(event, payload))
    if debug and not sys.stdin.isatty():
        raise RefusedError("--debug needs a terminal as standard input")
    with closing(LogWriter(to_standard_error)) as writer:
        lines = LogLines(writer, logs)
        found = trio.run(
            lambda: invoke_once(function, content, lines, debug=debug, data_dir=str(settings.data_dir.resolve()))
        )
    _print(settings, found)
    return 0 if found.fault is None else 1


def _function(
    settings: Settings, handler: str, flags: FunctionFlags, timeout: int | None, environment: dict[str, str]
) -> Configuration:
    """What is called: a stored function with what was said beside it, or a handler from the current directory."""
    changes: dict[str, Any] = dict(flags)
    if timeout is not None:
        changes["timeout_s"] = timeout
    if is_stored_name(handler):
        stored = configuration_of(settings, INVOKE, handler)
        function = replace(stored, **changes, environment={**stored.environment, **environment})
    else:
        check_handler(handler)
        function = Configuration(
            name=function_name_of(handler),
            handler=handler,
            code_dir=str(Path.cwd().resolve()),
            environment=environment,
            **changes,
        )
    refuse(list(function_violations(function)))
    check_function(function)
    if function.reserved_concurrency == 0:
        raise ServiceRefused(
            INVOKE, "TooManyRequestsException", "Rate Exceeded.", f"the reserved concurrency of {function.name} is 0"
        )
    return function


def _event(path: str | None, payload: str | None) -> bytes:
    """The event's text; empty where none was given.

    Raises:
        RefusedError: it was given twice, or the file cannot be read.
    """
    if path is not None and payload is not None:
        raise RefusedError("--event and --payload name the same thing: give one of them")
    if payload is not None:
        return os.fsencode(shorthand.text_or_file("--payload", payload))
    if path is None:
        return b""
    try:
        if path == "-":
            return sys.stdin.buffer.read(limits.EVENT_BYTES_MAX + 1)
        with open(path, "rb") as file:
            return file.read(limits.EVENT_BYTES_MAX + 1)
    except OSError as error:
        raise RefusedError(f"--event: cannot read {path}: {error.strerror}") from None


def _print(settings: Settings, found: Invocation) -> None:
    """The payload as it is; or the whole answer as one object."""
    if not settings.json_output:
        click.echo(found.payload)
        return
    answer: dict[str, object] = {"StatusCode": 200}
    if found.function_error is not None:
        answer["FunctionError"] = found.function_error
    answer.update(ExecutedVersion="$LATEST", RequestId=found.request_id, Payload=_parsed(found.payload))
    print_json(answer)


def _parsed(payload: bytes) -> object:
    """The payload as JSON; a handler may return bytes that are none, which then are a text."""
    try:
        return orjson.Fragment(payload) if orjson.loads(payload) is not None else None
    except orjson.JSONDecodeError:
        return payload.decode("utf-8", "replace")
