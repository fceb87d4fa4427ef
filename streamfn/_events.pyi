"""Lambda events made straight from mapped columns (native/events).

All of it needs the GIL and does not release it.  Nothing here reads past what it is told a segment's size is.
"""

from typing import final

@final
class Source:
    """What all records of one shard have in common.

    `kind` says of what stream: "kinesis" or "dynamodb" (else ValueError).  Of a Kinesis stream `shard_id` is ASCII, at
    most 127 characters (ValueError); every record's eventID is it, a colon and the sequence number.
    """

    arn: str
    region: str
    shard_id: str
    identity_arn: str
    changes: bool
    def __new__(
        cls, arn: str, region: str, shard_id: str, identity_arn: str, kind: str = "kinesis"
    ) -> Source: ...

@final
class Segment:
    """A segment of a shard as it is mapped in this process: `size` bytes, readable, from `address` on.

    The mapping is the caller's, and must outlive every `build` that may name it, and every batch that was exported from
    it; unless it is `owned`: then it is unmapped when this object and all those batches are gone.
    """

    source: Source
    address: int
    size: int
    def __new__(cls, source: Source, address: int, size: int, owned: bool = False) -> Segment: ...

def build(
    extents: int, count: int, segments: dict[int, Segment], selection: int = ..., selected: int = ..., /
) -> dict[str, list[dict[str, object]]]:
    """Make the Lambda event of some extents.

    At address `extents` lie `count` `sf_extent` (native/include/sf_extent.h), and at `selection` the `selected` row
    numbers of those among them whose rows are selected; these two are given together or not at all.  The event
    equals that of `streamfn.events.kinesis.kinesis_event`, or `dynamodb.dynamodb_event`, for the same records, order
    of keys included: plain dicts, lists, str and float, complete, nothing of them shared with another event but
    constant strings.  The extents may be written to by someone else meanwhile: then the result is some event, or
    ValueError.

    Raises:
        KeyError: an extent names a segment that is not in `segments`.
        ValueError: a column leaves its segment, its offsets decrease, a sequence number is not ASCII,
            (UnicodeDecodeError) a text is not UTF-8, (orjson.JSONDecodeError) a document is not JSON, there are more
            than 1,048,576 records, or the selection has not exactly the numbers that the extents want.
    """

def export(
    array: int, extents: int, count: int, segments: dict[int, Segment], selection: int = ..., selected: int = ..., /
) -> Source:
    """Make an Arrow record batch of some extents, in the `struct ArrowArray` at address `array`.

    The rest is what `build` takes, with at least one extent.  The columns are those of the shard log, without what a
    captured stream has besides (`streamfn.events.arrow.schema`).  Rows that follow each other in one message are not
    copied: an owned segment stays mapped until whoever took the array over has released it, in any thread.  Returns the
    first extent's source; nothing is in `array` if this raises.

    Raises:
        KeyError, ValueError: as `build`, but texts and documents are not looked into; or a column has 2 GiB or more.
    """

def _base64(data: bytes | bytearray | memoryview, encoder: str) -> str:
    """For tests: base64 with the encoder of that name.  ValueError if this machine has no such encoder."""

def _base64_encoders() -> tuple[str, ...]:
    """For tests: the names of this machine's encoders, the one that `build` uses first."""
