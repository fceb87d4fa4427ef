"""REPORT and INIT_REPORT as Lambda writes them, and what a run would have cost."""

from __future__ import annotations

import pytest

from streamfn._native import lib
from streamfn.errors import HandlerImportError
from streamfn.functions import prices
from streamfn.functions.starting import named
from streamfn.mapping.billing import Bill
from streamfn.mapping.logs import Usage, billed_ms, init_report_line, report_line
from streamfn.measure.histogram import new_histogram
from streamfn.pool.confine.limits import Limits

MS = 1_000_000


def test_a_first_invocation_has_its_environments_init_and_is_billed_for_it() -> None:
    line = report_line("7c92", 3_010_000, Usage(128, 36, init_ns=110_100_000))
    assert line == (
        "REPORT RequestId: 7c92\tDuration: 3.01 ms\tBilled Duration: 114 ms\tMemory Size: 128 MB\t"
        "Max Memory Used: 36 MB\tInit Duration: 110.10 ms\t\n"
    )


def test_a_later_invocation_has_none() -> None:
    assert report_line("7c92", 3_010_000, Usage(128, 36)) == (
        "REPORT RequestId: 7c92\tDuration: 3.01 ms\tBilled Duration: 4 ms\tMemory Size: 128 MB\t"
        "Max Memory Used: 36 MB\t\n"
    )


def test_a_restored_environment_says_how_long_that_took() -> None:
    line = report_line("7c92", 2 * MS, Usage(512, 40, init_ns=900 * MS, restore_ns=4_200_000))
    assert line.endswith(
        "Billed Duration: 2 ms\tMemory Size: 512 MB\tMax Memory Used: 40 MB\tRestore Duration: 4.20 ms\t"
        "Billed Restore Duration: 5 ms\t\n"
    )


def test_without_a_memory_size_there_is_no_number_to_say() -> None:
    assert "\tMemory Size: no limit\t\n" in report_line("7c92", MS, Usage(None, None))


@pytest.mark.parametrize(("ns", "ms"), [(0, 0), (1, 1), (MS, 1), (MS + 1, 2), (1_999_999, 2)])
def test_a_millisecond_that_has_begun_is_billed(ns: int, ms: int) -> None:
    assert billed_ms(ns) == ms


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("Runtime.ImportModuleError", "Status: error\tError Type: Runtime.ImportModuleError\n"),
        ("Sandbox.Timedout", "Status: timeout\n"),
    ],
)
def test_an_init_that_failed_is_reported(kind: str, ending: str) -> None:
    error = HandlerImportError("x", {"errorType": kind})
    error.init_ns = 1_236_040_000
    assert init_report_line(error) == f"INIT_REPORT Init Duration: 1236.04 ms\tPhase: init\t{ending}"


def test_what_is_known_of_an_init_stays_known_when_its_handler_is_named() -> None:
    error = HandlerImportError("no module", {"errorType": "Runtime.ImportModuleError"}, b"printed")
    error.init_ns, error.phase = 1_000_000, "invoke"
    told = named(error, "app.handler")
    assert str(told) == "cannot load handler 'app.handler': no module"
    assert told.log == b"printed"
    assert "Init Duration: 1.00 ms\tPhase: invoke\tStatus: error" in init_report_line(told)


def test_an_error_type_cannot_forge_a_line() -> None:
    error = HandlerImportError("x", {"errorType": "A\nREPORT RequestId: forged"})
    error.init_ns = 1
    assert init_report_line(error).endswith("Error Type: A\\x0aREPORT RequestId: forged\n")
    assert init_report_line(HandlerImportError("x", {})) == ""


def test_the_price_is_that_of_memory_times_time_and_of_each_request() -> None:
    rates = prices.RATES["x86_64"]
    usd = prices.estimate_usd(rates, requests=1_000_000, billed_ms=100_000_000, memory_mb=512, storage_mb=512)
    assert prices.gb_seconds(100_000_000, 512) == 50_000
    assert usd == pytest.approx(0.20 + 50_000 * 0.0000166667)
    more = prices.estimate_usd(rates, requests=1_000_000, billed_ms=100_000_000, memory_mb=512, storage_mb=1536)
    assert more - usd == pytest.approx(100_000 * 0.0000000309)


def test_a_bill_has_what_was_answered_and_what_was_ended_from_outside() -> None:
    durations = new_histogram()
    bill = Bill(durations, Limits(memory_mb=1024))
    for ns in (1, MS, 2_500_000):
        lib.sf_histogram_record(durations, ns)
    bill.ended(3000 * MS + 1)
    assert bill.total().billed_duration_ms == 1 + 1 + 3 + 3001
    assert bill.total().gb_seconds == pytest.approx(3.006)
    assert bill.total().estimated_price_usd == pytest.approx(3.006 * prices.rates().gb_second + 4 * 0.20 / 1e6)
    assert Bill(durations, Limits()).total() == (5, None, None)


def test_many_short_durations_are_each_rounded_up() -> None:
    durations = new_histogram()
    for _ in range(1000):
        lib.sf_histogram_record(durations, 10_000)
    assert Bill(durations, Limits()).total().billed_duration_ms == 1000
