"""What may be recorded, as it is written on a command line.

kinesis://NAME                      a data stream by its name
kinesis://ARN, or the ARN alone     arn:aws:kinesis:REGION:ACCOUNT:stream/NAME
dynamodb-stream://TABLE             the newest stream of a table
dynamodb-stream://ARN, or the ARN   arn:aws:dynamodb:REGION:ACCOUNT:table/TABLE, or .../stream/LABEL of it
"""

from __future__ import annotations

import re
from typing import NamedTuple

from streamfn.errors import RefusedError
from streamfn.log.catalog.stream import DYNAMODB, KINESIS

_SCHEMES = {"kinesis": KINESIS, "dynamodb-stream": DYNAMODB}
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,255}")
_KINESIS_ARN = re.compile(r"arn:[^:]+:kinesis:([^:]+):[^:]*:stream/([a-zA-Z0-9_.-]+)(/.+)?")
_DYNAMODB_ARN = re.compile(r"arn:[^:]+:dynamodb:([^:]+):[^:]*:table/([a-zA-Z0-9_.-]+)(/stream/[^/]+)?")


class Target(NamedTuple):
    """What is to be recorded: `name` is the data stream's or the table's.

    `arn` is that of the data stream or of the table's stream, None where only the name was given; `region` is in it.
    """

    kind: str
    name: str
    arn: str | None = None
    region: str | None = None

    def __str__(self) -> str:
        scheme = "kinesis" if self.kind == KINESIS else "dynamodb-stream"
        return self.arn or f"{scheme}://{self.name}"


def parse_target(text: str) -> Target:
    """Return what `text` names; see the top of the file.

    Raises:
        RefusedError: nothing of the kind.
    """
    scheme, separator, rest = text.partition("://")
    kind = _SCHEMES.get(scheme) if separator else None
    if separator and kind is None:
        raise RefusedError(f"{scheme}:// cannot be recorded: it is kinesis://NAME or dynamodb-stream://TABLE")
    named = rest if separator else text
    if named.startswith("arn:"):
        target = _from_arn(named)
        if target is not None and kind in (None, target.kind):
            return target
        raise RefusedError(f"{named} is not the ARN of a {_what(kind)}")
    if kind is None:
        raise RefusedError(
            f"{text!r} names no source: it is kinesis://NAME, dynamodb-stream://TABLE, or the ARN of one"
        )
    if not _NAME.fullmatch(named):
        raise RefusedError(f"{named!r} is not the name of a {_what(kind)}")
    return Target(kind, named)


def _from_arn(arn: str) -> Target | None:
    found = _KINESIS_ARN.fullmatch(arn)
    if found is not None:
        region, name, more = found.groups()
        if more:
            raise RefusedError(f"{arn} is a consumer's: record the stream itself, {arn.removesuffix(more)}")
        return Target(KINESIS, name, arn, region)
    found = _DYNAMODB_ARN.fullmatch(arn)
    if found is not None:
        region, name, stream = found.groups()
        return Target(DYNAMODB, name, arn if stream else None, region)
    return None


def _what(kind: str | None) -> str:
    return {KINESIS: "Kinesis data stream", DYNAMODB: "DynamoDB table or its stream"}.get(kind or "", "stream")
