"""`streamfn invoke`: a single call of a handler or of a stored function."""

from __future__ import annotations

import click

from streamfn.cli.function_options import FunctionFlags, function_options
from streamfn.cli.options import Settings, common_options

_EPILOG = """\b
Examples:
  streamfn invoke app.handler -e event.json
  echo '{"Records": []}' | streamfn invoke app.handler -e -
  streamfn invoke orders --payload '{"total": 3}'    (stored by `function create`)
  streamfn invoke app.handler                        (the event is {})
  streamfn invoke app.handler -e event.json --debug  (breakpoint() works)

\b
HANDLER is module.function as in Lambda, or module:function, from the current directory.
An event is any JSON, of 6 MB at most. The response, or Lambda's error document, goes to
standard output; what the handler wrote, as Lambda's log lines, to standard error.

\b
With --json: one object, with StatusCode, ExecutedVersion, RequestId, Payload, and
FunctionError where the function failed.

\b
Exit codes: 0 the handler returned, 1 it failed (it raised, timed out, crashed, ran out
of memory, or could not be loaded), 2 refused, and nothing was called.
"""


@click.command(epilog=_EPILOG)
@click.argument("handler", metavar="HANDLER|NAME", required=False)
@click.option("--function-name", metavar="NAME", help="The same as the argument.")
@click.option("-e", "--event", metavar="FILE|-", help="A file with the event; - is standard input.  [default: {}]")
@click.option("--payload", metavar="JSON", help="The event itself, or file://PATH.")
@click.option("--timeout", type=int, metavar="S", help="1 to 900.  [default: 3, or the stored function's]")
@function_options
@click.option("--env", "environment", multiple=True, metavar="K=V", help="Set a variable; may be repeated.")
@click.option(
    "--logs",
    default="all",
    show_default=True,
    metavar="all|failed|none",
    help="Log lines always; or if it failed or printed; or never.",
)
@click.option("--debug", is_flag=True, help="On this terminal, no timeout: breakpoint() works.")
@common_options
def invoke(
    settings: Settings,
    flags: FunctionFlags,
    handler: str | None,
    function_name: str | None,
    event: str | None,
    payload: str | None,
    timeout: int | None,
    environment: tuple[str, ...],
    logs: str,
    debug: bool,
) -> int:
    """Call the Lambda handler HANDLER, or the stored function NAME, once with an event."""
    if (handler is None) == (function_name is None):
        raise click.UsageError("name a handler or a function: as the argument, or by --function-name")
    from streamfn.cli.invoking import invoke as work

    return work(
        settings,
        handler if handler is not None else str(function_name),
        flags,
        event=event,
        payload=payload,
        timeout=timeout,
        environment=environment,
        logs=logs,
        debug=debug,
    )
