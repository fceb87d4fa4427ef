"""What the Lambda API refuses, as boto3 and the AWS CLI say it."""

from __future__ import annotations

from streamfn.errors import RefusedError


class ServiceRefused(RefusedError):
    """A request that Lambda refuses.

    `code` is the name of Lambda's error, `reason` its text. The whole is what boto3's ClientError and the AWS CLI say,
    with `more`, which is ours, in parentheses behind it.
    """

    def __init__(self, operation: str, code: str, reason: str, more: str = "") -> None:
        explained = f"{reason} ({more})" if more else reason
        super().__init__(f"An error occurred ({code}) when calling the {operation} operation: {explained}")
        self.operation = operation
        self.code = code
        self.reason = reason


def violation(operation: str, reason: str) -> ServiceRefused:
    """A value out of the range of the service's model."""
    return ServiceRefused(operation, "ValidationException", reason)


def invalid(operation: str, reason: str, more: str = "") -> ServiceRefused:
    """A value that the service does not take."""
    return ServiceRefused(operation, "InvalidParameterValueException", reason, more)
