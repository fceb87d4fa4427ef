"""The store of the simulation is the real one's model: the same calls, the same answers."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from streamfn.errors import Fenced
from streamfn.state.store import Store
from streamfn.testing.memory import MemoryStore

CALLS = st.one_of(
    st.just(("acquire", 0, {})),
    st.tuples(
        st.just("commit"),
        st.integers(0, 4),
        st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 20), max_size=2),
    ),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(CALLS, max_size=20))
def test_sqlite_and_memory_answer_alike(calls: list[tuple[str, int, dict[str, int]]]) -> None:
    starts = {"a": 3, "b": 0}
    model = MemoryStore(starts)
    with TemporaryDirectory() as directory, Store.open(Path(directory) / "db", create=True) as store:
        uuid = store.bind(
            "m", stream_id="i", stream_name="s", handler="h", code_dir="/", options={}, starts=starts
        ).mapping.uuid
        for call, epoch, offsets in calls:
            if call == "acquire":
                assert store.acquire(uuid) == model.acquire()
                continue
            refused = []
            for target in (model, store):
                try:
                    if isinstance(target, Store):
                        target.commit(uuid, epoch, {shard: (at, None) for shard, at in offsets.items()})
                    else:
                        target.commit(epoch, offsets)
                    refused.append(False)
                except Fenced:
                    refused.append(True)
            assert refused[0] == refused[1]
            found = store.checkpoints(uuid)
            assert {shard: checkpoint.offset for shard, checkpoint in found.items()} == model.offsets
