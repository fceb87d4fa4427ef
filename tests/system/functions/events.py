"""A handler that writes down whole events, as lines of JSON."""

import json
import os


def keep(event, context):
    line = (json.dumps(event) + "\n").encode()
    descriptor = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    assert os.write(descriptor, line) == len(line)
    os.close(descriptor)
