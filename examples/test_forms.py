"""Tests of enrich.py's and columns.py's handlers, which need no event loop and no stream.  Run them with pytest."""

import columns
import enrich

from streamfn.testing import run_mapping


def test_a_visitor_is_looked_up_once():
    visits = [{"user": user} for user in ("ann", "bob", "ann", "bob")]
    result = run_mapping(enrich.Enrich, visits, batch_size=2)
    assert [batch.response[-1] for batch in result.batches] == [2, 2]
    assert [batch.seconds for batch in result.batches] == [0.01, 0]  # of virtual time


def test_means_are_those_of_the_sensors(kinesis_batch, kinesis_event, lambda_context):
    readings = [columns.reading(number) for number in range(6)]
    means = {"sensor-0": 0.75, "sensor-1": 1.25, "sensor-2": 1.75}
    assert columns.handler(kinesis_batch(readings), lambda_context) == means
    assert columns.handler(kinesis_event(readings), lambda_context) == means  # as Lambda would call it
