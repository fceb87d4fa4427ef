"""`streamfn replay`: its options."""

from __future__ import annotations

import math
import re
import time
from dataclasses import replace
from pathlib import Path

import click

from streamfn.cli.options import Settings, common_options, metrics_option
from streamfn.cli.quantities import Duration
from streamfn.cli.run_options import HandlerFlags, check_terminal, handler_options, run_options
from streamfn.cli.stepping import SteppingFlags, stepping_options
from streamfn.core.filter import check as check_filters
from streamfn.errors import RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping.options import validate

ASSUMED_S_DEFAULT = 0.001  # the least that Lambda bills
_SPEED = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)[xX]?")

_EPILOG = """\b
Examples:
  streamfn replay app.handler --stream orders
  streamfn replay app.handler --stream orders --from 2026-03-01T12:00Z --to 2026-03-01T13:00Z
  streamfn replay app.handler --stream orders --speed 10x --max-gap 2s
  streamfn replay app.handler --stream orders --partition-key alice --pause-on-error
  streamfn replay app.handler --stream orders --filter '{"data": {"total": [{"numeric": [">", 100]}]}}'
  streamfn replay app.handler --stream orders --dry-run
  streamfn replay app.handler --stream orders --diff new.handler

\b
HANDLER and NAME: as in `streamfn run`, and so are the options that both have. What is
in the stream when it starts is replayed, from --from up to --to, and that is the end.
A time means the first record of each shard that arrived at or after it: --from is
included, --to is not. A sequence number is one record's, included at both ends, and
only its shard is replayed; a short one (15 digits or fewer) is written seq:NUMBER.

\b
Checkpoints are kept apart and thrown away: no mapping's is read, moved or made, also
under the same --name. With --checkpoint it is the mapping NAME that replays: it goes
on from its checkpoint if it has one, and moves it.

\b
--speed 1x hands records over as far apart as they arrived, 10x ten times as fast; a
record's age, its window and the iterator age count from when it is due. max is as fast
as the handler is.

\b
With --json: one object at the end, with records, batches, errors, discarded,
filtered, records_per_second, rounds, and stopped_at, answers, saved_event where it
stops at failed batches; of a --dry-run with records, span_s, bytes, invocations,
estimated_seconds, estimated_price_usd; of a --diff with records, batches, different,
differences.

\b
--pause-on-error stops at a failed batch: nothing is handed over until you have said
retry (at once, also with code that you have changed), skip, bisect (halves, down to the
record) or quit. --on-error says it before; so does the lack of a terminal: quit.
--diff gives both handlers the same batches, each once, and compares what they return
or raise. --logs is none then unless it is said, and retries do not count.

\b
Exit codes: 0 done, 1 failed (handler cannot be imported, damage, disk, or it stopped at a
failed batch), 2 refused before anything was made, 3 finished but records were discarded or
lost, 5 results differ (--diff), 130 and 143 interrupted before it was done.
"""


@click.command(epilog=_EPILOG)
@click.argument("handler", metavar="HANDLER|NAME")
@click.option("--stream", required=True, metavar="S", help="Replay this stream.")
@click.option("--from", "since", metavar="TIME|NUMBER", help="Begin there.  [default: the oldest record]")
@click.option("--to", "until", metavar="TIME|NUMBER", help="End there.  [default: the newest record]")
@click.option("--shard", "shards", multiple=True, metavar="ID", help="Only this shard; may be repeated.")
@click.option(
    "--partition-key",
    "partition_keys",
    multiple=True,
    metavar="KEY",
    help="Only records with this partition key; may be repeated.",
)
@click.option(
    "--filter",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only records that match this event filter pattern; may be repeated: any of them.",
)
@click.option("--limit", type=int, metavar="N", help="Hand over N records, then end.")
@click.option("--speed", default="max", show_default=True, metavar="1x|10x|max", help="As fast as that.")
@click.option(
    "--max-gap",
    type=Duration(),
    metavar="DURATION",
    help="With a --speed: no silence lasts longer than that, such as 500ms or 2s.",
)
@click.option("--loop", is_flag=True, help="Begin again at the end, until it is interrupted or --limit is reached.")
@click.option("--dry-run", is_flag=True, help="Call nothing: say what it comes to.")
@click.option(
    "--assumed-duration",
    type=Duration(),
    metavar="DURATION",
    help="With --dry-run: how long each invocation is taken to last.  [default: 1ms]",
)
@click.option("--checkpoint", is_flag=True, help="Keep the place: as the mapping NAME, from its checkpoint on.")
@click.option("--name", metavar="NAME", default="", help="The mapping's name.  [default: HANDLER@STREAM]")
@handler_options
@stepping_options
@metrics_option
@common_options
def replay(
    settings: Settings,
    stepping: SteppingFlags,
    flags: HandlerFlags,
    handler: str,
    stream: str,
    since: str | None,
    until: str | None,
    shards: tuple[str, ...],
    partition_keys: tuple[str, ...],
    patterns: tuple[str, ...],
    limit: int | None,
    speed: str,
    max_gap: float | None,
    loop: bool,
    dry_run: bool,
    assumed_duration: float | None,
    checkpoint: bool,
    name: str,
    metrics_port: int | None,
) -> int:
    """Run the Lambda handler HANDLER, or the stored function NAME, once more on records of a stream.

    On those of a time, a shard, a partition key; at the pace at which they arrived, or faster.
    """
    from streamfn.cli.replaying import ReplayRequest, replay_really
    from streamfn.replay.diffing import Side
    from streamfn.replay.planning import Pace
    from streamfn.replay.selection import parse_bound, select, with_keys

    pace = Pace(parse_speed(speed), max_gap)
    _check(pace, loop=loop, checkpoint=checkpoint, dry_run=dry_run, assumed=assumed_duration, stepping=stepping)
    begin = None if since is None else parse_bound("--from", since)
    end = None if until is None else parse_bound("--to", until)
    options, code_dir = run_options(
        settings, handler, flags, stream=stream, name=name, limit=limit, until_caught_up=not loop
    )
    for pattern in patterns:
        try:
            check_filters([pattern])
        except RefusedError as error:
            raise RefusedError(f"--filter {pattern!r}: {error}") from None
    options = replace(options, filters=(*options.filters, *patterns))
    found = DataDir.open(settings.data_dir, create=False).stream(stream)
    if partition_keys:
        options = replace(options, filters=with_keys(options.filters, partition_keys, found))
    validate(options, now_ms=time.time_ns() // 1_000_000)
    check_terminal(options)
    selection = select(found, begin, end, shards)
    if stepping.diff is not None:
        from streamfn.cli.diffing import diff, sides

        both = sides(settings, flags, Side(options, code_dir), stepping.diff)
        saved = None if stepping.save_event is None else Path(stepping.save_event)
        return diff(settings, both, selection.starts, selection.ends, limit=limit, save_event=saved)
    request = ReplayRequest(
        options,
        code_dir,
        selection,
        pace,
        loop=loop,
        checkpoint=checkpoint,
        stepping=stepping,
        metrics_port=metrics_port,
    )
    if dry_run:
        assumed_s = ASSUMED_S_DEFAULT if assumed_duration is None else assumed_duration
        from streamfn.cli.outlook import replay_dry

        return replay_dry(request, settings, assumed_ms=1000 * assumed_s)
    return replay_really(request, settings)


def _check(
    pace: object, *, loop: bool, checkpoint: bool, dry_run: bool, assumed: float | None, stepping: SteppingFlags
) -> None:
    """Raise RefusedError for what does not go together."""
    from streamfn.replay.planning import Pace

    assert isinstance(pace, Pace)
    if pace.max_gap_s is not None and pace.speed is None:
        raise RefusedError("--max-gap goes with a --speed such as 1x: with max there are no silences")
    if loop and checkpoint:
        raise RefusedError("--loop begins again, and a checkpoint never goes back: leave --checkpoint out")
    if assumed is not None and not dry_run:
        raise RefusedError("--assumed-duration goes with --dry-run")
    if dry_run and (stepping.stops or stepping.diff is not None):
        raise RefusedError("--dry-run calls nothing, so nothing fails and nothing differs: leave the other option out")
    if stepping.diff is not None and (loop or checkpoint or pace.speed is not None):
        raise RefusedError("--diff goes neither with --loop, --checkpoint nor a --speed: it compares, and ends")


def parse_speed(text: str) -> float | None:
    """Return how many times as fast as recorded; None for `max`.

    Raises:
        RefusedError: it is neither `max` nor a positive number, with or without an x.
    """
    if text.lower() == "max":
        return None
    found = _SPEED.fullmatch(text.strip())
    speed = float(found[1]) if found is not None else 0.0
    if not 0 < speed < math.inf:
        raise RefusedError(f"--speed takes max, or a number such as 1x, 10x or 0.5x, not {text!r}")
    return speed
