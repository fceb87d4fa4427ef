"""What one execution environment may use: numbers alone; who holds it to them is in the modules beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

MB = 1024 * 1024  # Lambda's MB: MemorySize 128 is 134,217,728 bytes
STORAGE_BYTES_DEFAULT = 512 * MB  # Lambda's EphemeralStorage where nothing is said


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one execution environment; None: the machine's own.

    `memory_mb` and `ephemeral_storage_mb` are Lambda's MemorySize and EphemeralStorage, in MB of 1,048,576 bytes.
    `descriptors` (RLIMIT_NOFILE) and `processes` (processes and threads together) are Lambda's own: 1,024 of each
    (Lambda Developer Guide, "Lambda quotas").  Core files are never written.
    """

    memory_mb: int | None = None
    ephemeral_storage_mb: int | None = None
    descriptors: int = 1024
    processes: int = 1024

    @property
    def memory_bytes(self) -> int | None:
        """The memory that handler and runtime of one environment may use together, in bytes."""
        return None if self.memory_mb is None else self.memory_mb * MB

    @property
    def storage_bytes(self) -> int | None:
        """The size of the environment's own /tmp, in bytes."""
        return None if self.ephemeral_storage_mb is None else self.ephemeral_storage_mb * MB

    def to_json(self) -> dict[str, object]:
        """Return the limits as they stand in a zygote's init message."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> Limits:
        """Read what `to_json` has written."""
        return cls(**fields)  # type: ignore[arg-type]
