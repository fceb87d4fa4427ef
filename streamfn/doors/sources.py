"""The files of an import, each opened and read in its format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streamfn.errors import RefusedError
from streamfn.formats.captured import CAPTURES, DYNAMODB_GET_RECORDS, LAMBDA_EVENT
from streamfn.formats.captures import read_captures
from streamfn.formats.detect import COLUMNS, DIRECTORIES, FORMATS, captured_format, format_of
from streamfn.formats.documents import is_logged, logged_events, whole_documents
from streamfn.formats.fields import key_of, time_of
from streamfn.formats.firehose import read_firehose
from streamfn.formats.lines import split_lines
from streamfn.formats.opening import STANDARD_INPUT, Input
from streamfn.formats.rows import Changes, Origin, Reading, Rows
from streamfn.formats.text import read_csv, read_jsonl, read_plain
from streamfn.log.storage.durability import FSYNC, Durability


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What an import was asked for.

    `files` are paths or `-`, `format` None for "as each of them says".  `shard_id` and `stream_arn` are of captured
    records whose files do not say it.  `skip_lines` are lines, rows or records of the first file.
    """

    files: tuple[str, ...]
    stream: str
    shards: int | None = None
    partition_key: str | None = None
    time_field: str | None = None
    format: str | None = None
    skip_bad: bool = False
    skip_lines: int = 0
    shard_id: str | None = None
    stream_arn: str | None = None
    new_sequence_numbers: bool = False
    deaggregate: bool = False
    durability: Durability = FSYNC


class Source:
    """An open file of records.

    `name` is for people, `unit` what is counted in it; `size` and `position` are in bytes, None where unknown.
    `captured` says whether its records bring sequence numbers that are to be kept.  `kind` and `origin` are what it
    says of its stream before its first record.  `look_alike` is the format of captured records that lines taken as they
    are look like, None if they do not.
    """

    def __init__(self, file: str, request: ImportRequest, skip_lines: int) -> None:
        """Open the file.

        Raises:
            RefusedError: it cannot be read, does not say its format, or options do not go with that.
            FailedError: it is damaged at once.
        """
        self._reading = Reading(
            key_of(request.partition_key),
            time_of(request.time_field) if request.time_field else None,
            request.skip_bad,
            skip_lines,
            new_numbers=request.new_sequence_numbers,
            deaggregate=request.deaggregate,
        )
        if request.format not in (None, *FORMATS):
            raise RefusedError(f"there is no format {request.format!r} to import: there are {', '.join(FORMATS)}")
        self._given = request.format is not None
        self._input = Input(file)
        try:
            piped = file == STANDARD_INPUT
            self.format = request.format or format_of(self._input.stem, self._input.head, piped=piped)
            by_name = self.format == "jsonl" and not self._given
            self.look_alike = captured_format(self._input.head) if by_name else None
            self._check_options(request)
            self.captured = self.format in CAPTURES and not (request.new_sequence_numbers or request.deaggregate)
            self.kind = "dynamodb" if self.format == DYNAMODB_GET_RECORDS else "kinesis"
            self.origin = Origin()
            self._rows = self._open()
        except BaseException:
            self._input.close()
            raise
        self.name = self._input.name
        self.size = self._input.size

    @property
    def position(self) -> int | None:
        """How many bytes of the file have been read, where that is known."""
        return None if self.format in COLUMNS else self._input.position

    @property
    def unit(self) -> str:
        """What records are counted as."""
        if self.format in COLUMNS:
            return "row"
        return "record" if self.format in (*CAPTURES, "firehose") else "line"

    def rows(self) -> Iterator[Rows | Changes]:
        """Yield the records, once; see `formats`."""
        return self._rows

    def close(self) -> None:
        """Close the file, but not standard input."""
        self._input.close()

    def _check_options(self, request: ImportRequest) -> None:
        self._fields = fields = request.partition_key or request.time_field
        if self.format == "lines" and fields:
            raise RefusedError("lines have no fields: --partition-key and --time-field need another format")
        if self.format in CAPTURES and fields:
            raise RefusedError(
                f"captured records ({self.format}) have keys and times of their own: "
                "--partition-key and --time-field need another format"
            )
        if request.deaggregate and self.format not in CAPTURES:
            raise RefusedError(f"--deaggregate takes captured Kinesis records apart, not {self.format}")

    def _open(self) -> Iterator[Rows | Changes]:
        skip = self._reading.skip_lines
        if self.format in CAPTURES:
            return self._open_capture()
        if self.format in COLUMNS:
            return self._open_columns()
        blocks = self._input.blocks()
        match self.format:
            case "jsonl":
                return read_jsonl(split_lines(blocks, skip), self._reading)
            case "lines":
                return read_plain(split_lines(blocks, skip), self._reading)
            case "csv":
                return read_csv(split_lines(blocks), self._reading)
        return read_firehose(blocks, self._reading)

    def _open_capture(self) -> Iterator[Rows | Changes]:
        blocks = self._input.blocks()
        if self.format == LAMBDA_EVENT and is_logged(self._input.head):
            documents = logged_events(split_lines(blocks))
        else:
            documents = whole_documents(blocks, skip_bad=self._reading.skip_bad)
        return read_captures(documents, self._reading, self.format if self._given else None)

    def _open_columns(self) -> Iterator[Rows | Changes]:
        from streamfn.formats import change_columns, log_columns, tables

        table = tables.open_table(self._input, self.format)
        kind = log_columns.kind_of(table.schema)
        if kind is None:
            return tables.read_objects(table, self._reading)
        if self._fields:
            raise RefusedError(
                f"{self._input.name} has a shard log's columns, keys and times among them: "
                "--partition-key and --time-field do not go with it"
            )
        self.kind, self.origin = kind, log_columns.origin_of(table.schema)
        self.captured = "sequence_number" in table.schema.names and not self._reading.new_numbers
        read = change_columns.read_changes if kind == "dynamodb" else log_columns.read_records
        return read(table, self._reading)


def expanded(files: tuple[str, ...], format_name: str | None) -> list[str]:
    """Return the files that are meant: of a directory all in it, by name; hidden ones are left out.

    Raises:
        RefusedError: a directory of that format is not taken, or has no files; standard input stands beside files.
    """
    if STANDARD_INPUT in files and len(files) > 1:
        raise RefusedError("standard input (-) goes alone, not beside files")
    found: list[str] = []
    for file in files:
        if not Path(file).is_dir():
            found.append(file)
            continue
        if format_name not in DIRECTORIES:
            raise RefusedError(
                f"cannot read {file}: it is a directory, which needs --format {'|'.join(DIRECTORIES)}"
            )
        inside = sorted(_files_in(file))
        if not inside:
            raise RefusedError(f"there are no files in {file}")
        found += inside
    return found


def _files_in(directory: str) -> Iterator[str]:
    for place, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if not name.startswith(".")]
        yield from (os.path.join(place, name) for name in names if not name.startswith("."))
