"""The environment variables of an execution environment."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from streamfn import limits
from streamfn.functions.configuration import Configuration

# What the execution environment was made for: to be kept warm, or for what waited.
PROVISIONED, ON_DEMAND = "provisioned-concurrency", "on-demand"


def log_stream_name() -> str:
    """A new log stream's name, in Lambda's form: the day, the version, 32 hexadecimal digits."""
    return time.strftime("%Y/%m/%d/[$LATEST]", time.gmtime()) + os.urandom(16).hex()


def machine_memory_mb() -> int:
    """The machine's memory in MB, at most what the largest Lambda function has."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(limits.MEMORY_MB_MAX, pages // (1024 * 1024))


def function_environment(base: Mapping[str, str], configuration: Configuration, region: str) -> dict[str, str]:
    """The complete environment of a function's workers, as docs/reference.md's "What a handler sees" has it.

    `base` is the environment streamfn was started with. What the configuration adds wins over everything but Lambda's
    own names. Where there is no memory limit, the handler is told of all the machine has, at most Lambda's largest.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = configuration.name
    environment = {"AWS_REGION": region, "AWS_DEFAULT_REGION": region, **base, **configuration.environment}
    environment.update(
        {
            "AWS_LAMBDA_FUNCTION_NAME": name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(configuration.memory_size or machine_memory_mb()),
            "AWS_LAMBDA_INITIALIZATION_TYPE": PROVISIONED if configuration.provisioned_concurrency else ON_DEMAND,
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": log_stream_name(),
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{version}",
            "_HANDLER": configuration.handler,
            "LAMBDA_TASK_ROOT": configuration.code_dir,
            "TZ": ":UTC",
        }
    )
    return environment
