"""A stored function's configuration: under Lambda's names in the store, and as the API answers it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from streamfn import limits
from streamfn.functions.configuration import Configuration, function_arn
from streamfn.functions.starting import REGION_DEFAULT
from streamfn.pool.confine.isolation import PROCESS
from streamfn.state.functions import Code, FunctionVersion, StoredFunction

LATEST = "$LATEST"
RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"

# What is Lambda's name for what our code calls so, where both have the same values.
PLAIN = {
    "handler": "Handler",
    "timeout": "Timeout",
    "memory_size": "MemorySize",
    "description": "Description",
    "isolation": "Isolation",
    "allow_network": "AllowNetwork",
    "start_method": "StartMethod",
    "role": "Role",
}
CONCURRENCY = {
    "reserved_concurrency": "ReservedConcurrentExecutions",
    "provisioned_concurrency": "ProvisionedConcurrentExecutions",
}

# What a function has that nothing was said of: Lambda's own defaults.
DEFAULTS: dict[str, Any] = {
    "Description": "",
    "Timeout": limits.FUNCTION_TIMEOUT_S_DEFAULT,
    "MemorySize": limits.MEMORY_MB_MIN,
    "EphemeralStorage": {"Size": limits.STORAGE_MB_MIN},
    "Environment": {"Variables": {}},
    "Layers": [],
    "Role": limits.ROLE_ARN,
    "Isolation": PROCESS,
    "AllowNetwork": False,
    "StartMethod": "fork",
}


def configuration_of(name: str, stored: Mapping[str, Any]) -> Configuration:
    """What a run of a stored function starts."""
    whole = {**DEFAULTS, **stored}
    return Configuration(
        name=name,
        handler=whole["Handler"],
        code_dir=whole["CodeDirectory"],
        timeout_s=whole["Timeout"],
        memory_size=whole["MemorySize"],
        ephemeral_storage=(whole["EphemeralStorage"] or {}).get("Size", limits.STORAGE_MB_MIN),
        environment=(whole["Environment"] or {}).get("Variables") or {},
        layers=tuple(whole["Layers"]),
        isolation=whole["Isolation"],
        allow_network=whole["AllowNetwork"],
        provisioned_concurrency=whole.get("ProvisionedConcurrentExecutions"),
        reserved_concurrency=whole.get("ReservedConcurrentExecutions"),
        start_method=whole["StartMethod"],
    )


def answer(function: StoredFunction, code: Code) -> dict[str, Any]:
    """The function as it is, as Lambda answers a FunctionConfiguration; `code` is what its code is now.

    Ours beside Lambda's keys: CodeDirectory, the two concurrencies where they are set, Isolation, AllowNetwork,
    StartMethod. A layer's Arn is its directory.
    """
    return _answer(function.name, function.configuration, code, LATEST, function.modified_ms, function.revision)


def version_answer(name: str, version: FunctionVersion) -> dict[str, Any]:
    """The same of a version, which has no revision."""
    return _answer(name, version.configuration, version.code, str(version.number), version.created_ms, None)


def _answer(
    name: str, stored: Mapping[str, Any], code: Code, version: str, modified_ms: int, revision: str | None
) -> dict[str, Any]:
    whole = {**DEFAULTS, **stored}
    arn = function_arn(REGION_DEFAULT, name)
    variables = (whole["Environment"] or {}).get("Variables") or {}
    seconds, ms = divmod(modified_ms, 1000)
    answered = {
        "FunctionName": name,
        "FunctionArn": arn if version == LATEST else f"{arn}:{version}",
        "Runtime": RUNTIME,
        "Role": whole["Role"],
        "Handler": whole["Handler"],
        "CodeSize": code.size,
        "CodeSha256": code.digest,
        "CodeDirectory": whole["CodeDirectory"],
        "Description": whole["Description"],
        "Timeout": whole["Timeout"],
        "MemorySize": whole["MemorySize"],
        "EphemeralStorage": whole["EphemeralStorage"],
        "LastModified": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ms:03d}+0000",
        "Version": version,
        **({"Environment": {"Variables": variables}} if variables else {}),
        **({"Layers": [{"Arn": layer} for layer in whole["Layers"]]} if whole["Layers"] else {}),
        **({} if revision is None else {"RevisionId": revision}),
        "State": "Active",
        "LastUpdateStatus": "Successful",
        "PackageType": "Zip",
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{name}"},
    }
    for ours in CONCURRENCY.values():
        if whole.get(ours) is not None:
            answered[ours] = whole[ours]
    return {**answered, **{ours: whole[ours] for ours in ("Isolation", "AllowNetwork", "StartMethod")}}
