"""Mappings and checkpoints: what a store keeps, refuses and says."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamfn.errors import BusyError, DiskFull, FailedError, Fenced, RefusedError
from streamfn.state import discards
from streamfn.state.discards import Discard, StoredDiscard
from streamfn.state.functions import Code, StoredFunction
from streamfn.state.managed import Managed
from streamfn.state.progress import Progress
from streamfn.state.store import Binding, Store, StoredMapping
from streamfn.types import Failure, Window


class FixedClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = 1_000

    def monotonic_ns(self) -> int:
        return self.ms * 1_000_000

    def unix_ms(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def store(tmp_path: Path, clock: FixedClock) -> Iterator[Store]:
    with Store.open(tmp_path / "state.db", create=True, clock=clock) as store:
        yield store


def bind(store: Store, name: str = "m", **changes: object) -> Binding:
    wanted: dict[str, object] = {
        "stream_id": "id-1",
        "stream_name": "s",
        "handler": "mod.handler",
        "code_dir": "/code",
        "options": {"batch_size": 100},
        "starts": {"shard-0": 5, "shard-1": 0},
    }
    return store.bind(name, **(wanted | changes))  # type: ignore[arg-type]


def offsets(store: Store, uuid: str) -> dict[str, int]:
    return {shard: checkpoint.offset for shard, checkpoint in store.checkpoints(uuid).items()}


# ---- mappings ----


def test_first_bind_stores_everything_and_the_second_resumes(store: Store, clock: FixedClock) -> None:
    first = bind(store)
    assert not first.resumed
    assert first.mapping[1:] == (
        "m", "id-1", "s", "mod.handler", "/code", {"batch_size": 100}, 0, 1000, 1000,
    )  # fmt: skip
    assert offsets(store, first.mapping.uuid) == {"shard-0": 5, "shard-1": 0}

    clock.ms = 2_000
    again = bind(store, handler="other.handler", options={"batch_size": 7}, starts={"shard-0": 99})
    assert again.resumed
    assert again.mapping == first.mapping._replace(handler="other.handler", options={"batch_size": 7}, updated_ms=2_000)
    assert offsets(store, first.mapping.uuid) == {"shard-0": 5, "shard-1": 0}


def test_a_shard_that_is_new_gets_its_start(store: Store) -> None:
    uuid = bind(store).mapping.uuid
    bind(store, starts={"shard-0": 99, "shard-2": 3})
    assert offsets(store, uuid) == {"shard-0": 5, "shard-1": 0, "shard-2": 3}


def test_a_name_bound_to_another_stream_is_refused_and_nothing_changes(store: Store) -> None:
    before = bind(store).mapping
    with pytest.raises(RefusedError, match="'m' reads stream 's', not 't'"):
        bind(store, stream_name="t", handler="x.y", stream_id="id-2")
    assert store.mapping("m") == before


def test_a_stream_deleted_and_made_again_is_started_anew(store: Store) -> None:
    first = bind(store).mapping
    epoch = store.acquire(first.uuid)
    store.commit(first.uuid, epoch, {"shard-0": (50, "1")})
    again = bind(store, stream_id="id-2", starts={"shard-0": 0})
    assert not again.resumed
    assert (again.mapping.uuid, again.mapping.epoch) == (first.uuid, epoch)
    assert offsets(store, first.uuid) == {"shard-0": 0}


def test_mappings_are_listed_by_name_and_forgotten_with_their_checkpoints(store: Store) -> None:
    uuid = bind(store, "b").mapping.uuid
    bind(store, "a")
    assert [mapping.name for mapping in store.mappings()] == ["a", "b"]
    assert store.forget("b")
    assert not store.forget("b")
    assert store.mapping("b") is None
    assert store.checkpoints(uuid) == {}
    with pytest.raises(Fenced, match="deleted"):
        store.commit(uuid, 0, {"shard-0": (6, None)})
    with pytest.raises(Fenced, match="deleted"):
        store.acquire(uuid)


# ---- checkpoints ----


def test_a_checkpoint_moves_forward_and_never_back(store: Store, clock: FixedClock) -> None:
    uuid = bind(store).mapping.uuid
    epoch = store.acquire(uuid)
    clock.ms = 3_000
    store.commit(uuid, epoch, {"shard-0": (10, "495"), "shard-1": (3, None)})
    clock.ms = 4_000
    store.commit(uuid, epoch, {"shard-0": (9, "494"), "shard-1": (4, "7")})
    found = store.checkpoints(uuid)
    assert found["shard-0"] == (10, "495", 3_000)
    assert found["shard-1"] == (4, "7", 4_000)


def test_an_older_epoch_is_fenced_and_changes_nothing(store: Store) -> None:
    uuid = bind(store).mapping.uuid
    old = store.acquire(uuid)
    new = store.acquire(uuid)
    assert (old, new) == (1, 2)
    with pytest.raises(Fenced, match="epoch 2, ours is 1"):
        store.commit(uuid, old, {"shard-0": (10, None)})
    assert offsets(store, uuid)["shard-0"] == 5
    store.commit(uuid, new, {"shard-0": (10, None)})


def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with Store.open(path, create=True) as store:
        uuid = bind(store).mapping.uuid
        store.commit(uuid, store.acquire(uuid), {"shard-0": (10, "1")})
    with Store.open(path, create=False) as store:
        assert offsets(store, uuid) == {"shard-0": 10, "shard-1": 0}
        assert store.acquire(uuid) == 2


def test_two_connections_see_each_other_and_a_stuck_writer_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    monkeypatch.setattr("streamfn.state.connection.BUSY_TIMEOUT_S", 0.05)
    with Store.open(path, create=True) as one, Store.open(path, create=True) as two:
        uuid = bind(one).mapping.uuid
        epoch = two.acquire(uuid)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusyError, match="locked"):
            one.commit(uuid, epoch, {"shard-0": (6, None)})
        other.execute("ROLLBACK")
        other.close()
        one.commit(uuid, epoch, {"shard-0": (6, None)})
        assert offsets(two, uuid)["shard-0"] == 6


def test_durability_is_what_sqlite_calls_full_in_wal_mode(store: Store) -> None:
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)


# ---- opening ----


def test_a_missing_database_is_only_made_on_request(tmp_path: Path) -> None:
    with pytest.raises(FailedError, match="no state database"):
        Store.open(tmp_path / "state.db", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_draft_that_a_crash_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "state.db.new").write_bytes(b"half")
    with Store.open(tmp_path / "state.db", create=True) as store:
        assert store.mappings() == []
    assert [path.name for path in tmp_path.iterdir()] == ["state.db"]


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_database_fails_with_its_name_and_the_way_out(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)
    with pytest.raises(FailedError, match=r"state\.db is damaged.*move it") as caught:
        Store.open(path, create=True)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_damaged_page_is_found_on_opening(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with Store.open(path, create=True) as store:
        for number in range(200):
            bind(store, f"mapping-{number}")
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 3 + 64] = b"\xa5" * 64
    path.write_bytes(content)
    with pytest.raises(FailedError, match=r"state\.db is damaged"):
        Store.open(path, create=False)


def test_a_newer_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Store.open(path, create=True).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE format SET version = 6")
    connection.commit()
    connection.close()
    with pytest.raises(FailedError, match=r"version 6.*up to 5.*newer one"):
        Store.open(path, create=False)


def make_older(path: Path, version: int) -> str:
    """A database as that version wrote it, with one mapping, and from version 2 with a discard; returns its uuid."""
    with Store.open(path, create=True) as store:
        uuid = bind(store).mapping.uuid
    connection = sqlite3.connect(path)
    later = {1: ("windows", "discards", "managed", "progress"), 2: ("windows", "discards", "managed", "progress")}
    before_4 = ("function_versions", "functions") if version < 4 else ()
    for table in ("redriven", "redrives", *before_4, *later.get(version, ())):
        connection.execute(f"DROP TABLE {table}")
    if version == 2:
        connection.execute(discards.DISCARDS_2)
        connection.execute(
            "INSERT INTO discards VALUES (7, ?, 'shard-0', 5, 9, 'trimmed', ?, 900)", (uuid, GONE.detail)
        )
    connection.execute("UPDATE format SET version = ?", (version,))
    connection.commit()
    connection.close()
    return uuid


def test_version_1_is_brought_up_to_date_with_its_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    uuid = make_older(path, 1)
    with Store.open(path, create=False) as store:
        assert offsets(store, uuid) == {"shard-0": 5, "shard-1": 0}
        store.commit(uuid, store.acquire(uuid), {"shard-0": (9, None)}, [GONE])
    with Store.open(path, create=False) as store:
        assert discarded(store, uuid) == [GONE]


def test_version_2_is_brought_up_to_date_with_its_discards(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    uuid = make_older(path, 2)
    with Store.open(path, create=False) as store:
        assert store.discards(uuid) == [StoredDiscard(7, GONE, 900, None, None)]
        store.commit(uuid, store.acquire(uuid), {"shard-0": (20, None)}, [FAILED])
    with Store.open(path, create=False) as store:
        assert discarded(store, uuid) == [GONE, FAILED]


def test_version_3_is_brought_up_to_date_and_takes_functions(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    uuid = make_older(path, 3)
    with Store.open(path, create=False) as store:
        assert offsets(store, uuid) == {"shard-0": 5, "shard-1": 0}
        assert store.functions.all() == []
        assert store.functions.create("orders", {"Handler": "app.handler"}, CODE) is not None
    with Store.open(path, create=False) as store:
        assert [one.name for one in store.functions.all()] == ["orders"]


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_an_upgraded_database_has_the_tables_of_a_new_one(tmp_path: Path, version: int) -> None:
    make_older(tmp_path / "old.db", version)
    found = []
    for name in ("old.db", "new.db"):
        Store.open(tmp_path / name, create=True).close()
        connection = sqlite3.connect(tmp_path / name)
        tables = connection.execute(
            "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"
        ).fetchall()
        found.append([(name, " ".join(sql.split())) for name, sql in tables])
        connection.close()
    assert found[0] == found[1]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_version_is_read_as_it_is_where_nothing_may_be_written(tmp_path: Path, version: int) -> None:
    path = tmp_path / "state.db"
    uuid = make_older(path, version)
    with Store.open(path, create=False, read_only=True) as store:
        assert offsets(store, uuid) == {"shard-0": 5, "shard-1": 0}
        assert discarded(store, uuid) == ([GONE] if version == 2 else [])
        assert (store.functions.all(), store.functions.get("f"), store.functions.versions("f")) == ([], None, [])
        assert (store.all_managed(), store.progress(uuid)) == ([], Progress())
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT version FROM format").fetchone() == (version,)
    connection.close()


# ---- functions ----

CODE, OTHER_CODE = Code("aaa=", 10), Code("bbb=", 11)


def test_a_function_gets_a_version_when_its_code_or_its_configuration_has_changed(tmp_path: Path) -> None:
    clock = FixedClock()
    with Store.open(tmp_path / "state.db", create=True, clock=clock) as store:
        functions = store.functions
        made = functions.create("f", {"Timeout": 3}, CODE)
        assert made is not None
        assert functions.create("f", {"Timeout": 9}, CODE) is None
        clock.ms += 5
        assert functions.note("f", CODE) == made
        noted = functions.note("f", OTHER_CODE)
        assert noted is not None
        assert (noted.revision == made.revision, noted.modified_ms > made.modified_ms) == (False, True)
        altered = functions.alter("f", lambda before: ({**before.configuration, "Timeout": 4}, OTHER_CODE))
        assert functions.get("f") == altered
        assert [(one.number, one.code, one.configuration) for one in functions.versions("f")] == [
            (1, CODE, {"Timeout": 3}),
            (2, OTHER_CODE, {"Timeout": 3}),
            (3, OTHER_CODE, {"Timeout": 4}),
        ]
        assert (functions.note("g", CODE), functions.remove("g"), functions.remove("f")) == (None, False, True)
        assert (functions.all(), functions.versions("f")) == ([], [])


def test_a_change_that_is_refused_leaves_a_function_as_it_was(tmp_path: Path) -> None:
    def refuse(before: StoredFunction) -> tuple[dict[str, object], Code]:
        raise RefusedError("no")

    with Store.open(tmp_path / "state.db", create=True) as store:
        made = store.functions.create("f", {}, CODE)
        with pytest.raises(RefusedError):
            store.functions.alter("f", refuse)
        assert store.functions.get("f") == made
        assert len(store.functions.versions("f")) == 1


# ---- managed mappings ----


def manage(store: Store, name: str = "m", **changes: object) -> str:
    mapping = StoredMapping(
        f"uuid-{name}", name, "id-1", "s", "app.handler", "/code", {"BatchSize": 3}, 0, 1_000, 1_000
    )._replace(**changes)  # type: ignore[arg-type]
    store.create(mapping, Managed(True, "Creating", "User action", 1, 1_000), {"shard-0": 4}, lambda others: None)
    return mapping.uuid


def test_a_managed_mapping_is_made_whole_or_not_at_all(store: Store) -> None:
    def refuse(others: list[tuple[StoredMapping, Managed]]) -> None:
        raise RefusedError(f"{len(others)} others")

    uuid = manage(store)
    mapping = store.find(uuid)
    assert mapping is not None
    with pytest.raises(RefusedError, match="1 others"):
        store.create(mapping._replace(uuid="u2", name="n"), Managed(True, "Creating", "", 1, 0), {}, refuse)
    with pytest.raises(RefusedError, match="named 'm'"):
        manage(store, uuid="u3")
    assert [one.uuid for one, _ in store.all_managed()] == [uuid]
    assert store.managed(uuid) == Managed(True, "Creating", "User action", 1, 1_000)
    assert offsets(store, uuid) == {"shard-0": 4}


def test_a_managed_mapping_is_found_by_uuid_by_name_and_by_handler_and_stream(store: Store) -> None:
    first = manage(store, "a")
    bound = bind(store, "b").mapping
    for text, uuid in {"uuid-a": first, "a": first, "app.handler@s": first, "b": bound.uuid}.items():
        found = store.find(text)
        assert found is not None
        assert found.uuid == uuid
    manage(store, "c")
    assert store.find("app.handler@s") is None  # there are two
    assert store.find("uuid") is None


def test_a_run_with_a_handler_does_not_take_a_managed_mapping(store: Store) -> None:
    manage(store)
    with pytest.raises(RefusedError, match="made by `mapping create`"):
        bind(store, "m", stream_name="s")


def test_a_change_is_a_revision_and_only_the_latest_one_settles(store: Store) -> None:
    uuid = manage(store)

    def bigger(mapping: StoredMapping, wanted: Managed) -> tuple[StoredMapping, Managed]:
        return mapping._replace(options={"BatchSize": 4}), wanted._replace(state="Updating")

    store.alter(uuid, bigger)
    mapping, wanted = store.alter(uuid, bigger)
    assert (wanted.revision, wanted.state, mapping.options) == (3, "Updating", {"BatchSize": 4})
    assert not store.settle(uuid, 2, "Enabled")
    assert store.settle(uuid, 3, "Enabled")
    assert store.managed(uuid) == wanted._replace(state="Enabled")
    assert store.remove(uuid)
    assert not store.remove(uuid)
    assert (store.managed(uuid), store.find(uuid)) == (None, None)
    with pytest.raises(Fenced):
        store.alter(uuid, bigger)


def test_a_managed_mapping_begins_anew_with_another_stream_of_its_name(store: Store) -> None:
    uuid = manage(store)
    assert store.rebind(uuid, "id-1", {"shard-0": 9, "shard-1": 0}).resumed
    assert offsets(store, uuid) == {"shard-0": 4, "shard-1": 0}
    assert not store.rebind(uuid, "id-2", {"shard-0": 9}).resumed
    assert offsets(store, uuid) == {"shard-0": 9}


def test_a_reset_moves_checkpoints_back_and_forward_of_the_shards_it_names(store: Store) -> None:
    uuid = bind(store, starts={"shard-0": 5, "shard-1": 5, "shard-2": 5}).mapping.uuid
    store.reset(uuid, {"shard-0": 1, "shard-1": 9})
    assert offsets(store, uuid) == {"shard-0": 1, "shard-1": 9, "shard-2": 5}


def test_counts_add_up_and_the_last_result_is_the_last_one(store: Store) -> None:
    uuid = bind(store).mapping.uuid
    epoch = store.acquire(uuid)
    assert store.progress(uuid) == Progress()
    store.commit(uuid, epoch, {}, done=Progress("OK", polled=5, invoked=4, filtered_out=1))
    store.commit(uuid, epoch, {"shard-0": (9, None)}, done=Progress("", polled=2, dropped=1))
    assert store.progress(uuid) == Progress("OK", polled=7, invoked=4, filtered_out=1, dropped=1)
    store.commit(uuid, epoch, {}, done=Progress("PROBLEM: Function call failed", failed_invoke=3))
    assert store.progress(uuid).last_result == "PROBLEM: Function call failed"


# ---- discards ----

GONE = Discard("shard-0", 5, 9, "trimmed", "retention took them first")


FAILED = Discard(
    "shard-0",
    10,
    14,
    "RetryAttemptsExhausted",
    "ValueError: no",
    Failure(3, "request", "arn:function", "Unhandled", 3, "495", "499", 1_000, 2_000, 3_000, (10, 11, 13), "failures"),
)


def discarded(store: Store, uuid: str) -> list[Discard]:
    return [stored.discard for stored in store.discards(uuid)]


def test_a_discard_is_there_exactly_if_its_checkpoint_is(store: Store) -> None:
    uuid = bind(store).mapping.uuid
    old = store.acquire(uuid)
    epoch = store.acquire(uuid)
    with pytest.raises(Fenced):
        store.commit(uuid, old, {"shard-0": (14, None)}, [GONE, FAILED])
    assert store.discards(uuid) == []
    store.commit(uuid, epoch, {"shard-0": (14, None)}, [GONE, FAILED])
    store.commit(uuid, epoch, {"shard-0": (14, None)}, [GONE, FAILED])  # its outcome was not learned the first time
    assert discarded(store, uuid) == [GONE, FAILED]
    assert offsets(store, uuid)["shard-0"] == 14


def test_what_a_later_owner_discards_again_after_a_reset_is_another_discard(store: Store) -> None:
    uuid = bind(store).mapping.uuid
    for _ in range(2):
        store.commit(uuid, store.acquire(uuid), {"shard-0": (14, None)}, [FAILED])
    assert discarded(store, uuid) == [FAILED, FAILED]


def test_discards_go_with_their_mapping_and_with_its_stream(store: Store) -> None:
    first = bind(store).mapping.uuid
    store.commit(first, store.acquire(first), {"shard-0": (9, None)}, [GONE])
    bind(store, stream_id="id-2")  # imported again: another stream of the same name
    assert store.discards(first) == []
    store.commit(first, store.acquire(first), {"shard-0": (9, None)}, [GONE])
    store.forget("m")
    assert store.discards(first) == []


def test_a_discard_with_a_destination_is_pending_until_it_is_delivered(store: Store, clock: FixedClock) -> None:
    uuid = bind(store).mapping.uuid
    epoch = store.acquire(uuid)
    assert FAILED.failure is not None
    nowhere = FAILED._replace(
        first_offset=14, end_offset=15, failure=FAILED.failure._replace(offsets=None, destination="")
    )
    later = FAILED._replace(first_offset=15, end_offset=18, failure=FAILED.failure._replace(offsets=None))
    store.commit(uuid, epoch, {"shard-0": (18, None)}, [GONE, FAILED, nowhere, later])
    gone, first, silent, second = store.discards(uuid)
    assert [gone.pending, first.pending, silent.pending, second.pending] == [False, True, False, True]
    assert (store.pending(uuid, "failures", 10), store.pending(uuid, "failures", 1)) == ([first, second], [first])

    store.note(uuid, epoch, [first.id], "at 5")
    store.note(uuid, epoch, [second.id], "at 9")
    assert [one.noted for one in store.pending(uuid, "failures", 10)] == ["at 5", "at 9"]
    clock.ms = 7_000
    store.delivered(uuid, epoch, [first.id])
    clock.ms = 8_000
    store.delivered(uuid, epoch, [first.id])
    assert [one.id for one in store.pending(uuid, "failures", 10)] == [second.id]
    assert store.pending_count(uuid) == 1
    assert (store.pending(uuid, "elsewhere", 10), store.pending_destinations(uuid)) == ([], ["failures"])
    assert store.progress(uuid).on_failure_delivered == 3  # records, and once
    assert store.discards(uuid)[1].delivered_ms == 7_000


def test_an_older_owner_can_neither_note_nor_mark_a_delivery(store: Store) -> None:
    uuid = bind(store).mapping.uuid
    old = store.acquire(uuid)
    store.commit(uuid, old, {"shard-0": (14, None)}, [FAILED])
    store.acquire(uuid)
    (stored,) = store.discards(uuid)
    with pytest.raises(Fenced):
        store.note(uuid, old, [stored.id], "at 5")
    with pytest.raises(Fenced):
        store.delivered(uuid, old, [stored.id])
    assert store.discards(uuid) == [stored]


def discard(first: int, end: int) -> Discard:
    return Discard("s", first, end, "RetryAttemptsExhausted", "")


@pytest.mark.parametrize(
    ("offset", "checkpoint", "due"),
    [
        (10, 10, []),
        (11, 10, []),
        (15, 10, []),
        (16, 10, []),  # past the first one, in the middle of the second, which begins in the middle of the first
        (18, 18, [(10, 16), (12, 18)]),
        (21, 20, [(10, 16), (12, 18)]),
        (30, 30, [(10, 16), (12, 18), (20, 22)]),
    ],
)
def test_no_checkpoint_stops_in_the_middle_of_a_discard(
    offset: int, checkpoint: int, due: list[tuple[int, int]]
) -> None:
    given = [discard(10, 16), discard(20, 22), discard(12, 18), discard(40, 41)]
    may, found, rest = discards.covered({"s": (offset, "7"), "other": (50, "8")}, given)
    assert may == {"s": (checkpoint, "7" if checkpoint == offset else None), "other": (50, "8")}
    assert sorted(each[1:3] for each in found) == due
    assert sorted(found + rest) == sorted(given)


# ---- tumbling windows ----

OPEN = Window(60_000, 120_000, b'{"n": 1}')
CLOSED = Window(60_000, 120_000, None)


def test_a_window_is_kept_with_the_checkpoint_it_was_committed_with(tmp_path: Path) -> None:
    with Store.open(tmp_path / "db", create=True) as store:
        uuid = bind(store).mapping.uuid
        assert store.windows(uuid) == {}
        epoch = store.acquire(uuid)
        store.commit(uuid, epoch, {"shard-0": (7, None), "shard-1": (1, None)}, (), {"shard-0": OPEN})
    with Store.open(tmp_path / "db", create=False) as store:
        assert store.windows(uuid) == {"shard-0": OPEN}
        later = OPEN._replace(state=b'{"n": 2}')
        store.commit(uuid, epoch, {"shard-0": (9, None)}, (), {"shard-0": later})
        assert store.windows(uuid) == {"shard-0": later}


def test_a_window_moves_where_its_checkpoint_does_not(store: Store) -> None:
    uuid = bind(store).mapping.uuid
    epoch = store.acquire(uuid)
    store.commit(uuid, epoch, {"shard-0": (7, "49")}, (), {"shard-0": OPEN})
    store.commit(uuid, epoch, {"shard-0": (7, None)}, (), {"shard-0": CLOSED})
    assert store.windows(uuid) == {"shard-0": CLOSED}
    assert store.checkpoints(uuid)["shard-0"].sequence_number == "49"


def test_a_window_behind_its_shards_checkpoint_is_refused(store: Store) -> None:
    uuid = bind(store).mapping.uuid
    epoch = store.acquire(uuid)
    store.commit(uuid, epoch, {"shard-0": (7, None)}, (), {"shard-0": OPEN})
    store.commit(uuid, epoch, {"shard-0": (6, None)}, (), {"shard-0": OPEN._replace(state=b"{}")})
    assert (offsets(store, uuid)["shard-0"], store.windows(uuid)) == (7, {"shard-0": OPEN})


def test_a_checkpoint_that_moves_without_a_window_leaves_none_behind_it(store: Store) -> None:
    uuid = bind(store).mapping.uuid
    epoch = store.acquire(uuid)
    store.commit(uuid, epoch, {"shard-0": (7, None)}, (), {"shard-0": OPEN})
    store.commit(uuid, epoch, {"shard-0": (8, None)})
    assert store.windows(uuid) == {}


def test_a_fenced_owner_changes_no_window(store: Store) -> None:
    uuid = bind(store).mapping.uuid
    old = store.acquire(uuid)
    store.commit(uuid, old, {"shard-0": (7, None)}, (), {"shard-0": OPEN})
    store.acquire(uuid)
    with pytest.raises(Fenced):
        store.commit(uuid, old, {"shard-0": (7, None)}, (), {"shard-0": CLOSED})
    assert store.windows(uuid) == {"shard-0": OPEN}


def test_windows_go_with_their_mapping_and_with_its_stream(store: Store) -> None:
    uuid = bind(store).mapping.uuid
    store.commit(uuid, store.acquire(uuid), {"shard-0": (7, None)}, (), {"shard-0": OPEN})
    bind(store, stream_id="id-2", starts={"shard-0": 7})
    assert store.windows(uuid) == {}
    store.commit(uuid, store.acquire(uuid), {"shard-0": (8, None)}, (), {"shard-0": OPEN})
    store.forget("m")
    assert store.windows(uuid) == {}


def test_a_window_is_committed_whole_or_not_at_all(tmp_path: Path) -> None:
    """A process that dies at any of its writes leaves a state and a checkpoint that belong together."""
    path = tmp_path / "db"
    with Store.open(path, create=True) as store:
        uuid = bind(store).mapping.uuid
        epoch = store.acquire(uuid)
    script = """
import sys, sqlite3
from pathlib import Path
from streamfn.state.store import Store
from streamfn.types import Window
path, uuid, epoch, offset = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = Store.open(path, create=False)
while True:
    offset += 1
    store.commit(uuid, epoch, {"s": (offset, None)}, (), {"s": Window(0, 60, b"%d" % offset + b" " * 50_000)})
    print(offset, flush=True)
"""
    at = 6
    for patience in range(5):
        command = [sys.executable, "-c", script, str(path), uuid, str(epoch), str(at)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told = [int(process.stdout.readline()) for _ in range(1 + 3 * patience)][-1]
            process.kill()
        with Store.open(path, create=False) as store:
            at, window = offsets(store, uuid)["s"], store.windows(uuid)["s"]
            assert window.state is not None
            assert at == int(window.state)
            assert at >= told


def test_read_only_reads_and_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with Store.open(path, create=True) as store:
        uuid = bind(store).mapping.uuid
    with Store.open(path, create=False, read_only=True) as store:
        assert offsets(store, uuid) == {"shard-0": 5, "shard-1": 0}
        with pytest.raises(FailedError, match="uid"):
            store.acquire(uuid)


def test_a_store_in_a_read_only_directory_can_be_read() -> None:
    with tempfile.TemporaryDirectory() as directory:  # not tmp_path: its parents are closed to others
        path = Path(directory) / "state.db"
        with Store.open(path, create=True) as store:
            bind(store)
        path.chmod(0o444)
        path.parent.chmod(0o555)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = _read_without_privileges(path)
            finally:
                os._exit(code)  # whatever happens, this copy of pytest ends here
        _, status = os.waitpid(child, 0)
        path.parent.chmod(0o755)
        assert os.waitstatus_to_exitcode(status) == 0


def _read_without_privileges(path: Path) -> int:
    """Read the store as somebody who may not write there; the exit status, 0 if all is well."""
    if os.getuid() == 0:  # root may write anywhere: be somebody else
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    with Store.open(path, create=False, read_only=True) as store:
        if [mapping.name for mapping in store.mappings()] != ["m"]:
            return 3
    try:
        Store.open(path, create=True).acquire("x")
    except FailedError as error:
        return 0 if str(path) in str(error) else 5
    return 4


def test_a_full_disk_is_said_changes_nothing_and_passes(store: Store) -> None:
    uuid = bind(store).mapping.uuid
    epoch = store.acquire(uuid)
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    many = {f"shard-{number}": (10, "4" * 56) for number in range(1000)}
    with pytest.raises(DiskFull, match="no space left"):
        store.commit(uuid, epoch, many)
    assert offsets(store, uuid) == {"shard-0": 5, "shard-1": 0}
    store._connection.execute("PRAGMA max_page_count = 100000")
    store.commit(uuid, epoch, many)
    assert offsets(store, uuid)["shard-999"] == 10
