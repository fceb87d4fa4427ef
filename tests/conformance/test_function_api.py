"""The function API, from the command line: answers, defaults, versions and refusals."""

import json
import re

import pytest
from api_rig import Api, refusal

from streamfn.cli.function_options import storage_mb

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
LAYER_ARN = "arn:aws:lambda:us-east-1:000000000000:layer:tools:1"
KEYS = {
    "FunctionName", "FunctionArn", "Runtime", "Role", "Handler", "CodeSize", "CodeSha256", "Description", "Timeout",
    "MemorySize", "EphemeralStorage", "LastModified", "Version", "RevisionId", "State", "LastUpdateStatus",
    "PackageType", "LoggingConfig",
}  # fmt: skip
OURS = {"CodeDirectory", "Isolation", "AllowNetwork", "StartMethod"}


class FunctionApi(Api):
    group = "function"


@pytest.fixture
def code(tmp_path, monkeypatch):
    directory = tmp_path / "code"
    (directory / "layer" / "python").mkdir(parents=True)
    (directory / "app.py").write_text("def handler(event, context):\n    return event\n")
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def api(tmp_path, capsys, code):
    return FunctionApi(tmp_path, capsys)


@pytest.mark.conformance(
    "functions/defaults-and-keys",
    source="documented",
    rule="A stored function has Lambda's defaults (128 MB, 3 s, a /tmp of 512 MB) and answers with its keys.",
    differs="the code is a directory, which is not copied",
)
def test_a_function_has_lambdas_defaults_and_answers_with_its_keys(api, code):
    made = api("create", "orders", "--handler", "app.handler")
    assert set(made) == KEYS | OURS
    assert (made["FunctionName"], made["FunctionArn"]) == ("orders", ARN + "orders")
    assert (made["Timeout"], made["MemorySize"], made["EphemeralStorage"]) == (3, 128, {"Size": 512})
    assert (made["Version"], made["State"], made["PackageType"]) == ("$LATEST", "Active", "Zip")
    assert (made["CodeDirectory"], made["Isolation"]) == (str(code), "process")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000", made["LastModified"])
    assert re.fullmatch(r"[A-Za-z0-9+/]{43}=", made["CodeSha256"])
    assert api("show", "--function-name", ARN + "orders") == made
    assert api("list") == {"Functions": [made]}


def test_everything_that_is_asked_for_is_kept_and_answered(api, code):
    made = api(
        "create", "--function-name", "orders", "--handler", "app:handler", "--timeout", 900, "--memory-size", 10_240,
        "--ephemeral-storage", "Size=1024", "--environment", "Variables={A=1,B='x=y'}", "--env", "B=2", "--layers",
        "layer", "--description", "all of it", "--reserved-concurrency", 4, "--provisioned-concurrency", 2,
        "--start-method", "spawn", "--role", "arn:aws:iam::123456789012:role/mine", "--isolation", "sandbox",
        "--allow-network",
    )  # fmt: skip
    expected = {
        "Handler": "app:handler",
        "Timeout": 900,
        "MemorySize": 10_240,
        "EphemeralStorage": {"Size": 1024},
        "Environment": {"Variables": {"A": "1", "B": "2"}},
        "Layers": [{"Arn": str(code / "layer")}],
        "Description": "all of it",
        "ReservedConcurrentExecutions": 4,
        "ProvisionedConcurrentExecutions": 2,
        "StartMethod": "spawn",
        "Role": "arn:aws:iam::123456789012:role/mine",
        "Isolation": "sandbox",
        "AllowNetwork": True,
    }
    assert {key: made[key] for key in expected} == expected
    changed = api("update", "orders", "--timeout", 5, "--reserved-concurrency", "none", "--no-allow-network")
    assert {key: changed.get(key) for key in expected} == expected | {
        "Timeout": 5,
        "AllowNetwork": False,
        "ReservedConcurrentExecutions": None,
    }
    assert changed["RevisionId"] != made["RevisionId"]


def test_a_request_may_come_as_json(api, code):
    asked = {"FunctionName": "f", "Handler": "app.handler", "EphemeralStorage": {"Size": 600}, "Timeout": 7}
    (code / "function.json").write_text(json.dumps(asked))
    made = api("create", "--cli-input-json", "file://function.json", "--timeout", 8)
    assert (made["FunctionName"], made["EphemeralStorage"], made["Timeout"]) == ("f", {"Size": 600}, 8)
    assert api("update", "--cli-input-json", '{"FunctionName": "f", "Timeout": 9}')["Timeout"] == 9


@pytest.mark.conformance(
    "functions/versions",
    source="recorded",
    rule="A change of the configuration alone makes a version; without any change there is none.",
    differs="a version is made by whoever notices a change, and its code is not kept",
)
def test_a_change_of_code_or_configuration_is_a_version_and_a_look_finds_it(api, code):
    made = api("create", "f", "--handler", "app.handler")
    assert [one["Version"] for one in api("versions", "f")["Versions"]] == ["$LATEST", "1"]
    api("update", "f", "--timeout", 4)
    (code / "app.py").write_text("def handler(event, context):\n    return None\n")
    (code / "notes.txt").write_text("no code")
    latest, first, second, third = api("versions", "f")["Versions"]
    assert (first["CodeSha256"], first["Timeout"]) == (made["CodeSha256"], 3)
    assert (second["CodeSha256"], second["Timeout"]) == (made["CodeSha256"], 4)
    assert (third["CodeSha256"], third["Timeout"]) == (latest["CodeSha256"], 4)
    assert latest["CodeSha256"] != made["CodeSha256"]
    assert [one["FunctionArn"] for one in (first, third)] == [f"{ARN}f:1", f"{ARN}f:3"]
    assert api("show", "f:2") == second
    assert api("show", "f", "--qualifier", "$LATEST") == latest
    assert [one["Version"] for one in api("versions", "f", "--max-items", 2)["Versions"]] == ["$LATEST", "1"]
    code.rename(code.with_name("away"))
    assert len(api("versions", "f")["Versions"]) == 4


def test_a_function_that_is_deleted_is_gone_and_its_name_is_free(api, code):
    api("create", "f", "--handler", "app.handler")
    assert api("delete", "f")["FunctionName"] == "f"
    missing = refusal("ResourceNotFoundException", "DeleteFunction", f"Function not found: {ARN}f")
    assert api.refused("delete", "f") == missing
    assert (code / "app.py").exists()
    api("create", "f", "--handler", "app.handler")
    assert [one["Version"] for one in api("versions", "f")["Versions"]] == ["$LATEST", "1"]


def test_where_nothing_was_ever_stored_there_is_nothing_and_nothing_is_made(api):
    assert api("list") == {"Functions": []}
    for operation, command in (
        ("GetFunctionConfiguration", "show"),
        ("UpdateFunctionConfiguration", "update"),
        ("DeleteFunction", "delete"),
        ("ListVersionsByFunction", "versions"),
    ):
        said = api.refused(command, "f")
        assert said == refusal("ResourceNotFoundException", operation, f"Function not found: {ARN}f")
    assert not api.data.exists()


CREATE = "CreateFunction"
INVALID, VALIDATION = "InvalidParameterValueException", "ValidationException"


@pytest.mark.conformance(
    "functions/refusals",
    source="documented",
    rule="Values out of the model's ranges, 4 KB of variables, reserved names and a sixth layer are refused.",
)
@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        (["f"], None, 'Parameter validation failed: Missing required parameter in input: "Handler"'),
        (["--handler", "app.handler"], None, 'Missing required parameter in input: "FunctionName"'),
        (["a b", "--handler", "app.handler"], VALIDATION, "Value 'a b' at 'functionName' failed to satisfy"),
        (["f" * 65, "--handler", "app.handler"], VALIDATION, "Member must have length less than or equal to 64"),
        (["f", "--handler", "app.handler", "--timeout", 0], VALIDATION, "Value '0' at 'timeout' failed to satisfy"),
        (["f", "--handler", "app.handler", "--memory-size", 127], VALIDATION, "'127' at 'memorySize'"),
        (["f", "--handler", "app.handler", "--ephemeral-storage", 511], VALIDATION, "'511' at 'ephemeralStorage.size'"),
        (["f", "--handler", "app.handler", "--ephemeral-storage", "1 GB"], None, "--ephemeral-storage takes megabytes"),
        (["f", "--handler", "app.handler", "--isolation", "vm"], VALIDATION, "enum value set: [process, sandbox]"),
        (["f", "--handler", "app.handler", "--description", "d" * 257], VALIDATION, "'description' failed to satisfy"),
        (["f", "--handler", "app.handler", "--env", "A"], None, "--env takes K=V, not 'A'"),
        (["f", "--handler", "app.handler", "--env", "A=" + "x" * 4096], INVALID, "exceeded the 4KB limit. String meas"),
        (["f", "--handler", "app.handler", "--env", "_HANDLER=a.b"], INVALID, "Reserved keys used in this request: _"),
        (["f", "--handler", "app.handler", "--environment", "A=1"], None, "--environment takes Variables={NAME=VALUE"),
        (["f", "--handler", "app.handler", "--layers", "nope"], INVALID, "nope' is not a directory"),
        (["f", "--handler", "app.handler", "--layers", LAYER_ARN], INVALID, "is not a directory; one in AWS has to be"),
        (["f", "--handler", "app.handler", *["--layers", "layer"] * 2], INVALID, "is given twice"),
        (
            ["f", "--handler", "app.handler", *[each for n in range(6) for each in ("--layers", f"l{n}")]],
            INVALID,
            "Cannot reference more than 5 layers.",
        ),
        (["f", "--handler", "app.handler", "--code-dir", "nope"], INVALID, "nope' is not a directory"),
        (["f", "--handler", "nope.handler"], INVALID, "the handler 'nope.handler' cannot be found"),
        (["f", "--handler", "nope"], INVALID, "Bad handler 'nope'"),
        (["f", "--handler", "app.handler", "--runtime", "nodejs20.x"], INVALID, "the runtime 'nodejs20.x' is not here"),
        (["f", "--handler", "app.handler", "--reserved-concurrency", "many"], None, "a number, or none, not 'many'"),
        (
            ["f", "--handler", "app.handler", "--reserved-concurrency", 1, "--provisioned-concurrency", 2],
            INVALID,
            "should not be greater than the reservedConcurrentExecution for function",
        ),
        (["f", "--cli-input-json", '{"Handler": 1}'], None, "Invalid type for parameter Handler, value: 1"),
        (["f", "--cli-input-json", '{"Colour": 1}'], None, 'Unknown parameter in input: "Colour"'),
    ],
)
def test_what_is_refused_is_named_and_nothing_is_made(api, options, kind, reason):
    said = api.refused("create", *options)
    assert reason in said
    assert said.startswith("" if kind is None else refusal(kind, CREATE, ""))
    assert not api.data.exists()


def test_a_name_that_is_taken_and_a_change_that_is_refused_leave_the_function_as_it_was(api):
    made = api("create", "f", "--handler", "app.handler")
    said = api.refused("create", "f", "--handler", "app.handler", "--timeout", 9)
    assert said == refusal("ResourceConflictException", CREATE, "Function already exist: f")
    said = api.refused("update", "f", "--timeout", 9, "--memory-size", 1)
    assert said.startswith(refusal(VALIDATION, "UpdateFunctionConfiguration", "1 validation error detected"))
    assert "only $LATEST is there" in api.refused("update", "f:1", "--timeout", 9)
    assert api("show", "f") == made


@pytest.mark.parametrize("text", ["1024", "Size=1024", '{"Size": 1024}', '{"Size":1024}'])
def test_ephemeral_storage_is_taken_as_the_aws_cli_takes_it(text):
    assert storage_mb(text) == 1024
