"""The HTML report: one page that needs nothing else, and says what the result says."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_results import one_row, row, thirty_rows

from streamfn.errors import FailedError
from streamfn.measure.counts import Counts
from streamfn.measure.report import html, write_html
from streamfn.measure.result import Result, Sample
from streamfn.measure.scales import shown_number, shown_time

VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """What the tests ask of a page: its tags, balanced, with their attributes; its text; what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.classes: Counter[str] = Counter()
        self.loads: list[str] = []
        self.numbers: list[float] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "class":
                self.classes.update((value or "").split())
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.loads.append(value or "")
            if name in ("d", "x", "y", "cx", "cy"):
                self.numbers += [float(number) for number in re.findall(r"-?[0-9.]+", value or "")]
            assert not name.startswith("on"), f"{name} in {tag}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)


@pytest.mark.parametrize("result", [one_row(), thirty_rows()], ids=["one row", "thirty rows"])
def test_a_page_is_whole_and_asks_for_nothing(result: Result) -> None:
    text = html(result)
    page = Page(text)
    assert page.loads == ["data:,"]
    assert not page.tags.keys() & {"script", "iframe", "img", "object", "embed", "form"}
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import|https?:", text)
    assert all(-6 <= number <= 600 for number in page.numbers)
    assert len(text) < 150_000


def test_the_figures_are_those_of_the_result() -> None:
    result = one_row()
    only = result.rows[0]
    text = Page(html(result)).text
    for percent in (50, 99, 99.9, 100):
        assert shown_time(only.latency.percentile(percent)) in text
    assert f"{shown_number(only.rate_achieved)} of 50k offered" in text
    assert f"{only.records:,}" in text
    for name, counts in only.stages.items():
        assert re.search(rf"{name} .*{shown_time(counts.percentile(99))}", text)
    assert "19.3 µs runtime 900 ns, workers 18.4 µs" in text
    assert "peak memory, workers 92 MiB" in text
    assert "processor AMD EPYC 9R14 cores 2 in all, 2 usable virtual yes" in text
    assert "memory 23.5 GiB" in text
    assert "longest pause 410 µs" in text


def test_a_ramp_is_offered_as_one() -> None:
    level, ramp = row(), replace(row(), rate_offered=50_000.0, ramp=(20_000.0, 80_000.0))
    lines = [re.search(r'class="offered" d="M\S+ (\S+)L\S+ (\S+)"', html(Result([each]))) for each in (level, ramp)]
    flat, rising = [[float(y) for y in line.groups()] for line in lines if line]
    assert flat[0] == flat[1]
    assert rising[0] > rising[1]  # from the bottom to the top
    assert "of 20k to 80k offered" in html(Result([ramp]))


def test_thresholds_say_whether_they_were_met() -> None:
    page = Page(html(one_row()))
    assert (page.classes["met"], page.classes["missed"]) == (2, 1)
    assert re.search(r"missed p99<50ms : [\d.]+ ms", page.text)


def test_a_noisy_machine_is_said_to_be_noisy_before_any_figure() -> None:
    text = Page(html(one_row())).text
    assert text.index("31% of its 2 cores' time went elsewhere") < text.index("Records per second")
    assert "noisy" not in Page(html(thirty_rows())).text


def test_a_closed_loop_says_what_its_latency_is_not() -> None:
    assert "Open loop" in html(one_row())
    closed = html(thirty_rows())
    assert "Closed loop" in closed
    assert "Open loop" not in closed


def test_a_sweep_marks_its_best_row_in_the_table_and_in_both_maps() -> None:
    result = thirty_rows()
    page = Page(html(result))
    best = result.rows[result.best]
    assert page.classes["other"] == 29 + 1  # and the key
    assert page.classes["best"] == 1 + 2
    assert page.text.count("★") == 1
    assert f"★ {best.batch_size:,} {best.workers} 128 B {shown_number(best.rate_achieved)}" in page.text
    assert page.classes["heat"] == 4  # records per second and p99, for each number of workers
    assert "Records per second · workers 2" in page.text


def test_a_map_of_one_setting_is_a_line_and_what_was_not_measured_is_left_open() -> None:
    line = [row(batch_size=batch, seed=batch) for batch in (1, 10)]
    page = Page(html(Result(line, 1)))
    assert page.classes["heat"] == 2
    assert page.classes["none"] == 0
    corner = [*line, row(batch_size=10, workers=1)]
    assert Page(html(Result(corner, 1))).classes["none"] == 2


def test_a_row_without_latencies_is_left_open_in_the_map_of_p99() -> None:
    quick = replace(row(batch_size=10_000), latency=Counts())
    page = Page(html(Result([row(), quick], 0)))
    assert page.classes["heat"] == 2
    assert page.classes["none"] == 1
    assert Page(html(Result([quick, replace(quick, workers=1)], 0))).classes["none"] == 2


def test_one_row_has_no_map_and_no_table_of_rows() -> None:
    page = Page(html(one_row()))
    assert page.classes["heat"] == page.classes["best"] == 0


def test_where_nothing_was_finished_the_page_says_so() -> None:
    nothing = Sample(0, 0.1, Counts())
    empty = replace(row(), records=0, batches=0, latency=Counts(), stages={"handler": Counts()}, samples=[nothing] * 3)
    text = Page(html(Result([empty]))).text
    assert "No record was finished while it was measured." in text
    assert "Where the time goes" not in text


def test_a_run_without_samples_has_no_charts_over_time() -> None:
    assert "over time" not in html(Result([replace(row(), samples=())]))


@pytest.mark.parametrize("number", [1, 2, 149, 150, 151, 10_000])
def test_any_number_of_intervals_makes_a_chart(number: int) -> None:
    sample = Sample(10, 0.01, Counts.of_values([1000, 2000]))
    page = Page(html(Result([replace(row(), samples=[sample] * number)])))
    assert "Throughput over time" in page.text
    assert all(-6 <= each <= 600 for each in page.numbers)


def test_names_from_outside_cannot_become_markup() -> None:
    evil = '"><script>alert(1)</script>&'
    hostile = replace(
        row(), handler=evil, source={"kind": evil, "name": evil}, stages={evil: Counts.of_values([5])},
        context_switches={evil: 3}, page_faults={evil: 3}, peak_memory_bytes={evil: 3},
    )  # fmt: skip
    noise = {"noisy": True, "reasons": [evil], "wakeup_ms": {evil: 1.0}}
    where = {"cpu": evil, "governor": evil, "versions": {evil: evil}}
    page = Page(html(Result([hostile, replace(hostile, batch_size=7)], 0, where, noise)))
    assert not page.tags["script"]
    assert page.text.count(evil) >= 8


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write_html(tmp_path / "report.html", one_row())
    assert (tmp_path / "report.html").read_text() == html(one_row())
    with pytest.raises(FailedError, match=r"absent/report\.html cannot be written"):
        write_html(tmp_path / "absent" / "report.html", one_row())
