"""The tree is the architecture: `docs/architecture.md`'s table of layers, held by a walk over the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "streamfn"
NATIVE = {"_native", "_events"}
LAYER = {
    "errors": 0, "limits": 0, "types": 0, "clock": 0, "version": 0,
    "core": 1,
    "log": 2, "events": 2, "formats": 2, "pool": 2, "state": 2, "measure": 2,
    "functions": 3,
    "mapping": 4, "capture": 4,
    "benchmark": 5, "replay": 5,
    "doors": 6, "session": 6, "sync": 6, "cli": 6,
}  # fmt: skip
THIRD_PARTY = {
    0: set(),
    1: set(),
    "log": {"pyarrow", "cffi"},
    "events": {"orjson", "pyarrow"},  # the latter for Arrow handlers alone
    "formats": {"pyarrow", "orjson", "google"},
    "pool": {"trio", "orjson"},
    "state": {"orjson"},
    "measure": {"orjson", "hdrh"},
    "capture": {"trio", "orjson", "boto3", "botocore"},
    "functions": {"trio", "orjson"},
    4: {"trio", "orjson", "hdrh", "fsspec"},
    5: {"trio", "orjson", "pyarrow", "hdrh"},
    6: {"trio", "orjson", "pyarrow", "click", "rich", "hdrh"},
}
# The packages inside `log`, from the lowest to the highest: imports point down here too.
LOG = ["storage", "format", "catalog", "segment", "sharing", "shard", "producer", "upkeep"]
# What the pure core may not even look at: it is told the time, and never waits.
IMPURE = {"os", "time", "threading", "socket", "subprocess", "random", "sqlite3", "asyncio", "select", "signal"}


def log_home(name):
    """Which package of the log a dotted name belongs to; None for others."""
    parts = name.split(".")
    return parts[2] if parts[:2] == ["streamfn", "log"] and len(parts) > 2 else None


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if "testing" not in path.parts)


def home(path):
    """The top-level name in `streamfn` that a file belongs to."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path):
    """The dotted names a file imports, those for type checkers alone included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.update(
                f"{node.module}.{alias.name}" if node.module == "streamfn" else node.module for alias in node.names
            )
    return names


def ours(path):
    return {name.split(".")[1] for name in imports(path) if name.startswith("streamfn.")} - NATIVE


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_its_own_package_and_lower_layers_only(path):
    mine = home(path)
    if mine in ("__init__", "__main__"):
        return
    for name in ours(path):
        lower = LAYER[name] < LAYER[mine]
        edge = LAYER[mine] == 6  # the doors of the same house may use each other
        assert name == mine or lower or edge, f"{path.name} ({mine}) imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "log").glob("*/*.py")), ids=lambda path: "/".join(path.parts[-2:]))
def test_inside_the_log_imports_point_down_too(path):
    mine = path.parent.name
    for name in imports(path):
        other = log_home(name)
        if other is not None:
            assert LOG.index(other) <= LOG.index(mine), f"{path.name} (log/{mine}) imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_third_party_packages_stay_where_the_table_has_them(path):
    mine = home(path)
    if mine in ("__init__", "__main__"):
        return
    allowed = THIRD_PARTY.get(mine, THIRD_PARTY.get(LAYER[mine]))
    top = {name.split(".")[0] for name in imports(path)} - {"streamfn"}
    outside = {name for name in top if name not in sys.stdlib_module_names and name != "__future__"}
    assert outside <= allowed, f"{path.name} imports {outside - allowed}"


PURE = sorted((PACKAGE / "core").rglob("*.py")) + [
    PACKAGE / "capture" / f"{name}.py" for name in ("source", "pace", "reading", "lineage")
]


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.name)
def test_the_core_never_asks_the_time_or_the_system(path):
    top = {name.split(".")[0] for name in imports(path)}
    assert not top & IMPURE


# Who is asking, and how a call is to be made: not storage.
NOT_STORAGE = {"PathLike", "W_OK", "X_OK", "access", "geteuid", "getpid", "strerror"}
SYSTEM = {"disk.py", "libc.py", "watch.py", "rendezvous.py", "wakeup.py"}  # storage, inotify, sockets, eventfd


@pytest.mark.parametrize(
    "path",
    sorted(path for path in (PACKAGE / "log").rglob("*.py") if path.name not in SYSTEM),
    ids=lambda path: path.name,
)
def test_the_log_touches_storage_through_a_disk_only(path):
    names = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
    }
    direct = {name for name in names - NOT_STORAGE if not name.startswith("O_")}
    assert not direct, f"{path.name} calls os.{', os.'.join(sorted(direct))}"
    assert not {"fcntl", "mmap", "tempfile"} & imports(path)


def test_the_table_of_the_mapping_package_has_every_module_of_it_once():
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    table = page.split("| group of `mapping/` |")[1].split("\n\n")[0]
    column = " ".join(line.split("|")[2] for line in table.splitlines()[2:])
    assert sorted(column.replace("`", " ").replace("·", " ").split()) == sorted(
        path.stem for path in (PACKAGE / "mapping").glob("*.py") if path.stem != "__init__"
    )


def test_the_workers_main_loads_neither_trio_nor_pyarrow_nor_click():
    script = (
        "import sys, streamfn.mapping.worker, streamfn.pool.zygote\n"
        "heavy = {'trio', 'pyarrow', 'click', 'rich', 'sqlite3', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'a worker loads {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
