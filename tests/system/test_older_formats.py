"""A data directory as an older streamfn left it: read as it is, written to, resharded, and gone on with."""

import json
import tarfile
from pathlib import Path

import pytest
from run_rig import Place
from witness import deliveries, first_deliveries

from streamfn.log.shard.cursor import ShardCursor

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def place(tmp_path):
    """Format 1: 600 records in two shards, sealed segments and active ones; `h.handler@s` has done 200 of them."""
    with tarfile.open(DATA / "format-1.tar.gz") as archive:
        archive.extractall(tmp_path / "data", filter="data")
    return Place(tmp_path)


def version(place):
    return json.loads((place.data / "format").read_text())["streamfn"]


def contents(place):
    found = []
    for shard in place.opened().shards:
        with ShardCursor(shard, 0, None) as cursor:
            found += [(record.partition_key, record.arrival_ms, json.loads(record.data)["n"]) for record in cursor]
    return sorted(found, key=lambda one: one[2])


def test_format_1_is_read_as_it_is_and_stays_what_it_is(place):
    assert contents(place) == [(f"key-{n}", 1_700_000_000_000 + n, n) for n in range(600)]
    assert [shard.open for shard in place.opened().shards] == [True, True]
    assert place.run("verify", "s").code == 0
    (described,) = json.loads(place.run("list", "--json").out)["streams"]
    assert (described["shards"], described["records"]) == (2, 600)
    assert version(place) == 1


def test_format_1_is_gone_on_with_from_its_checkpoints_and_can_be_resharded(place):
    done = place.checkpoints("h.handler@s")
    assert sum(done.values()) == 200
    before = place.log()
    for shard in place.opened().shards:
        assert place.run("split-shard", "s", "--shard-to-split", shard.id).code == 0
    assert version(place) == 2
    place.put([json.dumps({"n": number}) for number in range(600, 620)])
    process = place.caught_up("seen.handler", "--name", "h.handler@s")
    assert (process.code, process.summary["records"], process.summary["resumed"]) == (0, 420, True), process.err
    found = deliveries(place.seen)
    for shard, numbers in before.items():
        assert first_deliveries(found[shard]) == numbers[done[shard] :]
    assert place.run("verify", "s").code == 0
