"""What the event source mapping API refuses, as boto3 and the AWS CLI say it."""

from __future__ import annotations

from streamfn.functions.refusals import ServiceRefused


def not_found(operation: str, which: str) -> ServiceRefused:
    """There is no mapping of that UUID or name; Lambda does not repeat it."""
    reason = "The resource you requested does not exist."
    return ServiceRefused(operation, "ResourceNotFoundException", reason, f"there is no mapping {which!r}")


def in_use(operation: str) -> ServiceRefused:
    """The mapping is being deleted; the error is in the service's model, the text is the one that people report."""
    verb = "update" if operation.startswith("Update") else "delete"
    reason = f"Cannot {verb} the event source mapping because it is in use."
    return ServiceRefused(operation, "ResourceInUseException", reason)


def duplicate(operation: str, stream_arn: str, function_name: str, uuid: str) -> ServiceRefused:
    """There is a mapping of this function on this stream; the spaces inside the parentheses are Lambda's."""
    reason = (
        f'The event source arn (" {stream_arn} ") and function (" {function_name} ") provided mapping already exists. '
        f"Please update or delete the existing mapping with UUID {uuid}"
    )
    return ServiceRefused(operation, "ResourceConflictException", reason)
