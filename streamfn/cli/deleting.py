"""`streamfn delete`."""

from __future__ import annotations

import sys

import click

from streamfn.cli.options import Settings, common_options
from streamfn.cli.output import print_json

_EPILOG = """\b
Examples:
  streamfn delete orders
  streamfn delete orders --yes

\b
Refused while a mapping runs on the stream or a process writes to it. Mappings of a
stream of this name start anew when it is made again.
"""


@click.command(epilog=_EPILOG)
@click.argument("stream")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common_options
def delete(settings: Settings, stream: str, yes: bool) -> None:
    """Delete STREAM with all its records."""
    from streamfn.log.catalog.datadir import DataDir
    from streamfn.mapping.deletion import delete_stream
    from streamfn.state.store import Store

    data_dir = DataDir.open(settings.data_dir, create=False)
    found = data_dir.stream(stream)
    data_dir.require_writable()
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("give --yes to delete a stream without being asked")
        click.confirm(f"Delete stream {found.name} with all its records?", abort=True, err=True)
    if data_dir.state_path.exists():
        with Store.open(data_dir.state_path, create=False) as store:
            delete_stream(data_dir, store, stream)
    else:
        data_dir.delete_stream(stream)
    if settings.json_output:
        print_json({"deleted": stream})
    else:
        click.echo(f"deleted {stream}")
