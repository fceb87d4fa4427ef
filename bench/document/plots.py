"""The pictures of docs/performance.md: which there are, what each shows, and what it is drawn from."""

from bench.document import svg


def case(results, handler, batch):
    """The rows of a case of `bench.peers`, fastest first, as bars."""
    for found in results["peers"]["data"]["cases"]:
        if (found["handler"], found["batch"]) == (handler, batch):
            rows = [(row["peer"], row["rate"], row["ratio"] is None) for row in found["rows"]]
            return sorted(rows, key=lambda row: -row[1])
    raise KeyError(f"no case {handler} {batch}")


def ladder(results, name, *figures):
    """(label, [(x, y)]) of a ladder of `bench.scaling`."""
    rows = results["scaling"]["data"]["ladders"][name]
    return [(label, [(row["at"], figure(row)) for row in rows]) for label, figure in figures]


def rate(row):
    return row["rate"]


def runtime_mb(row):
    return row["runtime_bytes"] / 1e6


def worker_mb(row):
    return row["worker_bytes"] / 1e6


MEMORY = (("runtime", runtime_mb), ("each worker", worker_mb))

# Name: (section, what it shows, how it is drawn).
PLOTS = {
    "peers-noop": (
        "peers",
        "records a second, no-op handler, batch 100",
        lambda found, title: svg.bars(title, case(found, "noop", 100)),
    ),
    "peers-real": (
        "peers",
        "records a second, a handler that decodes and parses, batch 100",
        lambda found, title: svg.bars(title, case(found, "real", 100)),
    ),
    "sizes": (
        "scaling",
        "records a second by size of record",
        lambda found, title: svg.lines(
            title,
            "bytes a record",
            "records/s",
            ladder(found, "sizes", ("streamfn", rate), ("floor, one process", lambda row: row["floor"])),
            label_of=svg.short_bytes,
        ),
    ),
    "sizes-bytes": (
        "scaling",
        "megabytes a second by size of record",
        lambda found, title: svg.lines(
            title,
            "bytes a record",
            "MB/s",
            ladder(
                found,
                "sizes",
                ("streamfn", lambda row: row["rate"] * row["at"] / 1e6),
                ("floor, one process", lambda row: row["floor"] * row["at"] / 1e6),
            ),
            label_of=svg.short_bytes,
        ),
    ),
    "shards": (
        "scaling",
        "records a second by shards",
        lambda found, title: svg.lines(
            title, "shards", "records/s", ladder(found, "shards", ("streamfn", rate)), linear=True
        ),
    ),
    "mappings-memory": (
        "scaling",
        "memory by mappings in one run",
        lambda found, title: svg.lines(title, "mappings", "MB", ladder(found, "mappings", *MEMORY), linear=True),
    ),
    "backlog-memory": (
        "scaling",
        "memory by records waiting",
        lambda found, title: svg.lines(title, "records waiting", "MB", ladder(found, "backlog", *MEMORY), linear=True),
    ),
}


def drawn(results):
    """{name: (what it shows, SVG)} of the pictures there is something for."""
    return {
        name: (shows, draw(results, shows[0].upper() + shows[1:]))
        for name, (section, shows, draw) in PLOTS.items()
        if section in results
    }
