"""How an on-failure destination is named, and which names are refused.

    NAME          a stream of the data directory
    file:DIR      a directory: a file for each on-failure record
    s3:DIR        a directory in which objects lie as in a bucket, under Lambda's keys
    s3://BUCKET   a real bucket, or a prefix in it (needs fsspec and s3fs)
    an ARN        its last part names the stream, or for S3 the directory

Lambda takes a standard SQS queue, a standard SNS topic, an S3 bucket or a Kafka topic as the on-failure destination of
a stream mapping, and no FIFO queue or topic (Lambda developer guide, "Retain records of failed batches"). Queues and
topics are streams here, and a Kinesis stream's own ARN is one more name for it.
"""

from __future__ import annotations

import re
from pathlib import Path

from streamfn.errors import RefusedError
from streamfn.limits import STREAM_NAME_PATTERN

FILES, OBJECTS, BUCKET = "file:", "s3:", "s3://"

_ARN = re.compile(r"arn:[a-z0-9-]+:(?P<service>[a-z0-9-]+):[a-z0-9-]*:[0-9]*:(?P<resource>.+)")
_STREAMS = ("sqs", "sns", "kinesis")


def check_destination(destination: str, stream: str) -> None:
    """Refuse what is no destination, or the stream that the mapping reads; the empty text is none and goes.

    Raises:
        RefusedError: in Lambda's words where Lambda has any.
    """
    if not destination:
        return
    named = resolve_destination(destination, Path("/"))
    if named.startswith((FILES, OBJECTS)):
        if named in (FILES, OBJECTS, BUCKET) or "\0" in destination:
            why = "file:DIR and s3:DIR name a directory"
            raise RefusedError(f"on-failure destination {destination!r} is not valid: {why}")
    elif not re.fullmatch(STREAM_NAME_PATTERN, named):
        raise RefusedError(
            f"on-failure destination {destination!r} is not valid: it is a stream's name, file:DIR, s3:DIR or an ARN"
        )
    elif named == stream:
        raise RefusedError(
            f"on-failure destination {destination!r} is the stream that the mapping reads: it would be given its own "
            "failures; name another one"
        )


def resolve_destination(destination: str, code_dir: Path) -> str:
    """Return a destination without ARNs and relative directories, which begin at the code directory.

    Raises:
        RefusedError: an ARN that can be no on-failure destination.
    """
    named = _of_arn(destination)
    if named.startswith(BUCKET):
        return named
    for kind in (FILES, OBJECTS):
        directory = named.removeprefix(kind)
        if named.startswith(kind) and directory:
            return f"{kind}{code_dir / directory}"
    return named


def _of_arn(destination: str) -> str:
    if destination.startswith("kafka://"):
        return destination.removeprefix("kafka://")
    if not destination.startswith("arn:"):
        return destination
    matched = _ARN.fullmatch(destination)
    if matched is not None:
        service, resource = matched["service"], matched["resource"]
        if service == "s3":
            return f"{OBJECTS}{resource}"
        if resource.endswith(".fifo"):
            raise RefusedError(
                f"The destination ARN {destination} is invalid. A FIFO queue or topic cannot be the on-failure "
                "destination of a stream: name a standard one"
            )
        if service in _STREAMS:
            return re.split(r"[:/]", resource)[-1]
    raise RefusedError(
        f"The destination ARN {destination} is invalid. An on-failure destination of a stream is an SQS queue, an SNS "
        "topic, an S3 bucket or a Kinesis stream"
    )
