"""What `streamfn bench` makes of its options."""

import re
import subprocess
import sys

import pytest

from streamfn.cli.bench import load_of
from streamfn.errors import RefusedError


def test_the_load_that_is_not_said_is_as_fast_as_possible():
    load = load_of(None, None, None, None, False, None)
    assert (load.is_closed, load.duration_s, load.warmup_s) == (True, 10, 1)


def test_a_number_of_records_is_all_there_is_unless_a_time_is_said():
    load = load_of(None, None, None, None, False, None, 5000)
    assert (load.is_closed, load.duration_s, load.warmup_s) == (True, 86_400, 0)
    load = load_of(1000.0, None, None, None, False, None, 5000)
    assert (load.duration_s, load.warmup_s, load.records) == (5, 0, 5000)
    load = load_of(1000.0, None, 2.0, 1.0, False, None, 5000)
    assert (load.duration_s, load.warmup_s, load.records) == (2, 1, 3000)


def test_a_ramp_has_no_warm_up_and_its_two_rates():
    load = load_of(None, "1k:50k", 20.0, None, False, None)
    assert (load.rate, load.ramp_to, load.duration_s, load.warmup_s) == (1_000, 50_000, 20, 0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((5.0, "1:2", None, None, False, None), "--rate and --ramp both say"),
        ((5.0, None, None, None, True, 0.05), "--rate and --find-max both say"),
        ((None, None, None, None, True, None), "--find-max needs the limit"),
        ((None, None, None, None, False, 0.05), "--latency-p99 goes with --find-max"),
        ((None, "5k", None, None, False, None), "--ramp takes FROM:TO, such as 1k:50k, not '5k'"),
        ((None, "5k:max", None, None, False, None), "--ramp: 'max' is not a rate"),
        ((None, "1:2", None, 1.0, False, None), "--warmup does not go with --ramp"),
        ((None, None, 0.0, None, False, None), "--duration 0s is not above 0"),
        ((None, None, 1e6, None, False, None), "--duration 1e+06s is not above 0 and at most 86400s"),
        ((None, None, None, None, True, 0.0), "--latency-p99 0ms must be above 0"),
    ],
)
def test_options_that_do_not_go_together_are_named(given, said):
    with pytest.raises(RefusedError, match=re.escape(said)):
        load_of(*given)


def test_nothing_that_starts_a_thread_is_imported_before_signals_are_heeded():
    """pyarrow does: its thread would take a Ctrl-C, and a benchmark would end without what it had measured."""
    code = (
        "import sys; import streamfn.cli.benching; from streamfn.cli.bench import recipes_of; "
        "recipes_of((100,), 10, 'zipf', None, 1); sys.exit('pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
