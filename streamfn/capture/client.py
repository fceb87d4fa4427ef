"""The one door to AWS's SDK: clients, one call, and what its failures mean.

boto3 and botocore are imported inside these functions and nowhere else, so that streamfn runs without them.  A
call is made once: repeating is the reader's business, who knows the limits, and the SDK's own retries are off.

The bytes of an answer's body come with it under RAW_BODY: the SDK hands out parsed attribute values, in which
the order of attributes is kept but the text is not, and a change record is kept as it was written.  An SDK that does
not hand over the bytes is refused; there is no second, lossy way.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any

from streamfn.capture.source import Trouble, TroubleKind
from streamfn.errors import FailedError, RefusedError

RAW_BODY = "RawBody"
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60

_THROTTLED = {
    "KMSThrottlingException",
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_TRANSIENT = {
    "InternalFailure",
    "InternalFailureException",
    "InternalServerError",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
}
_OTHERS = {
    "ExpiredIteratorException": TroubleKind.EXPIRED,
    "TrimmedDataAccessException": TroubleKind.TRIMMED,
    "ResourceNotFoundException": TroubleKind.GONE,
}


class Access:
    """Where the source is and who asks: what is None is found as the SDK finds it (environment, profile, instance)."""

    def __init__(
        self, *, endpoint_url: str | None = None, region: str | None = None, profile: str | None = None
    ) -> None:
        self.endpoint_url = endpoint_url
        self.region = region
        self.profile = profile


def open_client(service: str, access: Access, *, connections: int) -> Any:
    """Return the SDK's client of a service (`kinesis`, `dynamodb`, `dynamodbstreams`).  It is thread-safe.

    Raises:
        RefusedError: boto3 is not installed, or there is no such profile, no region, no usable endpoint.
    """
    try:
        import boto3
        import botocore.config
        import botocore.exceptions
    except ImportError:
        raise RefusedError(
            "record reads AWS through boto3, which is not installed: pip install 'streamfn[aws]'"
        ) from None
    config = botocore.config.Config(
        retries={"total_max_attempts": 1},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=connections,
        user_agent_extra="streamfn",
    )
    try:
        session = boto3.Session(profile_name=access.profile, region_name=access.region)
        client = session.client(service, endpoint_url=access.endpoint_url, config=config)
    except botocore.exceptions.NoRegionError:
        raise RefusedError(
            "no region: give --region, set AWS_REGION, or record an ARN, which names its region"
        ) from None
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        raise RefusedError(f"cannot reach AWS: {_one_line(error)}") from None
    hyphenated = client.meta.service_model.service_id.hyphenize()
    client.meta.events.register(f"after-call.{hyphenated}.*", _keep_body)
    return client


def _keep_body(http_response: Any, parsed: dict[str, Any], **_: object) -> None:
    parsed[RAW_BODY] = http_response.content


def call(client: Any, operation: str, **parameters: object) -> dict[str, Any]:
    """Call an operation once, and return its answer, whole.

    Raises:
        Trouble: it failed; the kind says what that means.
    """
    import botocore.exceptions as sdk
    from botocore.parsers import ResponseParserError

    try:
        answer = getattr(client, operation)(**parameters)
    except sdk.ClientError as error:
        raise _refusal(error.response) from None
    except (
        sdk.NoCredentialsError,
        sdk.PartialCredentialsError,
        sdk.CredentialRetrievalError,
        sdk.TokenRetrievalError,
    ) as error:
        text = f"{_one_line(error)}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give --profile"
        raise Trouble(TroubleKind.FATAL, "NoCredentials", text) from None
    except (sdk.HTTPClientError, sdk.ConnectionError, sdk.IncompleteReadError, ResponseParserError) as error:
        raise Trouble(TroubleKind.TRANSIENT, type(error).__name__, _one_line(error)) from None
    except sdk.BotoCoreError as error:
        raise Trouble(TroubleKind.FATAL, type(error).__name__, _one_line(error)) from None
    assert isinstance(answer, dict)
    _require_whole(answer)
    return answer


def _require_whole(answer: dict[str, Any]) -> None:
    """Raise Trouble where an answer was cut short: not every version of the SDK's HTTP library notices."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    length = headers.get("content-length", "")
    if length.isdigit() and "content-encoding" not in headers and len(answer.get(RAW_BODY, b"")) != int(length):
        raise Trouble(TroubleKind.TRANSIENT, "IncompleteAnswer", f"an answer of {length} bytes was cut short")


def member(answer: dict[str, Any], name: str) -> Any:
    """Return a member that every whole answer has.

    Raises:
        Trouble: TRANSIENT, it is not there: the answer is not what it should be (the SDK takes any text for one).
    """
    if name not in answer:
        raise Trouble(TroubleKind.TRANSIENT, "BadAnswer", f"an answer without {name}")
    return answer[name]


def raw_body(answer: dict[str, Any]) -> bytes:
    """Return the bytes of an answer's body.

    Raises:
        FailedError: this SDK does not hand them over.
    """
    body = answer.get(RAW_BODY)
    if not isinstance(body, bytes):
        import botocore

        raise FailedError(
            f"botocore {botocore.__version__} does not hand over answers as they came: pip install -U 'streamfn[aws]'"
        )
    return body


def server_ms(answer: dict[str, Any]) -> int:
    """Return the source's clock in ms since 1970, UTC, as its answer's Date says (in seconds, rounded down).

    Where there is none, this machine's.
    """
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return int(parsedate_to_datetime(said).timestamp()) * 1000
    except (TypeError, ValueError):
        return time.time_ns() // 1_000_000


def _refusal(response: dict[str, Any]) -> Trouble:
    """Make a Trouble of an answer with an error code."""
    error = response.get("Error", {})
    code = str(error.get("Code", ""))
    text = f"{code}: {_one_line(error.get('Message') or 'no message')}"
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _THROTTLED or status == 429:
        return Trouble(TroubleKind.THROTTLED, code, text)
    if code in _OTHERS:
        return Trouble(_OTHERS[code], code, text)
    if code in _TRANSIENT or status >= 500:
        return Trouble(TroubleKind.TRANSIENT, code, text)
    return Trouble(TroubleKind.FATAL, code, text)


def _one_line(what: object) -> str:
    return " ".join(str(what).split())
