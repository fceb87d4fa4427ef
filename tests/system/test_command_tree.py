"""Every command there is: its help has examples that hold, its JSON parses, its exit codes are documented, and a value
that it cannot take is named. A command or an option that is new is in these tests as soon as it is there.
"""

import io
import json
import re
import shlex
from pathlib import Path

import click
import pytest
import trio
from run_rig import FUNCTIONS, Place

import streamfn
from streamfn.cli import app
from streamfn.measure.counts import Counts
from streamfn.measure.result import Result, Row, Sample

REFERENCE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
DOCUMENTED = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", REFERENCE, re.M) for code in row.split(",")}


def walk(command=app.cli, context=None, path=()):
    """Every command with its path and context, groups before what is in them."""
    context = context or click.Context(command, info_name="streamfn", max_content_width=100)
    yield path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, name
            yield from walk(found, click.Context(found, parent=context, info_name=name), (*path, name))


ALL = {" ".join(path): (command, context) for path, command, context in walk()}
# What does something itself: commands, and a group that has arguments of its own.
LEAVES = {
    name: found
    for name, found in ALL.items()
    if not isinstance(found[0], click.Group) or any(isinstance(p, click.Argument) for p in found[0].params)
}


# ---- help


def help_of(name):
    command, context = ALL[name]
    return command.get_help(context)


def examples(text):
    """The `streamfn ...` command lines in a help's examples, without remarks, pipes and redirections."""
    block = re.split(r"^ *Examples?:\n", text, maxsplit=1, flags=re.M)
    if len(block) == 1:
        return []
    found, begun = [], ""
    for line in re.split(r"\n\s*\n", block[1], maxsplit=1)[0].splitlines():
        begun += re.sub(r"(?<=\S)\s{2,}(\(.*\)|[^-\s'\"].*)$", "", line)
        if begun.rstrip().endswith(("\\", "|")):
            begun = begun.rstrip().removesuffix("\\") + " "
            continue
        try:
            words = shlex.split(begun)
        except ValueError:  # a quoted text goes on in the next line
            begun += "\n"
            continue
        begun = ""
        found += [part[1:] for part in commands_in(words) if part[0] == "streamfn"]
    assert not begun, f"an example does not end: {begun}"
    return found


def commands_in(words):
    """The commands of a pipeline, each without its redirections."""
    part, rest = [], iter(words)
    for word in rest:
        if word == "|":
            yield part
            part = []
        elif word in ("<", ">"):
            next(rest)
        else:
            part.append(word)
    yield part


@pytest.mark.parametrize("name", ALL)
def test_help_says_what_it_is_and_has_examples_that_parse(name, capfd):
    assert app.run([*name.split(), "--help"]) == 0
    text = capfd.readouterr().out
    assert text.startswith(f"Usage: streamfn {name}".rstrip())
    command, _ = ALL[name]
    assert all(p.help for p in command.params if isinstance(p, click.Option) and not p.hidden), "an option says nothing"
    found = examples(text)
    assert found, "no example"
    for words in found:
        of = " ".join(words)
        called = max((each for each in LEAVES if of == each or of.startswith(f"{each} ")), key=len, default=None)
        assert called, f"there is no such command: {of}"
        rest = words[len(called.split()) :]
        LEAVES[called][0].make_context(called, rest, parent=ALL[""][1])  # raises where it does not parse
    assert any(" ".join(words).startswith(name) for words in found), "no example is of this command"


def test_the_reference_has_every_command():
    for name in LEAVES:
        first, *more = name.split()
        row = next((line for line in REFERENCE.splitlines() if re.match(rf"\| `streamfn {first}\b", line)), "")
        row += " ".join(line for line in REFERENCE.splitlines() if f"`{first}" in line or f"streamfn {first}" in line)
        assert row, f"{name} has no row"
        assert all(word in row for word in more), f"{name} is in no row"


@pytest.mark.parametrize("name", ALL)
def test_exit_codes_in_a_help_are_those_of_the_reference(name):
    text = " ".join(help_of(name).split())
    for listed in re.findall(r"[Ee]xit codes?:?((?:(?!\. ).)*)", text):
        codes = {int(code) for code in re.findall(r"(?<![\d.:])\b(\d{1,3})\b(?= |,|\)|$)", listed)}
        assert codes <= DOCUMENTED, (codes, listed)


# ---- what they do: JSON, exit codes

# Arguments with which each command does what it is for; in a process of its own where it makes others.
SHARD = "shardId-000000000000"
SCENARIOS = {
    "run": "seen.handler --stream s --until-caught-up --name walked",
    "replay": "seen.handler --stream s --dry-run",
    "bench": "benched.noop --records 50 --workers 1",
    "bench compare": "A.json B.json",
    "invoke": "called.echo --payload {}",
    "function create": "walked --handler seen.handler",
    "function list": "",
    "function show": "stored",
    "function update": "stored --timeout 4",
    "function versions": "stored",
    "function delete": "spare",
    "mapping create": "--function-name stored --event-source-arn s --starting-position LATEST",
    "mapping list": "",
    "mapping show": "made",
    "mapping update": "made --batch-size 7",
    "mapping disable": "made",
    "mapping enable": "made",
    "mapping reset-checkpoint": "made --to LATEST",
    "mapping delete": "spare",
    "import": "lines.jsonl --stream imported",
    "put": "s data",
    "put-change": 'changes {"Keys":{"id":{"N":"2"}},"NewImage":{"id":{"N":"2"}}}',
    "tail": "s",
    "export": "s -o out.jsonl",
    "list": "",
    "inspect": "s",
    "failures": "lost",
    "redrive": "lost --dry-run",
    "split-shard": f"two --shard-to-split {SHARD}",
    "merge-shards": f"pair --shard-to-merge {SHARD} --adjacent-shard-to-merge shardId-000000000001",
    "update-shard-count": "many --target-shard-count 2",
    "retention": "s",
    "trim": "s --keep-bytes 1GB",
    "compact": "s",
    "verify": "s",
    "repair": "s",
    "delete": "spare --yes",
    "doctor": "",
}
OWN_PROCESS = {"run", "bench", "invoke", "redrive"}
# These print one object and nothing else; others may print a line for each thing.
ONE_OBJECT = {"run", "replay", "bench", "redrive"}
# Commands whose scenario is in another module, because it takes a source, or minutes' worth of records.
ELSEWHERE = {"record": "test_record_command.py"}
EXEMPT = {"demo": "it imports 336,776 flights"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A place with something for every command."""
    root = tmp_path_factory.mktemp("tree")
    place = Place(root)
    for name, shards in (("s", 1), ("spare", 1), ("two", 1), ("pair", 2), ("apart", 2), ("many", 1), ("poison", 1)):
        place.stream(name, shards)
    place.put(["good", "good"])
    place.put(["poison"], "poison")
    row = Row(
        handler="h", source={"kind": "stream"}, mode="closed", rate_offered=None, records=1, batches=1, errors=0,
        discarded=0, seconds=1.0, batch_size=1, workers=1, record_size=1, latency=Counts({1: 1}),
        samples=[Sample(1, 1.0, Counts({1: 1}))],
    )  # fmt: skip
    for name in ("A.json", "B.json"):
        (root / name).write_text(json.dumps(Result([row]).document()))
    (root / "lines.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
    with streamfn.open_sync(place.data, log=io.StringIO()) as session:
        session.put_change("changes", {"Keys": {"id": {"N": "1"}}, "NewImage": {"id": {"N": "1"}}})
        result = session.run_until_caught_up(
            "failing.poison", "poison", name="lost", code_dir=FUNCTIONS, workers=1, maximum_retry_attempts=0
        )
        assert result.discarded == 1
        for name in ("stored", "spare"):
            session.functions.create(name, handler="seen.handler", code_dir=FUNCTIONS)
        for name, handler in (("made", "seen.handler"), ("spare", "library.count")):
            session.managed.create(handler, "s", starting_position="TRIM_HORIZON", name=name, code_dir=FUNCTIONS)
    return place


@pytest.fixture
def call(prepared, monkeypatch, capfd):
    """Call a command line in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(prepared.root)
    monkeypatch.setenv("STREAMFN_DATA_DIR", str(prepared.data))
    monkeypatch.syspath_prepend(str(FUNCTIONS))
    for name in ("NOTES", "SEEN"):
        monkeypatch.setenv(name, prepared.environment[name])

    def called(*arguments):
        capfd.readouterr()
        code = app.run(list(arguments))
        return code, *capfd.readouterr()

    return called


def scenario(name):
    return [*name.split(), *SCENARIOS[name].split()]


def test_every_command_has_a_scenario():
    assert set(SCENARIOS) | set(ELSEWHERE) | set(EXEMPT) == set(LEAVES)
    for name, module in ELSEWHERE.items():
        text = (Path(__file__).parent / module).read_text()
        assert f'"{name}"' in text
        assert '"--json"' in text


@pytest.mark.parametrize("name", SCENARIOS)
def test_json_is_on_standard_output_and_nothing_else_is(name, prepared, call):
    arguments = [*scenario(name), "--json"]
    if name in OWN_PROCESS:
        process = prepared.run(*arguments)
        code, out, err = process.code, process.out, process.err
    else:
        code, out, err = call(*arguments)
    assert code == 0, err
    if name in ONE_OBJECT:
        assert isinstance(json.loads(out), dict)
        assert out.count("\n") == 1
        return
    try:
        json.loads(out)
    except ValueError:
        assert [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("name", LEAVES)
def test_what_is_not_there_or_not_understood_has_a_documented_exit_code_and_a_line(name, call):
    code, out, err = call(*name.split(), "--no-such-option")
    assert (code, out) == (2, "")
    assert "--no-such-option" in err
    command, _ = LEAVES[name]
    needed = [p for p in command.params if isinstance(p, click.Argument) and p.required]
    if needed:
        code, out, err = call(*name.split())
        assert (code, out) == (2, "")
        assert "Missing argument" in err


# ---- bad values

BAD = "no☃such"
# Options that take any text, and why.
FREE = {
    "--name": "a mapping may be called anything",
    "--partition-key": "a key may be anything",
    "--time-field": "a field may be called anything; that the records have none is told with the first of them",
    "--description": "a description may be anything",
    "--role": "it is kept, and has no effect",
    "--payload": "what is no JSON is refused in Lambda's words, which do not repeat it: it may have megabytes",
    "--save-event": "a file may be called anything",
    "--data-dir": "a directory may be called anything",
    **{("bench", f"--{kind}"): "a file may be called anything" for kind in ("hgrm", "hlog", "html")},
    ("mapping list", "--function-name"): "it selects: what is not there has no mappings, as in Lambda",
    ("mapping list", "--event-source-arn"): "likewise",
    ("import", "--shard-id"): "it is of captured records; there are none in these lines",
    ("import", "--stream-arn"): "likewise",
}
# What else the error may call what the option is about: in Lambda's words, or because it is a name of something.
CALLED = {
    "--env": "environment",
    "--diff": "handler",
    "--source": "stream",
    "--before-sequence-number": "sequence number",
    "--layers": "layer",
    "--function-name": "function",
    "--qualifier": "function",
    "--uuid": "mapping",
    "--stream-name": "stream",
    "--event-source-arn": "stream",
    "--shard-to-split": "shard",
    "--shard-to-merge": "shard",
    "--adjacent-shard-to-merge": "shard",
    "--provisioned-concurrency": "provisioned concurrent executions",
}
# Where an option does not go with the scenario: the scenario for it.
INSTEAD = {
    ("run", "--concurrency"): "",
    ("replay", "--diff"): "seen.handler --stream s",
    ("replay", "--on-error"): "seen.handler --stream s --pause-on-error",
    ("invoke", "--event"): "called.echo",
    **{("trim", f"--before{what}"): "s" for what in ("", "-offset", "-sequence-number")},
    ("trim", "--older-than"): "s",
    ("merge-shards", "--adjacent-shard-to-merge"): f"apart --shard-to-merge {SHARD}",
    ("invoke", "--function-name"): "",
    ("export", "--key"): "changes -o out.jsonl",
    ("mapping update", "--uuid"): "--batch-size 7",
    ("mapping reset-checkpoint", "--uuid"): "--to LATEST",
    ("function update", "--function-name"): "--timeout 4",
    ("function create", "--function-name"): "--handler seen.handler",
    ("split-shard", "--stream-name"): f"--shard-to-split {SHARD}",
    ("merge-shards", "--stream-name"): f"--shard-to-merge {SHARD} --adjacent-shard-to-merge {SHARD}",
    ("update-shard-count", "--stream-name"): "--target-shard-count 2",
    **{(f"mapping {verb}", "--uuid"): "" for verb in ("show", "enable", "disable", "delete")},
    **{(f"function {verb}", "--function-name"): "" for verb in ("show", "versions", "delete")},
}


def letters(text):
    return re.sub(r"[^a-z0-9]", "", text.lower())


def bad_values(name):
    """Every option of a command that takes a value which it may refuse, with one that it must."""
    for parameter in LEAVES[name][0].params:
        if isinstance(parameter, click.Option) and not parameter.is_flag and not parameter.hidden:
            option = max(parameter.opts, key=len)
            if option not in FREE and (name, option) not in FREE:
                yield parameter.opts, option, BAD
                if isinstance(parameter.type, click.types.IntParamType):
                    yield parameter.opts, option, "-77"


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_value_that_cannot_be_taken_is_named_and_nothing_is_made(name, call, monkeypatch):
    monkeypatch.setattr(trio, "run", lambda *args, **kwargs: pytest.fail("it ran"))
    for opts, option, value in bad_values(name):
        words = INSTEAD.get((name, option), SCENARIOS[name]).split()
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
        code, out, err = call(*name.split(), *words, option, value)
        assert (code, out) == (2, ""), f"{option} {value}: exit code {code}: {err}"
        assert value in err, f"{option} {value}: the value is not named: {err}"
        thing = [*opts, CALLED.get(option, option)]
        assert any(letters(each) in letters(err) for each in thing), f"{option} {value}: the option is not named: {err}"
