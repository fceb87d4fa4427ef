"""The Lambda context object.

Attributes, methods and types are those of the real object, as recorded from the service: a memory limit that
is a string, an identity that is never None, a remaining time that is never negative.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any


class CognitoIdentity:
    """The caller's Cognito identity: there is none for a stream, so both fields are None."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")

    def __init__(self) -> None:
        self.cognito_identity_id: str | None = None
        self.cognito_identity_pool_id: str | None = None


class LambdaContext:
    """What Lambda passes to a handler as its second argument.

    What is the same for all invocations of an environment lives on a subclass (see `context_class`), so that
    making one costs two attributes.
    """

    function_name: str = ""
    function_version: str = "$LATEST"
    invoked_function_arn: str = ""
    memory_limit_in_mb: str = "128"
    log_group_name: str = ""
    log_stream_name: str = ""
    client_context: Any = None
    tenant_id: str | None = None

    def __init__(self, aws_request_id: str, deadline_ns: int) -> None:
        """`deadline_ns` is on CLOCK_MONOTONIC: it does not jump when the wall clock does."""
        self.aws_request_id = aws_request_id
        self._deadline_ns = deadline_ns

    @property
    def identity(self) -> CognitoIdentity:
        """The identity object, made when first asked for."""
        found = self.__dict__.get("_identity")
        if found is None:
            found = self.__dict__["_identity"] = CognitoIdentity()
        return found

    @property
    def _epoch_deadline_time_in_ms(self) -> int:
        """The deadline in milliseconds since 1970: not documented by AWS, and read by many libraries."""
        return int(time.time() * 1000) + (self._deadline_ns - time.monotonic_ns()) // 1_000_000

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function is stopped; 0 when the time is over, never less."""
        return max(0, (self._deadline_ns - time.monotonic_ns()) // 1_000_000)

    def log(self, message: object) -> None:
        """Write to the log, without a line end of its own, as the real one does."""
        sys.stdout.write(str(message))

    def w3c(self) -> dict[str, str]:
        """The W3C trace context: a stream's events carry none."""
        return {}

    def __repr__(self) -> str:
        fields = (
            "aws_request_id",
            "function_name",
            "function_version",
            "invoked_function_arn",
            "memory_limit_in_mb",
            "log_group_name",
            "log_stream_name",
            "client_context",
            "identity",
        )
        values = ",".join(f"{name}={getattr(self, name)}" for name in fields)
        return f"LambdaContext([{values}])"


def context_class(environment: Mapping[str, str], function_arn: str) -> type[LambdaContext]:
    """The context class of one environment, its constants read from the `AWS_LAMBDA_*` variables."""
    constants = {
        "function_name": environment["AWS_LAMBDA_FUNCTION_NAME"],
        "function_version": environment["AWS_LAMBDA_FUNCTION_VERSION"],
        "memory_limit_in_mb": environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"],
        "log_group_name": environment["AWS_LAMBDA_LOG_GROUP_NAME"],
        "log_stream_name": environment["AWS_LAMBDA_LOG_STREAM_NAME"],
        "invoked_function_arn": function_arn,
        "__module__": __name__,
    }
    return type("LambdaContext", (LambdaContext,), constants)
