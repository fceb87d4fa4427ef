"""A mapping of the handler `mended.handler` whose failures are planted, mended and redriven."""

import json
from contextlib import contextmanager

from run_rig import FUNCTIONS

from streamfn.log.shard.cursor import ShardCursor
from streamfn.state.store import Store
from streamfn.sync import open_sync

HANDLER = "mended.handler"
NAME = f"{HANDLER}@s"


class Mended:
    """What the handler of a place fails on, and what it has handled."""

    def __init__(self, place):
        self.place = place

    def bad(self, pattern):
        """From now on it fails on these; "" on none."""
        (self.place.notes / "bad").write_text(pattern)

    def takes(self, seconds):
        """How long each of its invocations takes."""
        (self.place.notes / "takes").write_text(str(seconds))

    @property
    def invocations(self):
        """Each invocation that succeeded since `forget`, as the handler noted it."""
        path = self.place.notes / "noted"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def handled(self):
        """The contents of every record that succeeded, in the order they did."""
        return [content for one in self.invocations for content in one["contents"]]

    def forget(self):
        (self.place.notes / "noted").unlink(missing_ok=True)

    @contextmanager
    def session(self):
        """A session of this process, in which the handler finds its files."""
        with open_sync(self.place.data, log=Nothing()) as session:
            yield session

    def fail(self, session, pattern, handler=HANDLER, **options):
        """Run the mapping over all there is, the handler failing on a pattern; then mend it."""
        self.bad(pattern)
        wanted = {"maximum_retry_attempts": 0, "bisect_batch_on_function_error": True, "workers": 2, **options}
        result = session.run_until_caught_up(handler, "s", code_dir=FUNCTIONS, **wanted)
        self.bad("")
        self.forget()
        return result

    def discards(self, name=NAME):
        with Store.open(self.place.data / "state.db", create=False) as store:
            return store.discards(store.find(name).uuid)

    def rows(self, shard):
        with ShardCursor(shard, 0, None) as cursor:
            return list(cursor)

    def checkpoints(self, name=NAME):
        return self.place.checkpoints(name)


class Nothing:
    def write(self, text):
        pass
