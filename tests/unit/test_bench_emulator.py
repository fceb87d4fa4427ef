"""The stand-in for AWS's emulator that `bench.peers` measures AWS's runtime client behind."""

import http.client
import os
import subprocess
import sys

import pytest

from bench.peers.emulator import CALLER

pytest.importorskip("awslambdaric")


@pytest.fixture
def caller(tmp_path):
    """A connection to an emulator with AWS's runtime client behind it."""
    (tmp_path / "app.py").write_text(
        "def handler(event, context):\n    return {'seen': event, 'id': context.aws_request_id}\n"
    )
    emulator = subprocess.Popen([sys.executable, "-m", "bench.peers.emulator"], stdout=subprocess.PIPE)
    port = int(emulator.stdout.readline())
    environment = {**os.environ, "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}"}
    environment |= {"AWS_LAMBDA_FUNCTION_NAME": "f", "AWS_LAMBDA_FUNCTION_VERSION": "1"}
    environment |= {"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128"}
    runtime = subprocess.Popen([sys.executable, "-m", "awslambdaric", "app.handler"], cwd=tmp_path, env=environment)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    yield connection
    connection.close()
    for process in (runtime, emulator):
        process.kill()
        process.wait()
    emulator.stdout.close()


def test_the_runtime_client_answers_each_event_in_turn(caller):
    answers = []
    for number in range(3):
        caller.request("POST", CALLER, b'{"n": %d}' % number)
        response = caller.getresponse()
        assert response.status == 200
        answers.append(response.read())
    assert answers == [
        b'{"seen": {"n": %d}, "id": "00000000-0000-4000-8000-%012d"}' % (number, number + 1) for number in range(3)
    ]


def test_another_path_is_not_found(caller):
    caller.request("GET", "/somewhere")
    assert caller.getresponse().status == 404
