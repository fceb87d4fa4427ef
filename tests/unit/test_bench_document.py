"""docs/performance.md is what its template and the results make of it, and a template cannot be filled in wrongly."""

import xml.etree.ElementTree as ElementTree

import pytest

from bench.document import svg
from bench.document.__main__ import DOCS, RESULTS, TEMPLATE, documents, load
from bench.document.rendering import DocumentError, render

RESULT = {
    "command": "python -m bench.peers",
    "date": "2026-11-26",
    "seconds": 61,
    "load": 0.2,
    "printed": "Some machine, 2 cores\n\n| a |\n|---|\n| 1 |\n\n| b |\n|---|\n| 2 |",
    "data": {},
}
NAMES = {"peers", "limit"}
PLOTS = {"bars": ("plots/bars.svg", "how fast"), "lines": None}


def rendered(template, results=None):
    return render(template, {"peers": RESULT} if results is None else results, NAMES, PLOTS)


def test_the_page_is_what_the_template_and_the_results_make_of_it():
    made = documents(TEMPLATE.read_text(), load(RESULTS))
    for name, text in made.items():
        assert (DOCS / name).read_text() == text, f"run `python -m bench.document`: docs/{name} is not what it makes"
    assert {path.name for path in DOCS.glob("plots/*.svg")} == {name[6:] for name in made if name.startswith("plots/")}


def test_what_was_measured_takes_the_place_of_what_stood_there():
    text = "before\n\n<!-- measured peers -->\nold\n<!-- end -->\n\nafter"
    how = "`python -m bench.peers`, 2026-11-26, 61 s. Some machine, 2 cores."
    assert rendered(text) == f"before\n\n{how}\n\n| a |\n|---|\n| 1 |\n\n| b |\n|---|\n| 2 |\n\nafter\n"
    assert rendered(text, {}) == "before\n\nold\n\nafter\n"


def test_a_block_and_how_it_was_measured_can_stand_alone():
    assert rendered("<!-- measured peers 2 -->\nold\n<!-- end -->") == "| b |\n|---|\n| 2 |\n"
    assert rendered("<!-- how peers -->").startswith("`python -m bench.peers`, 2026-11-26")
    assert rendered("x\n<!-- how limit -->") == "x\n"


def test_a_busy_machine_is_said_to_have_been_busy():
    busy = {"peers": {**RESULT, "load": 8.4}}
    assert "61 s, beside other work (load 8.4 when it began)." in rendered("<!-- how peers -->", busy)
    assert "beside" not in rendered("<!-- how peers -->")


def test_a_picture_is_there_where_it_was_drawn():
    assert rendered("<!-- plot bars -->\n<!-- plot lines -->") == "![how fast](plots/bars.svg)\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("<!-- measured nobody -->\n<!-- end -->", "line 1: there is no section nobody"),
        ("<!-- measured peers -->", "has no end"),
        ("<!-- end -->", "line 1: nothing ends here"),
        ("<!-- measured peers -->\n<!-- measured limit -->\n<!-- end -->", "line 2: the measurement before"),
        ("<!-- measured peers 3 -->\n<!-- end -->", "no block 3"),
        ("\n<!-- plot circle -->", "line 2: there is no plot circle"),
        ("<!-- how nobody -->", "line 1: there is no section nobody"),
        ("<!-- measured peers two -->", "is no directive"),
    ],
)
def test_a_wrong_template_is_refused_with_the_line(template, message):
    with pytest.raises(DocumentError, match=message):
        rendered(template)


def elements(text, tag, kind):
    root = ElementTree.fromstring(text)
    return [each for each in root.iter(f"{{http://www.w3.org/2000/svg}}{tag}") if kind in each.get("class", "")]


def test_bars_are_as_long_as_their_values():
    bars = elements(svg.bars("A & B", [("<one>", 4e6, True), ("two", 1e6, False)]), "rect", "f")
    one, two = (float(bar.get("width")) for bar in bars)
    assert one == pytest.approx(4 * two, rel=0.01)


def test_lines_go_up_with_their_values_by_decades():
    text = svg.lines("Rate", "bytes", "records/s", [("ours", [(1, 10), (10, 100), (100, 1000)]), ("theirs", [(1, 10)])])
    heights = [float(dot.get("cy")) for dot in elements(text, "circle", "f0")]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert heights[0] > heights[1]


def test_labels_at_the_ends_of_lines_do_not_overlap():
    placed = dict(svg.spread([("a", 100.0), ("b", 101.0), ("c", 90.0)]))
    assert placed["c"] == 90
    assert abs(placed["a"] - placed["b"]) >= 16


@pytest.mark.parametrize(("value", "text"), [(7, "7"), (30_000, "30 k"), (1_230_000, "1.23 M"), (0.5, "0.5")])
def test_a_figure_is_short(value, text):
    assert svg.short(value) == text


def test_a_linear_axis_begins_at_zero_and_ends_above_the_highest():
    assert svg.steps(29.5) == [0, 5, 10, 15, 20, 25, 30]
    assert svg.steps(1_900_000) == [0, 500_000, 1_000_000, 1_500_000, 2_000_000]
    assert svg.steps(8.1)[-1] >= 8.1


@pytest.mark.parametrize(("size", "text"), [(64, "64 B"), (1024, "1 KiB"), (262_144, "256 KiB"), (1 << 20, "1 MiB")])
def test_a_size_is_short(size, text):
    assert svg.short_bytes(size) == text
