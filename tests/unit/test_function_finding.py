"""Whether a handler can be there, without importing it."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfn.functions.finding import handler_exists


@pytest.fixture
def code(tmp_path: Path) -> Path:
    for name in ("app.py", "src/app.py", "pkg/__init__.py", "pkg/inner.py", "empty/readme"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('nobody runs this')\n")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["app.h", "app:h", "src/app.h", "src.app.h", "pkg.h", "pkg.inner.h", "pkg/inner:h", "json.loads"]
)  # fmt: skip
def test_a_module_is_found_in_the_code_directory_and_where_python_looks(code: Path, name: str) -> None:
    assert handler_exists(name, code)


@pytest.mark.parametrize("name", ["nope.h", "app", "", "src/nope.h", "pkg.outer.h", "empty.h", ".h", "a..b", "app."])
def test_a_module_that_is_not_there_is_not_found(code: Path, name: str) -> None:
    assert not handler_exists(name, code)


def test_a_place_that_cannot_be_looked_at_holds_no_handler(code):
    assert not handler_exists("x" * 300 + ".f", code)  # longer than a file's name may be; a closed directory is alike
