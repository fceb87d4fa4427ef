"""What Prometheus is told of a run, of all mappings, and of a session."""

import http.client
import os
import re
import socket
from functools import partial
from pathlib import Path

import pytest
import trio
from library_rig import FUNCTIONS, nothing_left
from prometheus_client.parser import text_string_to_metric_families
from run_rig import until
from trio.testing import trio_test

import streamfn
from streamfn.cli import app
from streamfn.mapping import metering

NAMES = re.compile(r"`(?:streamfn|process)_[a-z_]+`")


def ask(url, method="GET", path="/metrics"):
    """Status, headers and body of an answer."""
    host, port = re.fullmatch(r"http://(.+):(\d+)/metrics", url).groups()
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


class Scrape:
    """The samples of one scrape, each name with its labels once."""

    def __init__(self, url):
        status, headers, body = ask(url)
        assert status == 200
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        self.families = list(text_string_to_metric_families(body.decode()))
        self.samples = {}
        for family in self.families:
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                assert key not in self.samples, f"{key} twice"
                self.samples[key] = sample.value

    def values(self, name, **labels):
        """The samples of that name with these labels, and perhaps others."""
        return [value for (each, has), value in self.samples.items() if each == name and labels.items() <= set(has)]

    def value(self, name, **labels):
        """The only one."""
        (found,) = self.values(name, **labels)
        return found


def url_of(process):
    return process.says(r"metrics at (http://\S+)")[1]


def scraped_when(url, **wanted):
    """A scrape in which samples are as wanted; names without `streamfn_`."""

    def found():
        scrape = Scrape(url)
        return scrape if all(scrape.values(f"streamfn_{name}") == [value] for name, value in wanted.items()) else None

    return until(found, wanted)


def test_a_run_tells_what_it_has_done_and_what_it_waits_for(place):
    place.stream(contents=["good"] * 30 + ["poison"] * 2)
    with place.following("failing.poison", "--batch-size", 10, "--name", 'a"b', "--metrics-port", 0) as process:
        url = url_of(process)
        scrape = scraped_when(url, records_processed_total=30, lanes_retrying=1)
        assert scrape.value("streamfn_batches_processed_total", mapping='a"b', function="failing-poison") == 3
        errors, invocations = (scrape.value(f"streamfn_{n}_total") for n in ("invocation_errors", "invocations"))
        assert errors >= 1
        assert invocations == 3 + errors
        assert scrape.value("streamfn_invocation_duration_seconds_count") == invocations
        assert 0 < scrape.value("streamfn_invocation_duration_seconds_sum") < 10 * invocations
        assert scrape.value("streamfn_invocation_latency_seconds_bucket", le="+Inf") == invocations
        assert scrape.value("streamfn_lag_records", shard="shardId-000000000000") == 2
        assert scrape.value("streamfn_iterator_age_seconds", shard="shardId-000000000000") > 0
        assert scrape.value("streamfn_workers_max") >= 1
        assert scrape.value("streamfn_mapping_info", stream="s") == 1
        assert scrape.value("streamfn_build_info", version=streamfn.__version__) == 1
        # Event counts are the store's: they come with its commits.
        later = scraped_when(url, invocation_retries_total=1.0)
        assert later.value("streamfn_invocation_errors_total") >= 2
        counted = scraped_when(url, polled_events_total=32)
        assert counted.value("streamfn_invoked_events_total") >= 32
        assert counted.value("streamfn_dropped_events_total") == 0


def test_all_mappings_are_told_apart_and_count_on_when_they_are_opened_anew(place, monkeypatch):
    monkeypatch.chdir(FUNCTIONS)
    mapping = ["--data-dir", str(place.data), "mapping"]
    for name in ("s", "t"):
        place.stream(name, contents=["good"] * 3)
        made = ["--function-name", "seen.handler", "--event-source-arn", name, "--starting-position", "TRIM_HORIZON"]
        assert app.run([*mapping, "create", *made, "--name", f"on-{name}"]) == 0
    process = place.start("run", "--metrics-port", 0)
    try:
        url = url_of(process)

        def done(counts):
            return sorted(Scrape(url).values("streamfn_records_processed_total")) == counts

        until(lambda: done([3, 3]), "both mappings")
        assert app.run([*mapping, "update", "on-t", "--batch-size", "7"]) == 0
        place.put(["more"], "t")
        until(lambda: done([3, 4]), "the one that was opened anew")
    finally:
        process.kill()


def test_a_port_that_is_taken_or_none_is_refused_before_anything_is_made(place, capfd):
    place.stream(contents=["good"])
    run = ["run", "seen.handler", "--stream", "s", "--data-dir", str(place.data), "--metrics-port"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert app.run([*run, str(port)]) == 2
    assert capfd.readouterr().err.startswith(f"streamfn: error: the metrics port {port} is in use: choose another one")
    assert app.run([*run, "65536"]) == 2
    assert "'--metrics-port': 65536 is not in the range 0<=x<=65535" in capfd.readouterr().err
    assert not (place.data / "state.db").exists()


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@trio_test
async def test_a_session_counts_over_the_runs_of_a_mapping_and_over_mappings_of_its_name(data):
    with nothing_left():
        async with streamfn.open(data, metrics_port=0) as session:
            scrape = partial(trio.to_thread.run_sync, Scrape, session.metrics_url)
            assert (await scrape()).value("process_open_fds") > 0
            await session.put_many("s", [b"%d" % n for n in range(10)])
            for total in (4, 8):
                options = {"batch_size": 2, "workers": 1, "code_dir": FUNCTIONS}
                async with session.mapping("library.count", "s", **options) as mapping:
                    await mapping.run(limit=2)
                    await mapping.run(limit=2)
                    assert (await scrape()).value("streamfn_records_processed_total") == total
            found = await scrape()
            assert found.value("streamfn_records_processed_total") == 8
            assert found.value("streamfn_invocation_duration_seconds_count") == 4
            assert not found.values("streamfn_lag_records")  # nothing is open any more


@trio_test
async def test_what_is_due_and_finds_no_worker_is_a_throttle(data):
    async with streamfn.open(data, metrics_port=0) as session:
        await session.create_stream("s", shards=4)
        await session.put_many("s", [streamfn.NewRecord(b"x", f"key-{n}") for n in range(40)])
        async with session.mapping("library.sleeper", "s", workers=1, code_dir=FUNCTIONS, timeout=60) as mapping:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mapping.run)
                with trio.fail_after(10):
                    while True:
                        scrape = await trio.to_thread.run_sync(Scrape, session.metrics_url)
                        if scrape.value("streamfn_throttles_total"):
                            break
                        await trio.sleep(0.02)
                assert scrape.value("streamfn_concurrent_executions") == 1
                assert scrape.value("streamfn_workers", state="held_up") == 1
                nursery.cancel_scope.cancel()


@trio_test
async def test_a_session_refuses_what_is_no_port(data):
    for port in (-1, 65536, True, "9464"):
        with pytest.raises(streamfn.RefusedError, match="0 for any that is free, not "):
            async with streamfn.open(data, metrics_port=port):
                pass
    assert not data.exists()


def test_the_page_lists_every_metric_and_no_other_and_the_synchronous_door_has_them(data):
    with streamfn.open_sync(data, metrics_port=0) as session:
        session.put("s", b"x")
        with session.mapping("library.count", "s", workers=1, code_dir=FUNCTIONS) as mapping:
            mapping.run(limit=1)
            families = Scrape(session.metrics_url).families
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    told = [family.name + "_total" * (family.type == "counter") for family in families]
    assert sorted(name.strip("`") for name in set(NAMES.findall(page))) == sorted(told)
    with streamfn.open_sync(data) as session:
        assert session.metrics_url is None


def test_a_scrape_that_fails_is_told_so_and_the_next_one_is_answered(data, monkeypatch):
    with streamfn.open_sync(data, metrics_port=0) as session:
        with monkeypatch.context() as patch:
            patch.setattr(metering.os, "listdir", lambda path: os.open("/nowhere", 0))
            status, _, body = ask(session.metrics_url)
            assert (status, body) == (500, b"[Errno 2] No such file or directory: '/nowhere'\n")
        assert ask(session.metrics_url)[0] == 200


def test_what_is_no_scrape_is_answered_and_ends_nothing(data):
    with streamfn.open_sync(data, metrics_port=0) as session:
        url = session.metrics_url
        assert ask(url, path="/")[2] == b"streamfn's metrics are at /metrics\n"
        assert ask(url, path="/metrics?format=text")[0] == 200
        assert ask(url, path="/favicon.ico")[0] == 404
        status, headers, body = ask(url, "HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["Content-Length"]) > 100
        status, headers, _ = ask(url, "POST")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
        address = url.removeprefix("http://").removesuffix("/metrics").split(":")
        for sent in (b"", b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01" * 7000, b"GET /metrics HTTP/1.1\r\n"):
            with socket.create_connection((address[0], int(address[1])), timeout=10) as raw:
                raw.sendall(sent)
                raw.shutdown(socket.SHUT_WR)
                first = raw.recv(100)
                assert first == b"" or first.startswith(b"HTTP/1.1 400 ")
        assert ask(url)[0] == 200
