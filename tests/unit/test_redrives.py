"""What a store keeps of redrives: whose they are, and which discards are done, under way, or left."""

import sqlite3

import pytest
from test_store import FAILED, FixedClock, bind, make_older, offsets

from streamfn.errors import Fenced
from streamfn.state.store import Store

WHOLE = FAILED.failure._replace(offsets=None)


@pytest.fixture
def clock():
    return FixedClock()


@pytest.fixture
def store(tmp_path, clock):
    with Store.open(tmp_path / "state.db", create=True, clock=clock) as store:
        yield store


def discard(store, uuid, first, shard="shard-0"):
    """Discard three records of a mapping from an offset on; returns the row's id."""
    row = FAILED._replace(shard_id=shard, first_offset=first, end_offset=first + 3, failure=WHOLE)
    store.commit(uuid, store.acquire(uuid), {shard: (first + 3, None)}, [row])
    return store.discards(uuid)[-1].id


def opened(store, uuid):
    redrive = store.open_redrive(uuid)
    return redrive.uuid, store.acquire(redrive.uuid)


def marks(store, uuid):
    return [(row.redriven_ms, row.redriving) for row in store.discards(uuid)]


def test_a_redrive_is_configured_as_its_mapping_is_by_then_and_nobody_can_name_it(store):
    uuid = bind(store).mapping.uuid
    assert store.redrive_of(uuid) is None
    first = store.open_redrive(uuid)
    assert (first.stream_id, first.handler, first.code_dir, first.options) == (
        "id-1", "mod.handler", "/code", {"batch_size": 100},
    )  # fmt: skip
    bind(store, handler="mod.mended", options={"batch_size": 7})
    again = store.open_redrive(uuid)
    assert again == first._replace(handler="mod.mended", options={"batch_size": 7})
    assert store.redrive_of(uuid) == again.uuid
    assert [one.name for one in store.mappings()] == ["m"]
    assert {one.uuid for one in store.mappings(redrives_too=True)} == {uuid, again.uuid}
    assert again.title == "redrive of mod.mended@s"
    assert not again.name.isprintable()


def test_discards_are_left_then_under_way_then_redriven_and_later_ones_are_left(store, clock):
    uuid = bind(store).mapping.uuid
    ids = [discard(store, uuid, 10), discard(store, uuid, 20)]
    redrive, epoch = opened(store, uuid)
    assert marks(store, uuid) == [(None, False), (None, False)]
    store.begin_pass(redrive, epoch, ids, {"shard-0": 10})
    assert offsets(store, redrive) == {"shard-0": 10}
    later = discard(store, uuid, 30)
    assert marks(store, uuid) == [(None, True), (None, True), (None, False)]
    clock.ms = 9_000
    store.finish_pass(redrive, epoch)
    assert marks(store, uuid) == [(9_000, False), (9_000, False), (None, False)]
    store.begin_pass(redrive, epoch, [later], {"shard-0": 3})  # back: another lane may have been slower
    assert offsets(store, redrive) == {"shard-0": 3}
    assert offsets(store, uuid)["shard-0"] == 33


def test_what_fails_again_is_left_for_the_next_pass_and_listed_with_the_mappings_own(store):
    uuid = bind(store).mapping.uuid
    first = discard(store, uuid, 10)
    redrive, epoch = opened(store, uuid)
    store.begin_pass(redrive, epoch, [first], {"shard-0": 10})
    store.commit(
        redrive, epoch, {"shard-0": (13, None)}, [FAILED._replace(first_offset=10, end_offset=13, failure=WHOLE)]
    )
    store.finish_pass(redrive, epoch)
    rows = store.discards(uuid)
    assert [row.discard.first_offset for row in rows] == [10, 10]
    assert [row.redriven_ms is not None for row in rows] == [True, False]
    assert store.pending_count(uuid) == store.pending_count(redrive) == 1  # each is carried by who discarded it


def test_of_two_mappings_the_discards_of_one_are_redriven(store):
    one, other = bind(store, "one").mapping.uuid, bind(store, "other").mapping.uuid
    mine, theirs = discard(store, one, 10), discard(store, other, 10)
    for uuid, ids in ((one, [mine]), (other, [theirs])):
        redrive, epoch = opened(store, uuid)
        store.begin_pass(redrive, epoch, ids, {"shard-0": 10})
    store.finish_pass(store.redrive_of(one), 1)
    assert (marks(store, one), marks(store, other)) == ([(1_000, False)], [(None, True)])


def test_an_older_owner_neither_begins_nor_finishes_a_pass(store):
    uuid = bind(store).mapping.uuid
    ids = [discard(store, uuid, 10)]
    redrive, old = opened(store, uuid)
    store.acquire(redrive)
    with pytest.raises(Fenced):
        store.begin_pass(redrive, old, ids, {"shard-0": 10})
    with pytest.raises(Fenced):
        store.finish_pass(redrive, old)
    assert marks(store, uuid) == [(None, False)]


@pytest.mark.parametrize("how", ["forgotten", "removed", "its stream was imported again"])
def test_a_redrive_goes_with_its_mapping_and_with_its_stream(store, how):
    uuid = bind(store).mapping.uuid
    ids = [discard(store, uuid, 10)]
    redrive, epoch = opened(store, uuid)
    store.begin_pass(redrive, epoch, ids, {"shard-0": 10})
    if how == "forgotten":
        store.forget("m")
    elif how == "removed":
        store.remove(uuid)
    else:
        bind(store, stream_id="id-2")
    with pytest.raises(Fenced):
        store.commit(redrive, epoch, {"shard-0": (13, None)})
    assert store.discards(uuid) == []
    if how != "its stream was imported again":
        with pytest.raises(Fenced):
            store.open_redrive(uuid)
        return
    assert store.redrive_of(uuid) is None
    discard(store, uuid, 10)  # which may have been given the number of one that is gone
    assert marks(store, uuid) == [(None, False)]


def test_version_4_is_brought_up_to_date_and_is_read_as_it_is(tmp_path):
    path = tmp_path / "state.db"
    uuid = make_older(path, 4)
    with Store.open(path, create=False, read_only=True) as store:
        assert (store.discards(uuid), store.redrive_of(uuid)) == ([], None)
    with Store.open(path, create=False) as store:
        ids = [discard(store, uuid, 10)]
        redrive, epoch = opened(store, uuid)
        store.begin_pass(redrive, epoch, ids, {"shard-0": 10})
        assert marks(store, uuid) == [(None, True)]
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT version FROM format").fetchone() == (5,)
    connection.close()
