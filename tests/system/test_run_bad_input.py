"""What `streamfn run` refuses, and how it says so: one line, the right code, nothing changed."""

import re
import shutil
import subprocess

import pytest
from run_rig import FUNCTIONS, error_line


@pytest.fixture
def ready(place):
    place.stream(shards=2, contents=range(10))
    return place


def tree(place):
    """Everything in the data directory, by content; a run that was refused must not change it."""
    return {
        path.relative_to(place.data): path.read_bytes() if path.is_file() and path.stat().st_size < 1 << 20 else None
        for path in place.data.rglob("*")
    }


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--stream", "nope"], r"unknown stream 'nope' .*there is s$"),
        (["--stream", "../x"], r"stream name '\.\./x' is not valid"),
        (["--stream", "s", "--batch-size", "0"],
         r"^1 validation error detected: Value '0' at 'batchSize' failed to satisfy constraint: "
         r"Member must have value greater than or equal to 1$"),
        (["--stream", "s", "--batch-size", "10001"],
         r"^1 validation error detected: Value '10001' at 'batchSize' failed to satisfy constraint: "
         r"Member must have value less than or equal to 10000$"),
        (["--stream", "s", "--env", "AWS_LAMBDA_X=1"], r"reserved keys"),
        (["--stream", "s", "--starting-position", "AT_TIMESTAMP"], r"needs a starting position timestamp"),
    ],
    ids=["unknown stream", "a path", "batch size 0", "batch size 10001", "reserved variable", "no time"],
)  # fmt: skip
def test_what_cannot_be_meant_exits_2_and_makes_nothing(ready, arguments, text):
    before = tree(ready)
    done = ready.run("run", "seen.handler", *arguments)
    assert done.code == 2
    assert re.search(text, error_line(done))
    assert tree(ready) == before


def test_a_missing_data_directory_is_refused_and_not_made(place):
    done = place.run("run", "seen.handler", "--stream", "s")
    assert done.code == 2
    assert str(place.data) in error_line(done)
    assert not place.data.exists()


@pytest.mark.parametrize(
    ("handler", "line", "shown"),
    [
        ("no_such.handler", "Unable to import module 'no_such': No module named 'no_such'", []),
        ("broken/bad_import.handler", "No module named 'no_such_module_anywhere'",
         ["bad_import.py\", line 1, in <module>"]),
        ("broken/raises.handler", "ValueError: no table name given",
         ["configuring\n", "line 2, in configure", "line 6, in <module>"]),
        ("broken/leaves.handler", "Runtime exited with error: exit status 3", ["no configuration found\n"]),
        ("broken/values.handler", "Handler 'handler' missing on module", []),
        ("broken/values.number", "is not callable: it is 5", []),
        ("sys.exit", "Cannot use built-in module sys as a handler module", []),
    ],
)  # fmt: skip
def test_a_handler_that_cannot_be_loaded_exits_1_with_its_own_traceback(ready, handler, line, shown):
    done = ready.caught_up(handler)
    assert done.code == 1
    assert line in error_line(done)
    assert handler in error_line(done)
    for text in shown:
        assert text in done.err
    frames = re.findall(r'File "([^"]+)"', done.err)
    assert all(frame.startswith(str(FUNCTIONS)) for frame in frames), done.err
    assert done.out == ""
    assert ready.mapping(f"{handler}@s") is None


def test_a_syntax_error_is_shown_where_it_is(ready, tmp_path):
    (tmp_path / "slip.py").write_text("x = 1\ndef handler(event, context:\n    pass\n")
    done = ready.caught_up("slip.handler", cwd=tmp_path)
    assert done.code == 1
    assert "Syntax error in module 'slip'" in error_line(done)
    assert f'File "{tmp_path}/slip.py" Line 2' in done.err
    assert "def handler(event, context:" in done.err
    assert "streamfn/pool" not in done.err


def test_a_name_that_is_bound_to_another_stream_exits_2(ready):
    ready.stream("other", contents=["x"])
    assert ready.caught_up("seen.handler", "--name", "mine").code == 0
    before = ready.mapping("mine")
    done = ready.run("run", "seen.handler", "--stream", "other", "--name", "mine", "--until-caught-up")
    assert done.code == 2
    assert "'mine' is bound to the stream 's'" in error_line(done)
    assert ready.mapping("mine") == before


def test_a_second_run_of_a_mapping_names_the_first_ones_process_and_changes_nothing(ready):
    with ready.following("seen.handler", "--name", "mine") as first:
        until_seen(ready)
        before = ready.mapping("mine")
        second = ready.caught_up("seen.slow", "--name", "mine")
        assert second.code == 1
        assert f"process {first.pid}" in error_line(second)
        assert ready.mapping("mine") == before
        first.signal()
        assert first.wait() == 0
    assert ready.caught_up("seen.handler", "--name", "mine").summary["records"] == 0


def until_seen(place):
    from run_rig import until

    until(place.seen.exists, "a first delivery")


@pytest.fixture
def frozen(ready):
    """The data directory, mounted read-only (root may write where modes forbid it)."""
    made = subprocess.run(["mount", "--bind", ready.data, ready.data], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip("a bind mount is not permitted here: " + made.stderr.strip())
    subprocess.run(["mount", "-o", "remount,ro,bind", ready.data], check=True)
    yield ready
    subprocess.run(["umount", "-l", ready.data], check=True)


def test_a_read_only_data_directory_is_refused_with_its_path_and_the_uid(frozen):
    done = frozen.caught_up("seen.handler")
    assert done.code == 1
    assert re.search(rf"{frozen.data}.* uid \d+", error_line(done))


def test_a_data_directory_of_a_newer_format_is_not_touched(ready):
    (ready.data / "format").write_text('{"streamfn": 99}\n')
    before = tree(ready)
    done = ready.caught_up("seen.handler")
    assert done.code == 1
    assert "format 99, newer than" in error_line(done)
    assert tree(ready) == before


def test_a_state_database_of_a_newer_format_is_not_touched(ready):
    import sqlite3

    assert ready.caught_up("seen.handler").code == 0
    with sqlite3.connect(ready.data / "state.db") as connection:
        connection.execute("UPDATE format SET version = 99")
    connection.close()
    done = ready.caught_up("seen.handler")
    assert done.code == 1
    assert "has format version 99" in error_line(done)


def test_a_damaged_state_database_is_named_with_the_way_out(ready):
    (ready.data / "state.db").write_bytes(b"not a database, but long enough to look like one" * 100)
    done = ready.caught_up("seen.handler")
    assert done.code == 1
    assert "state.db is damaged" in error_line(done)
    assert "move it" in error_line(done)


def test_the_code_directory_may_vanish_under_a_running_mapping(ready, tmp_path):
    code = tmp_path / "code"
    shutil.copytree(FUNCTIONS, code)
    with ready.following("seen.handler", cwd=code) as run:
        until_seen(ready)
        shutil.rmtree(code)
        ready.put(["late"])
        run.signal()
        assert run.wait() == 0, run.err
