"""The work behind `streamfn repair`."""

from __future__ import annotations

import sys
import time

import click

from streamfn.cli.options import Settings
from streamfn.cli.output import count_of, print_json, printable
from streamfn.cli.verifying import (
    Place,
    Report,
    finding_text,
    shards_to_verify,
    streams_to_verify,
    verify_checkpoints,
)
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.upkeep.repair import Repaired, repair_shard
from streamfn.log.upkeep.verify import verify_shard

EXIT_LEFT = 1


def run_repair(settings: Settings, name: str | None, *, ask: bool) -> int:
    """Repair one stream, or all, say what was done, and return the exit code.

    On a terminal what is found is shown first, and nothing is done without a yes.

    Raises:
        RefusedError: there is no such stream, or no data directory.
        BusyError: a process appends to a shard that has to be repaired.
        FailedError: a file cannot be read or written.
    """
    data = DataDir.open(settings.data_dir, create=False)
    data.require_writable()
    report = Report()
    streams = streams_to_verify(data, name, report)
    shards = shards_to_verify(streams, report)
    if ask and sys.stdin.isatty() and not _agreed(shards):
        return EXIT_LEFT
    done = [(Place(stream.name, shard.id), _repair(data, shard)) for stream, shard in shards]
    verify_checkpoints(data, streams, report)
    _tell(settings, [(place, repaired) for place, repaired in done if repaired.findings], report.problems)
    return EXIT_LEFT if report.problems or any(repaired.left for _, repaired in done) else 0


def _agreed(shards: list[tuple[Stream, Shard]]) -> bool:
    found = [
        (Place(stream.name, shard.id), finding) for stream, shard in shards for finding in verify_shard(shard).findings
    ]
    for place, finding in found:
        click.echo(f"{place}: {finding_text(finding)}; repair: {finding.remedy}", err=True)
    return not found or click.confirm(f"Repair {count_of(len(found), 'finding')}?", err=True)


def _repair(data: DataDir, shard: Shard) -> Repaired:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    backup = data.path / "backups" / f"{stamp}-{shard.stream_id}-{shard.directory.name}"
    return repair_shard(shard, backup, now_ms=time.time_ns() // 1_000_000)


def _tell(settings: Settings, done: list[tuple[Place, Repaired]], left: list[tuple[Place, str]]) -> None:
    if settings.json_output:
        repaired = [
            {
                "stream": place.stream,
                "shard_id": place.shard_id,
                "findings": [{**finding._asdict(), "path": str(finding.path)} for finding in one.findings],
                "actions": one.actions,
                "left": [{**finding._asdict(), "path": str(finding.path)} for finding in one.left],
            }
            for place, one in done
        ]
        problems = [{"stream": place.stream, "shard_id": place.shard_id, "why": why} for place, why in left]
        print_json({"repaired": repaired, "left": problems})
        return
    if not done and not left:
        click.echo("nothing to repair")
    for place, one in done:
        for action in one.actions:
            click.echo(f"{place}: {printable(action)}")
        for finding in one.left:
            click.echo(f"{place}: left: {finding_text(finding)}")
        lost = sum(finding.records for finding in one.findings)
        said = f"{count_of(len(one.findings), 'finding')}, {count_of(lost, 'record')} lost"
        click.echo(f"{place}: {said}; {'something is left' if one.left else 'everything else is as it was written'}")
    for place, why in left:
        click.echo(f"{place}: left: {printable(why)}")
