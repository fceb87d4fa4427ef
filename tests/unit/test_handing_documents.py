"""A document that cannot be made just now is tried again, as one that finds no room in the socket is."""

import errno
import os

from streamfn.mapping import documents
from streamfn.mapping.source import EVENT_HEADER


def test_a_document_waits_for_a_descriptor(monkeypatch):
    def none_left(name, flags):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", none_left)
    assert documents.introduce(None, b"{}", EVENT_HEADER) is None
