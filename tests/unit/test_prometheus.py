"""The text that a scrape is answered with, read by Prometheus' own Python parser."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from streamfn.measure.prometheus import Distribution, Family, HistogramFamily, number, render


def read(*families: Family | HistogramFamily) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(render(families).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")))
def test_a_label_says_whatever_a_name_may_hold(text: str) -> None:
    family = Family("f", "What it is.")
    family.add(1, name=text)
    assert read(family) == {"f": [({"name": text}, 1.0)]}


@given(st.floats() | st.integers(-(2**60), 2**60) | st.booleans())
def test_a_number_is_read_as_it_is(value: float) -> None:
    found = float(number(value))
    assert found == float(value) or (math.isnan(value) and math.isnan(found))


def test_a_help_may_have_lines_and_backslashes() -> None:
    family = Family("f", "one\\two\nthree")
    family.add(1)
    assert render([family]) == b"# HELP f one\\\\two\\nthree\n# TYPE f gauge\nf 1\n"


def test_a_histogram_has_cumulative_buckets_up_to_infinity_a_sum_and_a_count() -> None:
    family = HistogramFamily("h_seconds", "What it is.")
    family.add(Distribution((0.5, 1.0), (3, 4), 9, 12.5), name="a")
    labels = {"name": "a"}
    assert read(family) == {
        "h_seconds_bucket": [({**labels, "le": "0.5"}, 3), ({**labels, "le": "1"}, 4), ({**labels, "le": "+Inf"}, 9)],
        "h_seconds_sum": [(labels, 12.5)],
        "h_seconds_count": [(labels, 9)],
    }


@pytest.mark.parametrize("family", [Family("f", "x"), HistogramFamily("h", "x")], ids=["gauge", "histogram"])
def test_what_has_no_samples_is_left_out(family: Family | HistogramFamily) -> None:
    assert render([family]) == b""


def test_a_name_that_is_no_unicode_is_shown_escaped_and_breaks_nothing() -> None:
    family = Family("f", "x")
    family.add(1, name="\udc80")
    assert b'name="\\udc80"' in render([family])
