"""Records that are generated: what they hold, how large they are, which keys they have, where they go."""

import json
import random
import re
from collections import Counter

import pytest

from streamfn.benchmark.keys import Distribution, Keys
from streamfn.benchmark.records import Maker, Recipe
from streamfn.benchmark.template import Filling, Template
from streamfn.errors import FailedError, RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.segment.rows import records
from streamfn.log.shard.reader import ShardReader


def fill(text, seq=0, key="key-1", seed=1, size=None):
    return Template(text).fill(Filling(seq, key, random.Random(seed)), size)


def value(field, **how):
    return json.loads(fill(f'{{"v": {{{{{field}}}}}}}', **how))["v"]


def read_all(stream):
    """Every record of a stream as (data, partition key), shard by shard."""
    found = {}
    for shard in stream.open_shards:
        found[shard.id] = []
        with ShardReader.open(shard, 0) as reader:
            while messages := reader.poll(1 << 24):
                found[shard.id] += [(row.data, row.partition_key) for each in messages for row in records(each)]
    return found


# ---- templates


def test_fields_are_json_values_of_their_own_kind():
    assert value("seq", seq=7) == 7
    assert value("seq 100", seq=7) == 107
    assert value("key", key='a "quoted" key') == 'a "quoted" key'
    assert value("int 5 5") == 5
    assert value("float 2 2 3") == 2.0
    assert value("bool") in (True, False)
    assert value("text 12").isalpha()
    assert len(value("text 12")) == 12
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", value("uuid"))
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value("now"))
    assert value("now ms") > 1_600_000_000_000
    assert 1_600_000_000 < value("now s") < 1e11


def test_inside_a_string_a_field_is_text():
    record = json.loads(fill('{"a": "order-{{seq}} of \\"{{key}}\\" {{int 3 3}}", "b": {{seq}}}', seq=4, key='x"y'))
    assert record == {"a": 'order-4 of "x"y" 3', "b": 4}


def test_choices_are_values_where_all_of_them_are_and_texts_otherwise():
    assert value("choice 1 2.5 null") in (1, 2.5, None)
    assert value('choice "New York"') == "New York"
    assert value("choice 1 one") in ("1", "one")
    seen = {value("choice a b c", seed=seed) for seed in range(40)}
    assert seen == {"a", "b", "c"}


def test_integers_and_texts_reach_both_ends_and_nothing_beyond():
    template, source = Template("{{int -2 2}}"), random.Random(3)
    assert {int(template.fill(Filling(0, "", source))) for _ in range(200)} == {-2, -1, 0, 1, 2}
    template = Template('"{{text 1 3}}"')
    assert {len(template.fill(Filling(0, "", source))) - 2 for _ in range(100)} == {1, 2, 3}
    huge = 2**80
    assert 0 <= int(fill(f"{{{{int 0 {huge}}}}}")) <= huge


def test_padding_makes_every_record_as_large_as_it_is_to_be():
    for text in ('{"seq": {{seq}}, "p": {{padding}}}', '{"p": "é{{padding}}", "seq": {{seq}}}'):
        for seq in (0, 9, 123_456):
            record = fill(text, seq=seq, size=64)
            assert len(record) == 64
            assert json.loads(record)["seq"] == seq


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": {{nothing}}}', "{{nothing}} is no field; there are bool, choice,"),
        ('{"a": {{int 5}}}', "{{int 5}} cannot be filled in: it has too few or too many arguments"),
        ('{"a": {{int 5 1}}}', "{{int 5 1}} cannot be filled in: 5 is above 1"),
        ('{"a": {{int x 1}}}', "'x' is no integer"),
        ('{"a": {{float 0 inf}}}', "that is no range"),
        ('{"a": {{choice}}}', "nothing to choose from"),
        ('{"a": {{choice "b}}}', "cannot be read"),
        ('{"a": {{text -1}}}', "-1 letters are too few"),
        ('{"a": {{now weeks}}}', "'weeks' is neither ms nor s"),
        ('{"a": {{padding}}, "b": {{padding}}}', "one {{padding}} only"),
        ('{"a": {{seq}}', "makes no JSON"),
        ("", "makes no JSON"),
        ("{{}}", "is no field"),
    ],
)
def test_what_is_wrong_with_a_template_is_named(text, said):
    with pytest.raises(RefusedError, match=re.escape(said)):
        Template(text)


def test_a_size_that_the_template_does_not_fit_is_named():
    with pytest.raises(RefusedError, match=r"--record-size 8 is too small .* record 0 has 9 bytes"):
        Recipe(size=8, template=Template('{"p": "{{padding}}"}')).sample()
    with pytest.raises(RefusedError, match="a --template that has a {{padding}} field"):
        Recipe(size=8, template=Template("{{seq}}"))


# ---- keys


def test_uniform_keys_come_equally_often_and_zipf_keys_by_their_rank():
    source = random.Random(5)
    drawn = Counter(Keys(10).draw(100_000, source))
    assert set(drawn) == set(range(10))
    assert max(drawn.values()) < 1.1 * min(drawn.values())
    drawn = Counter(Keys(1000, Distribution.parse("zipf")).draw(200_000, source))
    assert drawn[0] / drawn[1] == pytest.approx(2, rel=0.1)
    assert drawn[0] / drawn[9] == pytest.approx(10, rel=0.15)
    steep = Counter(Keys(1000, Distribution.parse("zipf:2")).draw(200_000, source))
    assert steep[0] / steep[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("text", ["", "even", "zipf:", "zipf:0", "zipf:-1", "zipf:x", "zipf:11", "uniform:2"])
def test_other_distributions_are_refused_with_what_there_is(text):
    with pytest.raises(RefusedError, match=re.escape(f"{text!r} is neither uniform nor zipf:S")):
        Distribution.parse(text)


@pytest.mark.parametrize("count", [0, -1, 10_000_001])
def test_a_number_of_keys_out_of_range_is_named(count):
    with pytest.raises(RefusedError, match=f"--keys {count} is not 1 to 10000000"):
        Keys(count)


# ---- the stream


@pytest.mark.parametrize("size", [1, 2, 3, 10, 24, 100, 1024, 70_000])
def test_records_have_exactly_the_wanted_size_and_are_json(size):
    record = Recipe(size=size).sample()
    assert len(record) == size
    json.loads(record)


def test_records_lie_where_their_keys_say_and_go_on_where_the_last_ones_ended(tmp_path):
    stream = DataDir.open(tmp_path, create=True).create_stream("s", 3)
    maker = Maker(Recipe(size=100, keys=50), stream)
    told = []
    maker.make(1000, told.append)
    maker.make(500, told.append)
    assert (sum(told), maker.records, maker.bytes) == (1500, 1500, 150_000)
    found = read_all(stream)
    for number, shard in enumerate(stream.open_shards):
        assert found[shard.id]
        assert all(stream.shard_index(key) == number for _, key in found[shard.id])
        seqs = [json.loads(data)["seq"] for data, _ in found[shard.id]]
        assert seqs == sorted(seqs)
    assert sorted(json.loads(data)["seq"] for rows in found.values() for data, _ in rows) == list(range(1500))


def test_the_same_seed_makes_the_same_records(tmp_path):
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        stream = DataDir.open(tmp_path, create=True).create_stream(name, 2)
        Maker(Recipe(size=None, template=Template('{"id": {{uuid}}, "k": {{key}}}'), seed=seed), stream).make(200)
        made.append(read_all(stream))
    assert made[0] == made[1] != made[2]


def test_more_records_than_there_is_room_for_are_refused_before_any_is_made(tmp_path):
    stream = DataDir.open(tmp_path, create=True).create_stream("s", 1)
    with pytest.raises(FailedError, match=r"need [\d,.]+ GiB in .*, and [\d,.]+ GiB are free: make fewer"):
        Maker(Recipe(), stream).make(10**15)
    assert read_all(stream) == {"shardId-000000000000": []}
