"""The work behind `streamfn verify`: every stream, every shard, the checkpoints, and what is said about them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import click

from streamfn.cli.options import Settings
from streamfn.cli.output import count_of, print_json, printable, shown_size
from streamfn.cli.progress import ByteProgress
from streamfn.doors.openfiles import allow_open_files
from streamfn.errors import FailedError, RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.shard.gaps import Gap
from streamfn.log.upkeep.verify import Finding, ShardReport, shard_bytes, verify_shard
from streamfn.mapping.position import committed_end
from streamfn.state.store import Store

EXIT_FOUND = 1


class Place(NamedTuple):
    """Where something was found: the names of stream and shard, None where it is about more than one."""

    stream: str | None
    shard_id: str | None

    def __str__(self) -> str:
        return " ".join(printable(name) for name in self if name is not None) or "data directory"


@dataclass
class Report:
    """What was looked at and what was found."""

    streams: int = 0
    shards: int = 0
    segments: int = 0
    records: int = 0
    bytes: int = 0
    findings: list[tuple[Place, Finding]] = field(default_factory=list)
    problems: list[tuple[Place, str]] = field(default_factory=list)
    notes: list[tuple[Place, str]] = field(default_factory=list)
    gaps: list[tuple[Place, Gap]] = field(default_factory=list)

    @property
    def found(self) -> int:
        """How many findings there are, of every kind."""
        return len(self.findings) + len(self.problems)

    def add(self, place: Place, shard: ShardReport) -> None:
        """Count a shard in."""
        self.shards += 1
        self.segments += shard.segments
        self.records += shard.records
        self.bytes += shard.bytes
        self.findings += [(place, finding) for finding in shard.findings]
        self.notes += [(place, note) for note in shard.notes]
        self.gaps += [(place, gap) for gap in shard.gaps]


def run_verify(settings: Settings, name: str | None, *, deep: bool) -> int:
    """Verify one stream, or all, print what was found, and return the exit code.

    Raises:
        RefusedError: there is no such stream, or no data directory.
        FailedError: a file cannot be read, for a reason that is not damage.
    """
    started = time.monotonic()
    data = DataDir.open(settings.data_dir, create=False)
    report = Report()
    streams = streams_to_verify(data, name, report)
    report.streams = len(streams)
    shards = shards_to_verify(streams, report)
    allow_open_files(len(shards))
    with ByteProgress("verifying", sum(shard_bytes(shard) for _, shard in shards)) as progress:
        for stream, shard in shards:
            _verify_shard(stream, shard, report, progress, deep=deep)
    verify_checkpoints(data, streams, report)
    _tell(settings, report, time.monotonic() - started)
    return EXIT_FOUND if report.found else 0


def streams_to_verify(data: DataDir, name: str | None, report: Report) -> list[Stream]:
    """Every stream that was asked for; one whose description is damaged or gone is a finding, and stops nobody."""
    if name is not None:
        return [data.stream(name)]
    found = []
    for stream_id in data.stream_ids():
        try:
            found.append(data.stream_by_id(stream_id))
        except RefusedError:
            directory = data.stream_directory(stream_id)
            if directory.is_dir():  # or it was deleted since it was listed: that takes it away whole
                lost = f"{directory} has no stream.json: nobody knows what stream this is, and its records are not read"
                report.problems.append((Place(None, None), lost))
        except FailedError as damage:
            report.problems.append((Place(None, None), str(damage)))
    return sorted(found, key=lambda stream: stream.name)


def shards_to_verify(streams: Iterable[Stream], report: Report) -> list[tuple[Stream, Shard]]:
    """Every shard that is there; one whose directory is gone is a finding, and stops nobody."""
    found = []
    for stream in streams:
        for shard in stream.shards:
            if shard.directory.is_dir():
                found.append((stream, shard))
            else:
                gone = f"{shard.directory} is gone, and all that it held"
                report.problems.append((Place(stream.name, shard.id), gone))
    return found


def _verify_shard(stream: Stream, shard: Shard, report: Report, progress: ByteProgress, *, deep: bool) -> None:
    place = Place(stream.name, shard.id)
    found = verify_shard(shard, progress.advance)
    report.add(place, found)
    if not deep:
        return
    if found.findings:
        report.notes.append((place, "not looked into, because of what was found"))
        return
    from streamfn.log.upkeep.deep import look_into

    for nonsense in look_into(stream, shard):
        offsets = f"offsets {nonsense.first_offset} to {nonsense.end_offset - 1}"
        report.problems.append((place, f"{offsets} are as they were written, but {nonsense.why}"))


def verify_checkpoints(data: DataDir, streams: Iterable[Stream], report: Report) -> None:
    """A checkpoint beyond the end of its shard would make a mapping skip what is appended next."""
    if not data.state_path.exists():
        return
    by_id = {stream.id: stream for stream in streams}
    try:
        with Store.open(data.state_path, create=False, read_only=True) as store:
            for mapping in store.mappings():
                stream = by_id.get(mapping.stream_id)
                for shard_id, point in store.checkpoints(mapping.uuid).items() if stream is not None else ():
                    assert stream is not None
                    _verify_checkpoint(stream, shard_id, mapping.name, point.offset, report)
    except FailedError as damage:
        report.problems.append((Place(None, None), str(damage)))


def _verify_checkpoint(stream: Stream, shard_id: str, mapping: str, offset: int, report: Report) -> None:
    shard, place = stream.shard(shard_id), Place(stream.name, shard_id)
    if shard is None:
        report.problems.append((place, f"mapping {mapping!r} has a checkpoint, and the stream has no such shard"))
        return
    if any(where == place for where, _ in [*report.findings, *report.problems]):
        return  # where a damaged shard ends has been said
    end = committed_end(shard)
    if offset > end:
        report.problems.append(
            (place, f"mapping {mapping!r} has its checkpoint at offset {offset}, and the shard ends at {end}")
        )


# ---- what is said


def _tell(settings: Settings, report: Report, seconds: float) -> None:
    if settings.json_output:
        print_json(_as_json(report, seconds))
        return
    for place, finding in report.findings:
        click.echo(f"{place}: {finding_text(finding)}; repair: {finding.remedy}")
    for place, problem in report.problems:
        click.echo(f"{place}: {printable(problem)}")
    for place, gap in report.gaps:
        click.echo(f"{place}: known to be gone: {gap}")
    for place, note in report.notes:
        click.echo(f"{place}: note: {printable(note)}")
    rate = shown_size(round(report.bytes / seconds))
    click.echo(
        f"{count_of(report.streams, 'stream')}, {count_of(report.shards, 'shard')}, "
        f"{count_of(report.segments, 'segment')}, {count_of(report.records, 'record')}, "
        f"{shown_size(report.bytes)} in {seconds:.1f} s ({rate}/s): "
        + (count_of(report.found, "finding") if report.found else "everything is as it was written")
    )


def finding_text(finding: Finding) -> str:
    """Say what was found where: file, bytes, offsets, sequence numbers, why."""
    text = printable(str(finding.path))
    if finding.byte is not None:
        text += f", byte {finding.byte}" + (f" to {finding.end_byte}" if finding.end_byte != finding.byte else "")
    if finding.records:
        text += f": offsets {finding.first_offset} to {finding.end_offset - 1}"
        if finding.first_sequence_number is not None:
            text += f" (sequence numbers {finding.first_sequence_number} to {finding.last_sequence_number})"
    return f"{text}: {printable(finding.why)}"


def _as_json(report: Report, seconds: float) -> dict[str, object]:
    findings = [
        {"stream": place.stream, "shard_id": place.shard_id, **finding._asdict(), "path": str(finding.path)}
        for place, finding in report.findings
    ]
    findings += [
        {"stream": place.stream, "shard_id": place.shard_id, "why": problem} for place, problem in report.problems
    ]
    return {
        "streams": report.streams,
        "shards": report.shards,
        "segments": report.segments,
        "records": report.records,
        "bytes": report.bytes,
        "seconds": round(seconds, 3),
        "findings": findings,
        "gaps": [{"stream": place.stream, "shard_id": place.shard_id, **gap._asdict()} for place, gap in report.gaps],
        "notes": [{"stream": place.stream, "shard_id": place.shard_id, "note": note} for place, note in report.notes],
    }
