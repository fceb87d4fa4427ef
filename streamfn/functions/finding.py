"""Whether a handler can be there, without running its code: whoever makes a mapping is told before it runs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import all_suffixes
from os.path import isfile  # of a directory that may not be read it says False, where Path raises
from pathlib import Path


def split_name(name: str) -> tuple[str, str] | None:
    """Module (with `.` or `/`) and function of a handler's name; None when there is no function in it."""
    for separator in (":", "."):
        module, _, function = name.rpartition(separator)
        if module and function:
            return module, function
    return None


def handler_exists(name: str, code_dir: Path, layers: Sequence[str] = ()) -> bool:
    """Whether the module of `module.function`, `dir/module.function` or `module:function` can be found.

    It is looked for as workers will: in the code directory first, then in `layers` (directories on the path), then
    where Python looks. That the function is in it shows only when it is imported.
    """
    found = split_name(name)
    if found is None:
        return False
    parts = found[0].replace("/", ".").split(".")
    if not all(parts):
        return False
    for directory in (code_dir, *map(Path, (*layers, *sys.path))):
        place = directory.joinpath(*parts)
        if isfile(place / "__init__.py") or any(
            isfile(place.with_name(place.name + suffix)) for suffix in all_suffixes()
        ):
            return True
    return _found_by_import_system(parts)


def _found_by_import_system(parts: list[str]) -> bool:
    """For what is in no directory: frozen modules, archives, packages that were installed to be edited."""
    try:
        spec = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError, AttributeError):
        return False
    if spec is None or spec.loader is None:
        return False
    places = [Path(place).joinpath(*parts[1:]) for place in spec.submodule_search_locations or ()]
    return len(parts) == 1 or any(
        isfile(place / "__init__.py") or isfile(place.with_name(place.name + ".py")) for place in places
    )
