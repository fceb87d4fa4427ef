"""Compressed files as the bytes they hold, in bounded memory: gzip and zstd, through Arrow's codecs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from streamfn.errors import FailedError

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_BLOCK_BYTES = 1024 * 1024


def codec_of(head: bytes) -> str | None:
    """Return the codec that a file's first bytes speak of, None for bytes as they are."""
    return next((codec for magic, codec in _MAGIC.items() if head.startswith(magic)), None)


def split_suffix(name: str) -> tuple[str, str | None]:
    """Return a file's name without the suffix of a codec, and the codec (None if there is no such suffix)."""
    for suffix, codec in SUFFIXES.items():
        if name.lower().endswith(suffix):
            return name[: -len(suffix)], codec
    return name, None


def decompressed(blocks: Iterable[bytes], codec: str, name: str) -> Iterator[bytes]:
    """Yield what compressed blocks hold; several compressed files in a row are one.

    Raises:
        FailedError: they are damaged or cut; what came before has been yielded.
    """
    import pyarrow as pa

    source = pa.PythonFile(Pulled(blocks), mode="r")
    position = 0
    with pa.CompressedInputStream(source, codec) as stream:
        while True:
            try:
                block: bytes = stream.read(_BLOCK_BYTES)
            except (pa.ArrowException, OSError) as error:
                raise FailedError(
                    f"{name} is not whole: its {codec} data breaks off or is damaged behind byte {position} "
                    f"of what it holds ({error})"
                ) from None
            if not block:
                return
            position += len(block)
            yield block


def compressing(sink: pa.NativeFile, codec: str | None) -> pa.NativeFile:
    """Return a stream that writes into `sink` what it is given, compressed; closing it closes the sink."""
    import pyarrow as pa

    return sink if codec is None else pa.CompressedOutputStream(sink, codec)


class Pulled:
    """Blocks as a file that Arrow can read."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._rest = memoryview(b"")
        self.closed = False

    def readable(self) -> bool:
        """Arrow asks: it may read."""
        return True

    def seekable(self) -> bool:
        """Arrow asks: it may not go back."""
        return False

    def writable(self) -> bool:
        """Arrow asks: it may not write."""
        return False

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return b""
            self._rest = memoryview(block)  # an empty one says that a pipe is quiet: that is not its end
        some = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(some) :]
        return bytes(some)

    def close(self) -> None:
        """Nothing is held."""
        self.closed = True
