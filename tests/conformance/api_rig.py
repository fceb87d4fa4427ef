"""A group of commands that is an API: answers as objects, refusals as what the CLI says."""

import json

from streamfn.cli import app


class Api:
    """`streamfn GROUP ...` in this process; a subclass names the group."""

    group = ""

    def __init__(self, directory, capsys):
        self.data = directory / "data"
        self._capsys = capsys

    def __call__(self, *arguments):
        code, out, err = self.said(*arguments)
        assert code == 0, err
        return json.loads(out)

    def said(self, *arguments):
        self._capsys.readouterr()
        code = app.run([self.group, *map(str, arguments), "--data-dir", str(self.data)])
        return code, *self._capsys.readouterr()

    def refused(self, *arguments):
        """The one line with which a request is refused."""
        code, out, err = self.said(*arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1), err
        return err.removeprefix("streamfn: error: ").rstrip("\n")


def refusal(kind, operation, reason):
    return f"An error occurred ({kind}) when calling the {operation} operation: {reason}"
