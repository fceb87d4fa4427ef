"""The options of event source mappings on a command line: what becomes of what was given."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from streamfn.cli.features import Features, feature_options
from streamfn.errors import RefusedError

SNS = "arn:aws:sns:us-east-1:000000000000:failed"


def given(*arguments: str) -> Features:
    """What a command with the options is given."""
    found: list[Features] = []

    @click.command()
    @feature_options
    def command(features: Features) -> None:
        found.append(features)

    CliRunner().invoke(command, arguments, catch_exceptions=False)
    return found[0]


def test_what_was_not_given_is_not_there() -> None:
    assert given() == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--on-failure", SNS],
        ["--destination-config", f"OnFailure={{Destination={SNS}}}"],
        ["--destination-config", f'{{"OnFailure": {{"Destination": "{SNS}"}}}}'],
    ],
)
def test_a_destination_is_named_alone_or_as_lambda_has_it(arguments: list[str]) -> None:
    assert given(*arguments) == {"on_failure": SNS}


@pytest.mark.parametrize("config", ["{}", '{"OnFailure": {}}'])
def test_an_empty_destination_config_is_none(config: str) -> None:
    assert given("--destination-config", config) == {"on_failure": ""}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--on-failure", "x", "--destination-config", "OnFailure={Destination=y}"], "give one of them"),
        (["--destination-config", "OnFailure={Where=y}"], r"takes OnFailure=\{Destination=\.\.\.\}, not 'OnF"),
        (["--destination-config", "OnFailure=y"], r"takes OnFailure=\{Destination=\.\.\.\}"),
        (["--destination-config", "OnFailure={Destination=y},More=z"], r"takes OnFailure=\{Destination=\.\.\.\}"),
        (["--destination-config", '{"OnFailure": {"Destination": 7}}'], r"takes OnFailure=\{Destination=\.\.\.\}"),
        (["--destination-config", "{"], "not JSON"),
    ],
)
def test_a_destination_config_that_says_something_else_is_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        given(*arguments)


@pytest.mark.conformance(
    "discards/no-on-success",
    source="recorded",
    rule="DestinationConfig.OnSuccess is refused for an event source mapping, in Lambda's words.",
)
def test_on_success_is_refused_in_lambdas_words() -> None:
    words = r"^Unsupported DestinationConfig parameter for given event source mapping type\.$"
    with pytest.raises(RefusedError, match=words):
        given("--destination-config", "OnSuccess={Destination=y}")
