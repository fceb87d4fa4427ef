"""A worker's main that answers every entry at once: what the rings cost, and nothing else."""

import os

from streamfn._native import ffi, lib


def init(settings):
    return None


def main(state, seat):
    work = ffi.new("sf_work *")
    while True:
        kind = lib.sf_desk_next(seat.desk, work, 100_000_000)
        if kind == lib.SF_NEXT_INVOKE:
            lib.sf_desk_finish(seat.desk, lib.SF_OK, b"null", 4)
        elif kind == lib.SF_NEXT_LOST:
            os._exit(1)
