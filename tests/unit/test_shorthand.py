"""Structured values on the command line: JSON, the AWS CLI's shorthand, and files with either."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfn.cli.shorthand import json_input, structure, texts
from streamfn.errors import RefusedError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("OnFailure={Destination=arn:aws:s3:::b/c}", {"OnFailure": {"Destination": "arn:aws:s3:::b/c"}}),
        ("OnFailure={}", {"OnFailure": {}}),
        (" OnFailure = { Destination = a b } ", {"OnFailure": {"Destination": "a b"}}),
        ("Filters=[{Pattern='{\"a\": [1, 2]}'}]", {"Filters": [{"Pattern": '{"a": [1, 2]}'}]}),
        ("Filters=[{Pattern=x},{Pattern=y},]".replace(",]", "]"), {"Filters": [{"Pattern": "x"}, {"Pattern": "y"}]}),
        ("Filters=[]", {"Filters": []}),
        ("Metrics=[EventCount,ErrorCount]", {"Metrics": ["EventCount", "ErrorCount"]}),
        ("a=1,b=", {"a": "1", "b": ""}),
        (r'a="say \"it\" \\"', {"a": 'say "it" \\'}),
        ('{"Filters": [{"Pattern": "{}"}]}', {"Filters": [{"Pattern": "{}"}]}),
        ("", {}),
    ],
)  # fmt: skip
def test_a_structure_is_read_from_json_and_from_shorthand(text: str, value: object) -> None:
    assert structure("--x", text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("OnFailure", "expected '=' at character 10, not the end"),
        ("={}", "expected a name at character 1, not '='"),
        ("a=[b", "expected ',' at character 5, not the end"),
        ("a={b=c", "expected ',' at character 7, not the end"),
        ("a='b", "expected a closing ' at character 4, not 'b'"),
        ("a=b]", "expected ',' at character 4, not ']'"),
        ("{", "is not JSON"),
        ("[1]", "takes a structure"),
        ("[" * 100_000, "is nested too deeply"),
        ("a=" + "[" * 100_000, "is nested too deeply"),
        ("file:///nowhere/at/all", "cannot read /nowhere/at/all: No such file"),
    ],
)
def test_what_is_neither_is_refused_with_the_place(text: str, reason: str) -> None:
    with pytest.raises(RefusedError, match="^--x") as raised:
        structure("--x", text)
    assert reason in str(raised.value)


def test_a_list_of_texts_is_repeated_comma_separated_or_json() -> None:
    assert texts("--x", ("a", "b,c", '["d"]', "", "[]")) == ["a", "b", "c", "d"]
    assert texts("--x", ("",)) == []


def test_files_hold_either(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("OnFailure={Destination=s}\n")
    assert structure("--x", f"file://{path}") == {"OnFailure": {"Destination": "s"}}
    path.write_text('{"BatchSize": 3}')
    assert json_input("--x", f"file://{path}") == {"BatchSize": 3}
    path.write_bytes(b"\xff")
    with pytest.raises(RefusedError, match="not text in UTF-8"):
        structure("--x", f"file://{path}")
