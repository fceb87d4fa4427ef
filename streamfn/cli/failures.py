"""`streamfn failures`."""

from __future__ import annotations

import click

from streamfn.cli.options import Settings, common_options

_EPILOG = """\b
Examples:
  streamfn failures app.handler@orders
  streamfn failures app.handler@orders --pending
  streamfn failures app.handler@orders --json | jq -r '.Records[].Data' | base64 -d

\b
MAPPING is a mapping's name or UUID. A discard is a batch that a function failed on
for good, or records that were too old or too big for it; what was trimmed or lost
before it could be handed over is listed as well. The records come from the log:
what retention has trimmed since is counted, not shown.

\b
With --json, a line for each discard: Condition, Detail, ShardId, FirstOffset,
EndOffset, DiscardedAt, Destination, DeliveredAt (null while it is pending),
RedrivenAt (null while it is not), OnFailureRecord (Lambda's, null where none is
written), Records (as tail --json has them), RecordsGone.
"""


@click.command(epilog=_EPILOG)
@click.argument("mapping")
@click.option("--pending", is_flag=True, help="Only what has not reached its destination.")
@common_options
def failures(settings: Settings, mapping: str, pending: bool) -> None:
    """List what MAPPING discarded, oldest first, with the records it speaks of."""
    from streamfn.cli.discarded import print_failures

    print_failures(settings, mapping, pending_only=pending)
