"""Runs of a part of a stream, in this process: from given offsets to given ends, with a store of their own."""

from contextlib import asynccontextmanager

from run_rig import FUNCTIONS

from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping.options import RunOptions
from streamfn.mapping.runtime import open_runtime


class Said:
    """A log that keeps what it is given."""

    def __init__(self):
        self.text = ""

    def write(self, text, *, ours=False):
        self.text += text


@asynccontextmanager
async def ranged(place, handler="seen.handler", *, starts=None, store="apart", said=None, **options):
    """An open mapping on the stream `s`; its store is a file beside the data, or with `store` None the data's own."""
    environment = {"NOTES": str(place.notes), "SEEN": str(place.seen)}
    options = RunOptions(handler=handler, stream="s", workers=1, environment=environment, **options)
    path = None if store is None else place.root / store / "state.db"
    if path is not None:
        path.parent.mkdir(exist_ok=True)
    async with open_runtime(DataDir.open(place.data, create=False), said or Said(), store_path=path) as runtime:
        mapping = await runtime.mapping(options, code_dir=FUNCTIONS, starts=starts)
        yield mapping
