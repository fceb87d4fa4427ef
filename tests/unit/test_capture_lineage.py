"""Which shards may be read when."""

from streamfn.capture.lineage import Lineage
from streamfn.capture.source import SourceShard


def ids(shards):
    return [shard.id for shard in shards]


def test_a_child_waits_until_its_parent_is_finished():
    lineage = Lineage()
    lineage.learn([SourceShard("a"), SourceShard("b", ("a",)), SourceShard("c", ("a",))])
    assert ids(lineage.start_ready()) == ["a"]
    assert lineage.start_ready() == []
    lineage.finish("a")
    assert ids(lineage.start_ready()) == ["b", "c"]


def test_the_child_of_a_merge_waits_for_both_parents():
    lineage = Lineage()
    lineage.learn([SourceShard("a"), SourceShard("b"), SourceShard("c", ("a", "b"))])
    assert ids(lineage.start_ready()) == ["a", "b"]
    lineage.finish("b")
    assert lineage.start_ready() == []
    lineage.finish("a")
    assert ids(lineage.start_ready()) == ["c"]


def test_a_parent_that_was_trimmed_away_holds_nobody_up():
    lineage = Lineage()
    lineage.learn([SourceShard("c", ("long-gone",))])
    assert ids(lineage.start_ready()) == ["c"]


def test_children_of_a_shard_that_was_stopped_before_its_end_are_not_begun_and_the_capture_is_done():
    lineage = Lineage()
    lineage.learn([SourceShard("a"), SourceShard("b", ("a",))])
    lineage.start_ready()
    assert not lineage.done
    lineage.stop("a")
    assert lineage.start_ready() == []
    assert lineage.done


def test_learning_again_tells_that_a_shard_was_closed_and_starts_nothing_twice():
    lineage = Lineage()
    lineage.learn([SourceShard("a")])
    lineage.start_ready()
    lineage.learn([SourceShard("a", ending_sequence_number="9"), SourceShard("b", ("a",))])
    assert lineage.shards["a"].ending_sequence_number == "9"
    assert lineage.start_ready() == []


def test_what_an_earlier_run_has_finished_is_not_read_again_and_its_children_may_be():
    lineage = Lineage()
    lineage.learn([SourceShard("b", ("a",)), SourceShard("a"), SourceShard("c", ("b",))], {"a"}.__contains__)
    assert ids(lineage.start_ready()) == ["b"]


def test_a_finished_shard_without_known_children_says_that_the_list_is_not_complete():
    lineage = Lineage()
    lineage.learn([SourceShard("a")])
    lineage.start_ready()
    assert not lineage.childless
    lineage.finish("a")
    assert lineage.childless
    lineage.learn([SourceShard("b", ("a",))])
    assert not lineage.childless
