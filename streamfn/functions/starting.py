"""From a function's configuration to what the pool starts: environment, settings, limits, walls, how many workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from streamfn.errors import HandlerImportError, RefusedError
from streamfn.functions.configuration import Configuration, function_arn
from streamfn.functions.environment import function_environment
from streamfn.pool.config import FunctionConfig
from streamfn.pool.confine.isolation import SANDBOX, Isolation, inherited
from streamfn.pool.confine.limits import Limits

WORKER_MAIN = "streamfn.mapping.worker"
REGION_DEFAULT = "us-east-1"


def function_config(
    configuration: Configuration,
    *,
    workers: int,
    request_base: str,
    region: str = REGION_DEFAULT,
    arn: str = "",
    judge: str | None = None,
    debug: bool = False,
    measured: bool = False,
    shared: bool = False,
    function: Callable[..., Any] | None = None,
    path: Sequence[str] = (),
    data_dir: str = "",
) -> FunctionConfig:
    """What the pool starts.

    `workers` is how many there may be at most: of those as many are warm as is provisioned, all where nothing is said
    of that (with a reserved concurrency: one for each processor), none where workers are `shared` out among functions.
    `arn` is what the handler is told that it was invoked by (empty: the function's own, unqualified); `judge` and
    `measured`: see `mapping.worker`. `function` is a callable that has no importable name,
    which the handler's name then stands for. `path` is the workers' whole `sys.path`; empty: the code directory and
    what Python has. `data_dir` is what a sandbox never shows. Looks at the disk, for layers alone.

    Raises:
        RefusedError: a layer is no directory.
    """
    timeout_s = None if debug else configuration.timeout_s
    settings: dict[str, Any] = {
        "handler": configuration.handler,
        "path": list(path),
        "layers": layer_path(configuration.layers),
        "function_arn": arn or function_arn(region, configuration.name),
        "request_base": request_base,
        "timeout_s": timeout_s,
        "judge": judge,
        "measured": measured,
        "memory_mb": configuration.memory_size,
        "provisioned": configuration.provisioned_concurrency or 0,
    }
    most = 1 if debug else workers
    if configuration.reserved_concurrency is not None:
        most = min(most, max(1, configuration.reserved_concurrency))
    walled = configuration.isolation == SANDBOX
    base = inherited(os.environ) if walled else os.environ
    environment = function_environment(base, configuration, region)
    return FunctionConfig(
        name=configuration.name,
        main=WORKER_MAIN,
        settings=settings,
        code_dir=configuration.code_dir,
        environment=environment,
        minimum=_warm(configuration, most, shared=shared),
        maximum=most,
        reserved=configuration.reserved_concurrency is not None,
        provisioned=configuration.provisioned_concurrency is not None,
        timeout_s=timeout_s,
        start_method="spawn" if configuration.start_method == "spawn" else "fork",
        limits=Limits(memory_mb=configuration.memory_size, ephemeral_storage_mb=configuration.ephemeral_storage),
        isolation=Isolation(
            level=configuration.isolation,
            network=configuration.allow_network,
            readable=_readable(configuration, path, environment),
            data_dir=data_dir,
        ),
        debug=debug,
        callable=function,
    )


def _warm(configuration: Configuration, most: int, *, shared: bool) -> int:
    """How many workers are kept ready."""
    if configuration.provisioned_concurrency is not None:
        return min(most, configuration.provisioned_concurrency)
    if shared:
        return 0
    return most if configuration.reserved_concurrency is None else min(most, len(os.sched_getaffinity(0)))


def _readable(configuration: Configuration, path: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """What a sandboxed function may read beside the system's and Python's own: what its path leads to."""
    added = environment.get("PYTHONPATH", "").split(os.pathsep)
    places = (configuration.code_dir, *configuration.layers, *(path or added))
    return tuple(dict.fromkeys(place for place in places if os.path.isabs(place) and os.path.exists(place)))


def layer_path(layers: Sequence[str]) -> list[str]:
    """What layers put on the path, in their order, behind the code directory.

    Of each: the `python/lib/pythonX.Y/site-packages` and `python/` that Lambda looks into, and the directory itself.

    Raises:
        RefusedError: one is no directory.
    """
    found = []
    for layer in map(Path, layers):
        if not layer.is_dir():
            more = "; one in AWS has to be downloaded first (aws lambda get-layer-version-by-arn)"
            named = layer.name.startswith("arn:")
            raise RefusedError(f"the layer {str(layer)!r} is not a directory{more if named else ''}")
        python = layer / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        found += [str(place) for place in (python / "lib" / version / "site-packages", python, layer)]
    return [place for place in found if os.path.isdir(place)]


def named(error: HandlerImportError, handler: str) -> HandlerImportError:
    """The error with the handler's name in its text, and the type of what its module raised."""
    kind = str(error.document.get("errorType", ""))
    text = str(error) if kind.startswith(("Runtime.", "Sandbox.")) else f"{kind}: {error}"
    found = HandlerImportError(f"cannot load handler {handler!r}: {text}", error.document, error.log)
    found.init_ns, found.phase = error.init_ns, error.phase
    return found
