"""docs/conformance.md says what the marks on the tests say, and marks that cannot be understood are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance_table import DOCUMENT, ROOT, BadMark, collect, write


def rules_of(tmp_path: Path, source: str):  # type: ignore[no-untyped-def]
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_it.py").write_text("import pytest\n" + source)
    return collect(tests)


MARK = '@pytest.mark.conformance("age/splits", source="ours", rule="It a|b splits.")\n'


def test_a_rule_is_shown_by_every_test_that_names_it(tmp_path: Path) -> None:
    rules = rules_of(
        tmp_path,
        MARK + "def test_one(): ...\n"
        "class TestIt:\n"
        '    @pytest.mark.conformance("age/splits")\n'
        "    async def test_two(self): ...\n"
        '@pytest.mark.parametrize("x", [pytest.param(1, id="first", marks=pytest.mark.conformance("age/splits"))])\n'
        "def test_three(x): ...\n",
    )
    assert rules["age/splits"].tests == [
        "tests/test_it.py::test_one",
        "tests/test_it.py::TestIt::test_two",
        "tests/test_it.py::test_three[first]",
    ]
    page = write(rules)
    assert "## Record age" in page
    assert "**splits**: It a\\|b splits." in page
    assert "[TestIt::test_two](../tests/test_it.py)" in page


def test_a_difference_is_listed_first(tmp_path: Path) -> None:
    source = (
        '@pytest.mark.conformance("age/x", source="recorded", rule="R.", differs="We do not.")\ndef test_x(): ...\n'
    )
    page = write(rules_of(tmp_path, source))
    assert "## Where we knowingly differ\n\n- **age/x**: We do not.\n" in page


@pytest.mark.parametrize(
    ("mark", "why"),
    [
        ('"age/x"', "no mark says"),
        ('"age/x", source="hearsay", rule="R."', "recorded, documented"),
        ('"age/x", source="ours"', "needs a rule"),
        ('"x", source="ours", rule="R."', "group/name"),
        ('"age/x", source="ours", rule="R.", wrong=1', "wrong"),
        ('name, source="ours", rule="R."', "literals"),
    ],
)
def test_a_mark_that_cannot_be_understood_is_named(tmp_path: Path, mark: str, why: str) -> None:
    with pytest.raises(BadMark, match=why) as caught:
        rules_of(tmp_path, f"@pytest.mark.conformance({mark})\ndef test_x(): ...\n")
    assert "test_x" in str(caught.value)


def test_a_rule_that_is_described_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadMark, match="described twice"):
        rules_of(tmp_path, MARK + "def test_one(): ...\n" + MARK + "def test_two(): ...\n")


def test_the_page_is_what_the_marks_say() -> None:
    page = write(collect(ROOT / "tests"))
    assert page == DOCUMENT.read_text("utf-8"), "stale: run python tests/conformance/conformance_table.py"
