"""Isolation as a value, and what a sandbox inherits of an environment."""

import json

import pytest

from streamfn.pool.confine.isolation import Isolation, inherited


def test_it_is_the_same_after_a_message():
    isolation = Isolation(level="sandbox", network=True, readable=("/code",), data_dir="/code/.streamfn")
    assert Isolation.from_json(json.loads(json.dumps(isolation.to_json()))) == isolation


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="one of process, sandbox, not 'vm'"):
        Isolation(level="vm")


def test_a_sandbox_inherits_what_is_on_the_list_and_no_secret():
    environment = {
        "PATH": "/usr/bin", "LANG": "C.UTF-8", "LC_TIME": "de_DE", "SSL_CERT_FILE": "/etc/ssl/cert.pem",
        "PYTHONPATH": "/p", "AWS_REGION": "eu-west-1", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t",
        "AWS_PROFILE": "p", "GITHUB_TOKEN": "g", "HTTPS_PROXY": "http://me:secret@proxy", "HOME": "/root",
        "SSH_AUTH_SOCK": "/run/ssh", "STREAMFN_DATA_DIR": "/data", "TMPDIR": "/var/tmp",
    }  # fmt: skip
    assert set(inherited(environment)) == {
        "PATH", "LANG", "LC_TIME", "SSL_CERT_FILE", "PYTHONPATH", "AWS_REGION",
    }  # fmt: skip
