"""Creating, listing, showing, updating and deleting functions, as Lambda's function API does it.

Requests and answers are dicts under Lambda's names; refusals are `ServiceRefused`, in Lambda's words where those are
known. Where Lambda takes an archive, a function here has a directory, `CodeDirectory`, whose code is used as it is: its
digest is looked at whenever a function is looked at, and a version is added where it has changed.

Every call waits for the disk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from streamfn.errors import FailedError, RefusedError
from streamfn.functions import stored
from streamfn.functions.code import CodeFiles
from streamfn.functions.configuration import Configuration, function_arn
from streamfn.functions.constraints import at_most, listed
from streamfn.functions.finding import handler_exists
from streamfn.functions.naming import NAME_CHARS_MAX, PATTERN, split_qualifier
from streamfn.functions.ranges import check_function, check_handler, function_violations
from streamfn.functions.refusals import ServiceRefused, invalid, violation
from streamfn.functions.shapes import check
from streamfn.functions.starting import REGION_DEFAULT, layer_path
from streamfn.state.functions import Code, StoredFunction
from streamfn.state.store import Store

CREATE, GET, LIST = "CreateFunction", "GetFunctionConfiguration", "ListFunctions"
UPDATE, DELETE, VERSIONS = "UpdateFunctionConfiguration", "DeleteFunction", "ListVersionsByFunction"

NOT_FOUND = "ResourceNotFoundException"

Answer = dict[str, Any]

# What can be asked; in what is stored these are the same, with our `CodeDirectory` for Lambda's `Code`.
_CHANGES: dict[str, Any] = {
    "Handler": str,
    "CodeDirectory": str,
    "Runtime": str,
    "Role": str,
    "Description": str,
    "Timeout": int,
    "MemorySize": int,
    "EphemeralStorage": {"Size": int},
    "Environment": {"Variables": {}},
    "Layers": [str],
    "ReservedConcurrentExecutions": int,
    "ProvisionedConcurrentExecutions": int,
    "Isolation": str,
    "AllowNetwork": bool,
    "StartMethod": str,
}
_REQUEST = {"FunctionName": str, **_CHANGES}
_OPTIONAL = stored.CONCURRENCY.values()  # a null unsets them
DESCRIPTION_CHARS_MAX = 256


class StoredFunctions:
    """The functions of a data directory. `directory` is where relative directories in requests begin.

    The store is opened when it is needed: by `create`, when everything that does not need it has been checked.
    """

    def __init__(self, open_store: Callable[[], Store], directory: Path) -> None:
        self._open_store = open_store
        self._directory = directory

    # ---- requests

    def create(self, asked: Mapping[str, Any]) -> Answer:
        """Store a function, with the defaults of Lambda: 128 MB, 3 s, a /tmp of 512 MB.

        Without a `CodeDirectory` that is the one where relative directories begin.

        Raises:
            RefusedError: a parameter is refused (see the module), or the name is taken; nothing was made.
        """
        check(_without_nulls(asked), _REQUEST, required="FunctionName")
        name = self._name(CREATE, str(asked["FunctionName"]))
        if "Handler" not in asked:
            raise RefusedError('Parameter validation failed: Missing required parameter in input: "Handler"')
        made = self._merged(CREATE, name, {"CodeDirectory": str(self._directory)}, asked)
        function = self._open_store().functions.create(name, made, code := _code_of(made))
        if function is None:
            raise ServiceRefused(CREATE, "ResourceConflictException", f"Function already exist: {name}")
        return stored.answer(function, code)

    def get(self, which: str, qualifier: str | None = None) -> Answer:
        """Show a function, by its name or ARN; or one of its versions.

        Raises:
            ServiceRefused: there is none.
        """
        function, version = self._found(GET, which, qualifier)
        if version is None:
            return self._current(function)
        for one in self._open_store().functions.versions(function.name):
            if str(one.number) == version:
                return stored.version_answer(function.name, one)
        raise not_found(GET, function.name, version)

    def list_(self, most: int | None = None) -> Answer:
        """Show all functions, by name, at most so many."""
        return {"Functions": [self._current(function) for function in self._open_store().functions.all()[:most]]}

    def update(self, which: str, asked: Mapping[str, Any]) -> Answer:
        """Change what is given of a function; what is not stays. A null unsets a concurrency.

        Raises:
            RefusedError: there is none, or a parameter is refused; nothing was changed.
        """
        check(_without_nulls(asked), _CHANGES)
        function, _ = self._found(UPDATE, which, None, latest=True)

        def changed(before: StoredFunction) -> tuple[dict[str, Any], Code]:
            after = self._merged(UPDATE, before.name, before.configuration, asked)
            return after, _code_of(after)

        after = self._open_store().functions.alter(function.name, changed)
        if after is None:
            raise not_found(UPDATE, function.name)
        return self._current(after)

    def delete(self, which: str) -> Answer:
        """Forget a function and its versions; its code stays where it is. The answer is what it was.

        Mappings of it stay, as in Lambda: they stop, and have to be deleted, too.

        Raises:
            ServiceRefused: there is none.
        """
        function, _ = self._found(DELETE, which, None, latest=True)
        answer = self._current(function)
        if not self._open_store().functions.remove(function.name):
            raise not_found(DELETE, function.name)
        return answer

    def versions(self, which: str, most: int | None = None) -> Answer:
        """Show `$LATEST` and the versions that a function has had, oldest first; at most so many.

        Raises:
            ServiceRefused: there is no such function.
        """
        function, _ = self._found(VERSIONS, which, None, latest=True)
        latest = self._current(function)
        past = self._open_store().functions.versions(function.name)
        return {"Versions": [latest, *(stored.version_answer(function.name, one) for one in past)][:most]}

    def configuration(self, operation: str, which: str) -> Configuration:
        """What a run of a function starts: that of `$LATEST`, the one whose code there is.

        Raises:
            RefusedError: there is none, or a version was named.
        """
        try:
            function, _ = self._found(operation, which, None, latest=True)
        except ServiceRefused as error:
            if error.code != NOT_FOUND:
                raise
            more = f"and {which!r} is no handler, which is named as module.function or module:function"
            raise ServiceRefused(operation, error.code, error.reason, more) from None
        self._current(function)
        return stored.configuration_of(function.name, function.configuration)

    # ---- what there is

    def _found(
        self, operation: str, which: str, qualifier: str | None, *, latest: bool = False
    ) -> tuple[StoredFunction, str | None]:
        """The function that a name or an ARN means, and the version, None for `$LATEST`."""
        named = split_qualifier(which)
        if named is None:
            raise _violation(operation, [_constraint(which)])
        name, within = named
        if qualifier is not None and within is not None and qualifier != within:
            reason = "The derived qualifier from the function name does not match the specified qualifier."
            raise invalid(operation, reason)
        wanted = qualifier or within
        version = None if wanted in (None, stored.LATEST) else wanted
        function = self._open_store().functions.get(name)
        if function is None:
            raise not_found(operation, name, version)
        if latest and version is not None:
            more = f"only {stored.LATEST} is there: the code of version {version} is not kept"
            raise invalid(operation, f"Version {version} of {name} cannot be used", more)
        return function, version

    def _current(self, function: StoredFunction) -> Answer:
        """The answer of a function whose code is looked at now; a version is added if it has changed."""
        code = _code_of(function.configuration)
        if not os.path.isdir(function.configuration["CodeDirectory"]):
            return stored.answer(function, code)  # it is away, which is no version
        # Who may only read sees the code as it is; whoever runs it next gives the version its number.
        with contextlib.suppress(FailedError):
            function = self._open_store().functions.note(function.name, code) or function
        return stored.answer(function, code)

    # ---- what a request is checked for

    def _name(self, operation: str, given: str) -> str:
        """The name of a function that is to be made."""
        named = split_qualifier(given)
        violations = list(at_most("functionName", given, NAME_CHARS_MAX)) if ":" not in given else []
        if named is None:
            violations.append(_constraint(given))
        if named is None or violations:
            raise _violation(operation, violations)
        if named[1] not in (None, stored.LATEST):
            raise invalid(operation, f"a function is made without a version, not as {given!r}")
        return named[0]

    def _merged(self, operation: str, name: str, before: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration after a request: what it names is replaced whole, the rest stays; all of it checked."""
        given = {key: value for key, value in asked.items() if key in _CHANGES and key != "Runtime"}
        after = {key: value for key, value in {**before, **given}.items() if value is not None}
        after["CodeDirectory"] = os.path.normpath(self._directory / after["CodeDirectory"])
        after["Layers"] = [os.path.normpath(self._directory / layer) for layer in after.get("Layers", ())]
        configuration = stored.configuration_of(name, after)
        violations = list(function_violations(configuration))
        violations += at_most("description", after.get("Description", ""), DESCRIPTION_CHARS_MAX)
        if violations:
            raise _violation(operation, violations)
        try:
            self._check_meaning(configuration, asked.get("Runtime"))
        except RefusedError as error:
            raise invalid(operation, str(error)) from None
        return after

    def _check_meaning(self, configuration: Configuration, runtime: str | None) -> None:
        if runtime is not None and runtime != stored.RUNTIME:
            raise RefusedError(f"the runtime {runtime!r} is not here: functions run on this Python, {stored.RUNTIME}")
        check_handler(configuration.handler)
        check_function(configuration)
        code_dir = Path(configuration.code_dir)
        if not code_dir.is_dir():
            raise RefusedError(f"the code directory {configuration.code_dir!r} is not a directory")
        if not handler_exists(configuration.handler, code_dir, layer_path(configuration.layers)):
            raise RefusedError(
                f"the handler {configuration.handler!r} cannot be found: there is no such module in {code_dir}, "
                "in a layer or on Python's path"
            )


def not_found(operation: str, name: str, version: str | None = None) -> ServiceRefused:
    """There is no such function; Invoke names the version, as it was recorded."""
    qualifier = version or (stored.LATEST if operation == "Invoke" else None)
    arn = function_arn(REGION_DEFAULT, name) + (f":{qualifier}" if qualifier else "")
    return ServiceRefused(operation, NOT_FOUND, f"Function not found: {arn}")


def _code_of(configuration: Mapping[str, Any]) -> Code:
    return CodeFiles(configuration["CodeDirectory"], configuration["Handler"]).code()


def _without_nulls(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in asked.items() if not (key in _OPTIONAL and value is None)}


def _constraint(name: str) -> str:
    rule = f"Member must satisfy regular expression pattern: {PATTERN}"
    return f"Value '{name}' at 'functionName' failed to satisfy constraint: {rule}"


def _violation(operation: str, violations: Sequence[str]) -> ServiceRefused:
    return violation(operation, listed(violations))
