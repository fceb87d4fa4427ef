"""Tests of app.py's handler: one event, and a whole mapping in virtual time.  Run them with pytest."""

import app

from streamfn.testing import Raises, Script, record, run_mapping


def test_one_event(kinesis_event, lambda_context):
    event = kinesis_event([{"page": "/", "user": "ann"}, {"page": "/", "user": "bob"}, {"page": "/faq", "user": "bob"}])
    assert app.handler(event, lambda_context) == {"/": 2, "/faq": 1}


def test_a_mapping_delivers_in_batches():
    clicks = [record({"page": "/", "user": str(number)}, partition_key=str(number)) for number in range(250)]
    result = run_mapping(app.handler, clicks, batch_size=100)
    assert [batch.response for batch in result.batches] == [{"/": 100}, {"/": 100}, {"/": 50}]
    assert result.checkpoints[-1].offset == 250


def test_a_click_without_a_page_is_given_up_and_its_neighbours_are_not():
    clicks = [{"page": "/"}, {"user": "ann"}, {"page": "/faq"}]
    result = run_mapping(app.handler, clicks, maximum_retry_attempts=1, bisect_batch_on_function_error=True)
    assert [each.attempts for each in result.discarded] == [2]
    assert sum(len(batch.records) for batch in result.batches if batch.outcome == "succeeded") == 2


def test_retries_wait_in_virtual_time():
    result = run_mapping(Script(*[Raises(ConnectionError("down"))] * 8), [{"page": "/"}])
    assert [batch.attempt for batch in result.batches] == list(range(1, 10))
    assert result.seconds > 5
