"""What a capture must remember beside the log: `capture.json` in the stream's directory.

    {"format": 1, "source": "kinesis://orders", "source_created_ms": ...,
     "from": "TRIM_HORIZON" | "LATEST" | "AT_TIMESTAMP", "from_ms": null | ms,
     "listed": ["shardId-...", ...],
     "losses": [{"shard": "shardId-...", "after": null | "4959...", "before": null | "4959...", "noticed_ms": ms}, ...]}

How far each shard is does not stand here: its last durable record says that, and cannot contradict the log.  The
file is replaced whole.  `listed` are the shards there were when the capture began: where it is to begin is said of
them, while a shard that came later is begun at its oldest record.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from streamfn.capture.reading import Beginning, Loss
from streamfn.errors import FailedError
from streamfn.log.catalog.stream import Stream
from streamfn.log.storage import disk

FILE_NAME = "capture.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class NotedLoss:
    """A loss of one shard, and when it was noticed, in ms since 1970, UTC."""

    shard_id: str
    loss: Loss
    noticed_ms: int


@dataclass(frozen=True, slots=True)
class Memo:
    """See the top of the file."""

    source: str
    source_created_ms: int
    beginning: Beginning
    listed: frozenset[str]
    losses: tuple[NotedLoss, ...] = ()

    def with_losses(self, losses: Iterable[NotedLoss]) -> Memo:
        """Return the same with more losses; one that is known (a crash came between) is not noted twice."""
        known = {(noted.shard_id, noted.loss) for noted in self.losses}
        return replace(self, losses=(*self.losses, *(n for n in losses if (n.shard_id, n.loss) not in known)))


def read(stream: Stream) -> Memo | None:
    """Return a stream's memo, None where it was not captured from anywhere.

    Raises:
        FailedError: it is damaged, or cannot be read.
    """
    path = stream.directory / FILE_NAME
    try:
        return _decode(json.loads(disk.read_file(stream.disk, path)))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FailedError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise FailedError(f"{path} is damaged, or of a newer streamfn: {error!r}") from error


def write(stream: Stream, memo: Memo) -> None:
    """Put a memo in place of the one there is; durable when this returns.

    Raises:
        FailedError: it cannot be written.
    """
    path = stream.directory / FILE_NAME
    try:
        disk.replace(stream.disk, path, (json.dumps(_encode(memo), indent=1) + "\n").encode())
    except OSError as error:
        raise FailedError(f"cannot write {path}: {error.strerror}") from error


def _encode(memo: Memo) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "source": memo.source,
        "source_created_ms": memo.source_created_ms,
        "from": memo.beginning.type,
        "from_ms": memo.beginning.at_ms,
        "listed": sorted(memo.listed),
        "losses": [
            {"shard": noted.shard_id, **noted.loss._asdict(), "noticed_ms": noted.noticed_ms} for noted in memo.losses
        ],
    }


def _decode(described: dict[str, Any]) -> Memo:
    if described["format"] != _FORMAT:
        raise ValueError(f"format {described['format']!r}")
    return Memo(
        str(described["source"]),
        int(described["source_created_ms"]),
        Beginning(str(described["from"]), described["from_ms"]),
        frozenset(map(str, described["listed"])),
        tuple(
            NotedLoss(str(one["shard"]), Loss(one["after"], one["before"]), int(one["noticed_ms"]))
            for one in described["losses"]
        ),
    )
