"""How `bench.peers` comes to its tables, with peers that only say how fast they were."""

import pytest

from bench.peers.__main__ import measure, number
from bench.peers.roster import NOOP, PEERS, REAL, STREAMFN, Peer, Way
from bench.peers.running import NotHereError, Run


def peer(name, *ways, bars=None, rival=True):
    return Peer(name, f"in_{name}", "", tuple(Way(way, way) for way in ways), {NOOP: 1, REAL: 1}, bars or {}, rival)


class Place:
    """Answers with the rates given, in turn, for (peer, way); None: not here."""

    def __init__(self, rates):
        self.rates = {key: list(given) if given else None for key, given in rates.items()}
        self.asked = []

    def run(self, peer, way, case, share):
        self.asked.append((peer.name, way.key))
        given = self.rates[peer.name, way.key]
        if given is None:
            raise NotHereError("not installed: a module")
        return Run(given.pop(0), {peer.name: "1.0"})


def measured(place, peers, case=NOOP, rounds=3):
    found, absent, versions = measure(place, case, [STREAMFN, *peers], rounds, 1.0)
    return {row["peer"]: row for row in found["rows"]}, absent, versions


def test_a_peer_goes_on_in_the_way_that_was_fastest_in_the_round_that_does_not_count():
    place = Place({("streamfn", "run"): [1, 10, 30, 20], ("a", "slow"): [1], ("a", "fast"): [2, 5, 5, 5]})
    rows, _, _ = measured(place, [peer("a", "slow", "fast")])
    assert rows["a"]["way"] == "fast"
    assert rows["a"]["rates"] == [5, 5, 5]
    assert rows["streamfn"]["rate"] == 20


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds():
    place = Place({("streamfn", "run"): [1, 10, 30, 40], ("a", "one"): [1, 1, 30, 10]})
    rows, _, _ = measured(place, [peer("a", "one", bars={NOOP: 5})])
    assert rows["a"]["ratio"] == 4  # of 10, 1 and 4
    assert rows["a"]["met"] is False
    assert rows["streamfn"]["ratio"] is None


def test_the_order_of_the_rounds_changes():
    place = Place({("streamfn", "run"): [1] * 3, ("a", "one"): [1] * 3})
    measured(place, [peer("a", "one")], rounds=2)
    assert [name for name, _ in place.asked] == ["streamfn", "a", "streamfn", "a", "a", "streamfn"]


def test_a_peer_that_is_not_here_is_absent_and_nothing_else_is():
    gone = peer("gone", "one")
    place = Place({("streamfn", "run"): [1] * 4, ("gone", "one"): None, ("a", "one"): [1] * 4})
    rows, absent, versions = measured(place, [gone, peer("a", "one")])
    assert set(rows) == {"streamfn", "a"}
    assert absent == {gone: "not installed: a module"}
    assert versions["a"] == "1.0"


def test_only_the_best_rival_has_the_bar_of_the_real_handler():
    rates = {("streamfn", "run"): [1, 16], ("a", "one"): [1, 9], ("b", "one"): [1, 8], ("limit", "one"): [1, 99]}
    peers = [peer("a", "one"), peer("b", "one"), peer("limit", "one", rival=False)]
    rows, _, _ = measured(Place(rates), peers, REAL, rounds=1)
    assert rows["a"]["bar"] == 1.6
    assert rows["a"]["met"] is True
    assert rows["b"]["bar"] is rows["limit"]["bar"] is None


def test_every_peer_says_how_many_records_go_through_it_and_which_ways_it_has():
    for each in PEERS:
        assert each.ways
        assert NOOP in each.records
        assert set(each.bars) <= set(each.records)


@pytest.mark.parametrize(("rate", "text"), [(3_265_178, "3,270,000"), (194_321, "194,000"), (12.34, "12.3")])
def test_a_rate_has_three_digits(rate, text):
    assert number(rate) == text
