"""`streamfn bench`: the options, and that it is a command as well as a group."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamfn import limits
from streamfn.cli.features import Features, feature_options
from streamfn.cli.function_options import FunctionFlags, function_options
from streamfn.cli.options import Settings, common_options, metrics_option
from streamfn.cli.quantities import Duration, Listed, Rate, RecordSize
from streamfn.cli.run_options import environment_option, logs_option, on_damage_option, timeout_option, window_option
from streamfn.errors import RefusedError
from streamfn.formats.detect import FORMATS

if TYPE_CHECKING:
    from streamfn.benchmark.plan import Load
    from streamfn.benchmark.records import Recipe

_EPILOG = """\b
Examples:
  streamfn bench app.handler                              as fast as it goes (closed loop)
  streamfn bench app.handler --rate 50k --duration 30s    latency under a given load
  streamfn bench app.handler --rate 50k --threshold 'p99<50ms' --json > now.json
  streamfn bench app.handler --find-max --latency-p99 50ms
  streamfn bench app.handler --batch-size 1,10,100,1000 --workers 1,2 --html report.html
  streamfn bench app.handler --stream orders --rate 10k
  streamfn bench app.handler --input orders.jsonl --partition-key customer
  streamfn bench app.handler --keys 1000 --key-distribution zipf:1.2 \\
      --template '{"id": {{uuid}}, "n": {{int 1 9}}, "city": {{choice Oslo Rome}}}'
  streamfn bench compare before.json now.json

\b
With --rate or --ramp each record is due at a moment of its own, and its latency counts
from there, whatever it waits for: a stall is charged to every record that was due
meanwhile. Without (--rate max) the next record comes when there is room; latency counts
from the hand-over, and a stall hides what would have come during it.

\b
Records are generated, unless --stream or --input says whose: JSON of --record-size bytes,
or what --template makes of them. Fields of a template: {{seq}} {{uuid}} {{int A B}}
{{float A B}} {{bool}} {{choice V...}} {{text N}} {{now}} {{now ms}} {{key}} {{padding}}.
They are written before the measurement into a temporary directory (TMPDIR).
No run of it reads, moves or makes a checkpoint of a mapping of yours.

\b
--batch-size, --workers and --record-size take lists: every combination is a row of the
table, and the best one is marked.

\b
With --json: one object, with rate_offered, rate_achieved, records, latency_ms (p50, p90,
p99, p99.9, max, mean), stages_ms, cpu, environment, noise, thresholds, rows and more:
docs/bench.md has all of it.

\b
Exit codes: 0 done, 1 failed, 2 refused before anything was run, 3 finished but records
were discarded, 4 a threshold was missed, 5 worse than the baseline, 130 and 143
interrupted.
"""

RUNS_MAX = 100

SUBCOMMANDS = {"compare": ("streamfn.cli.bench_compare", "compare")}


class BenchGroup(click.Group):
    """A command with options of its own, and a group: what begins with a subcommand's name is that subcommand's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the subcommand of that name."""
        if cmd_name not in SUBCOMMANDS:
            return None
        module, attribute = SUBCOMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the whole line as options of the benchmark, unless a subcommand's name comes first."""
        if args and args[0] in SUBCOMMANDS:
            ctx.invoked_subcommand = args[0]
            ctx.args = args
            return args
        ctx.allow_interspersed_args = True
        return click.Command.parse_args(self, ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the benchmark, or the subcommand."""
        if ctx.invoked_subcommand is None:
            return click.Command.invoke(self, ctx)
        command = self.get_command(ctx, ctx.invoked_subcommand)
        assert command is not None
        with command.make_context(ctx.invoked_subcommand, ctx.args[1:], parent=ctx) as inner:
            return command.invoke(inner)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return what follows the command's name in its usage."""
        return click.Command.collect_usage_pieces(self, ctx)


class _Handler(click.Argument):
    """An argument of the benchmark, and of no subcommand's usage."""

    def get_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return it where it belongs."""
        return super().get_usage_pieces(ctx) if isinstance(ctx.command, BenchGroup) else []


@click.group(cls=BenchGroup, epilog=_EPILOG, no_args_is_help=False)
@click.argument("handler", metavar="HANDLER|NAME", cls=_Handler)
@click.option("--stream", metavar="S", help="Measure with the records of this stream, from its first one on.")
@click.option("--input", "input_", metavar="FILE", help="Measure with the records of a file, as `import` reads it.")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="What --input holds.")
@click.option(
    "--partition-key", metavar="FIELD", help="Of --input: the field that is the partition key.  [default: data's MD5]"
)
@click.option(
    "--record-size",
    type=Listed(RecordSize()),
    metavar="SIZE[,...]",
    help="Bytes of a generated record; 1k is 1 KiB.  [default: 1k]",
)
@click.option(
    "--records",
    type=int,
    metavar="N",
    help="How many records, at most; without a --duration: exactly so many.  [default: what the time takes]",
)
@click.option("--keys", type=int, metavar="N", help="Partition keys of generated records.  [default: 1000]")
@click.option(
    "--key-distribution",
    metavar="uniform|zipf[:S]",
    help="How often each key comes; zipf: the k-th one 1/k^S times as often as the first.  [default: uniform]",
)
@click.option("--template", metavar="JSON|file://PATH", help="Generated records, with {{fields}} to be filled in.")
@click.option("--seed", type=int, metavar="N", help="Of the generated records: the same seed, the same records.")
@click.option("--shards", type=int, metavar="N", help="Of generated records and --input.  [default: 4, or --workers]")
@click.option("--rate", type=Rate(), metavar="RATE|max", help="Records a second: 500, 50k, 1.5M.  [default: max]")
@click.option("--ramp", metavar="FROM:TO", help="A rate that goes from one to the other over the duration.")
@click.option("--duration", type=Duration(), metavar="TIME", help="How long each run is measured.  [default: 10s]")
@click.option("--warmup", type=Duration(), metavar="TIME", help="How long before that nothing counts.  [default: 1s]")
@click.option("--find-max", is_flag=True, help="Search for the highest rate that keeps --latency-p99.")
@click.option("--latency-p99", type=Duration(), metavar="TIME", help="With --find-max: the limit, such as 50ms.")
@click.option(
    "--batch-size",
    type=Listed(click.INT),
    default=str(limits.BATCH_SIZE_DEFAULT),
    show_default=True,
    metavar="N[,...]",
    help="Records in a batch, at most.",
)
@click.option(
    "--workers", type=Listed(click.INT), metavar="N[,...]", help="Worker processes.  [default: one per processor]"
)
@click.option("--runs", type=int, default=1, show_default=True, metavar="N", help="Runs of each row, on fresh workers.")
@window_option
@feature_options
@timeout_option
@function_options
@environment_option
@logs_option("none")
@on_damage_option
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="RULE",
    help="Exit with 4 unless it holds: 'p99<50ms', 'rate>100k', 'errors==0'; may be repeated.",
)
@click.option(
    "--baseline", type=click.Path(), metavar="FILE", help="Compare with an earlier --json output; worse exits with 5."
)
@click.option("--hgrm", type=click.Path(), metavar="FILE", help="Write the percentiles as HdrHistogram's tools do.")
@click.option("--hlog", type=click.Path(), metavar="FILE", help="Write each interval's histogram, as a log of those.")
@click.option("--html", type=click.Path(), metavar="FILE", help="Write a report: one page, nothing else needed.")
@metrics_option
@common_options
def bench(
    settings: Settings,
    flags: FunctionFlags,
    features: Features,
    handler: str,
    stream: str | None,
    input_: str | None,
    format_: str | None,
    partition_key: str | None,
    record_size: tuple[int, ...] | None,
    records: int | None,
    keys: int | None,
    key_distribution: str | None,
    template: str | None,
    seed: int | None,
    shards: int | None,
    rate: float | None,
    ramp: str | None,
    duration: float | None,
    warmup: float | None,
    find_max: bool,
    latency_p99: float | None,
    batch_size: tuple[int, ...],
    workers: tuple[int, ...] | None,
    runs: int,
    maximum_batching_window_in_seconds: int,
    timeout: int | None,
    environment: tuple[str, ...],
    logs: str,
    on_damage: str,
    thresholds: tuple[str, ...],
    baseline: str | None,
    hgrm: str | None,
    hlog: str | None,
    html: str | None,
    metrics_port: int | None,
) -> int:
    """Measure the Lambda handler HANDLER, or the stored function NAME: latency, throughput, where the time goes."""
    if records is not None and records < 1:
        raise RefusedError(f"--records {records} must be 1 or more")
    load = load_of(rate, ramp, duration, warmup, find_max, latency_p99, records)
    if stream is not None and input_ is not None:
        raise RefusedError("--stream and --input both say which records to use: give one of them")
    given = {
        "--record-size": record_size, "--keys": keys, "--key-distribution": key_distribution,
        "--template": template, "--seed": seed,
    }  # fmt: skip
    recipes: list[Recipe] = []
    if stream is None and input_ is None:
        recipes = recipes_of(record_size, keys, key_distribution, template, seed)
    else:
        _refuse(given, "for generated records: not with --stream or --input")
    if stream is not None:
        _refuse({"--shards": shards}, "for generated records and --input: a stream has its shards")
    if shards is not None and not 1 <= shards <= limits.SHARDS_MAX:
        raise RefusedError(f"--shards {shards} is not 1 to {limits.SHARDS_MAX}")
    if input_ is not None and input_ != "-" and not os.access(input_, os.R_OK):
        raise RefusedError(f"--input: cannot read {input_}: name a file that is there, or - for standard input")
    if input_ is None:
        _refuse({"--format": format_, "--partition-key": partition_key}, "for --input")
    if not 1 <= runs <= RUNS_MAX:
        raise RefusedError(f"--runs {runs} is not 1 to {RUNS_MAX}")
    if runs > 1 and find_max:
        raise RefusedError("--runs does not go with --find-max, which runs each rate as often as it must: leave it out")
    from streamfn.cli.benching import Files, Request, execute
    from streamfn.cli.run_options import parse_environment

    request = Request(
        handler=handler,
        stream=stream,
        input=input_,
        format=format_,
        partition_key=partition_key,
        recipes=recipes,
        records=records,
        shards=shards,
        load=load,
        batch_sizes=batch_size,
        workers=workers,
        runs=runs,
        flags={
            "maximum_batching_window_in_seconds": maximum_batching_window_in_seconds,
            "timeout": timeout,
            "environment": parse_environment(environment),
            "logs": logs,
            "on_damage": on_damage,
            "features": features,
            "function": flags,
        },
        thresholds=thresholds,
        baseline=None if baseline is None else Path(baseline),
        files=Files(*(None if name is None else Path(name) for name in (hgrm, hlog, html))),
    )
    return execute(request, settings, metrics_port)


def _refuse(given: Mapping[str, object], why: str) -> None:
    for option, value in given.items():
        if value is not None:
            raise RefusedError(f"{option} is {why}")


def load_of(
    rate: float | None,
    ramp: str | None,
    duration: float | None,
    warmup: float | None,
    find_max: bool,
    latency_p99: float | None,
    records: int | None = None,
) -> Load:
    """Return the load that the options say. A number of records is all there is, where no time is said: no warm-up.

    Raises:
        RefusedError: they do not go together, or one is out of its range.
    """
    from streamfn.benchmark.plan import DURATION_S_DEFAULT, DURATION_S_MAX, TRIAL_S_DEFAULT, WARMUP_S_DEFAULT, Load

    ways = {"--rate": rate, "--ramp": ramp, "--find-max": find_max or None}
    said = [name for name, given in ways.items() if given is not None]
    if len(said) > 1:
        raise RefusedError(f"{' and '.join(said)} both say how many records come a second: give one of them")
    if find_max and latency_p99 is None:
        raise RefusedError("--find-max needs the limit that the rate is to keep: --latency-p99 50ms")
    if latency_p99 is not None and not find_max:
        raise RefusedError("--latency-p99 goes with --find-max; a limit for one run is --threshold 'p99<50ms'")
    per_second = math.inf if rate is None else rate
    usual_s, warmup_s = TRIAL_S_DEFAULT if find_max else DURATION_S_DEFAULT, WARMUP_S_DEFAULT
    if records is not None and ramp is None and not find_max:
        usual_s = DURATION_S_MAX if math.isinf(per_second) else min(records / per_second, DURATION_S_MAX)
        warmup_s = 0.0
    duration_s = usual_s if duration is None else duration
    if ramp is None:
        return Load(
            rate=per_second,
            duration_s=duration_s,
            warmup_s=warmup_s if warmup is None else warmup,
            limit_ms=None if latency_p99 is None else latency_p99 * 1000,
        )
    if warmup:
        raise RefusedError("--warmup does not go with --ramp, which begins with a low rate: leave it out")
    first, colon, last = ramp.partition(":")
    if not colon:
        raise RefusedError(f"--ramp takes FROM:TO, such as 1k:50k, not {ramp!r}")
    kind = Rate(or_max=False)
    try:
        begin, end = (kind.convert(text, None, None) for text in (first, last))
    except click.BadParameter as error:
        raise RefusedError(f"--ramp: {error.message}") from None
    return Load(rate=begin, ramp_to=end, duration_s=duration_s, warmup_s=0.0)


def recipes_of(
    sizes: tuple[int, ...] | None, keys: int | None, distribution: str | None, template: str | None, seed: int | None
) -> list[Recipe]:
    """Return how records of each size are made.

    Raises:
        RefusedError: a value is out of its range, or the template cannot be used.
    """
    from streamfn.benchmark.keys import UNIFORM, Distribution
    from streamfn.benchmark.records import KEYS_DEFAULT, SIZE_DEFAULT, Recipe
    from streamfn.benchmark.template import Template
    from streamfn.cli.shorthand import text_or_file

    if seed is not None and seed < 0:
        raise RefusedError(f"--seed {seed} must be 0 or more")
    made = None if template is None else Template(text_or_file("--template", template))
    usual: tuple[int | None, ...] = (SIZE_DEFAULT,) if made is None or made.pads else (None,)
    recipes = [
        Recipe(
            size=size,
            template=made,
            keys=KEYS_DEFAULT if keys is None else keys,
            distribution=UNIFORM if distribution is None else Distribution.parse(distribution),
            seed=seed or 0,
        )
        for size in sizes or usual
    ]
    for recipe in recipes:
        recipe.sample()
    return recipes
