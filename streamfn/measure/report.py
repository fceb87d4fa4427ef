"""A result as one HTML page that needs nothing else: no scripts, no fonts, no request to anywhere.

    report          the page: what is said, and in which order
    report_charts   its charts, inline SVG
    report_tables   rows and heat maps of a sweep
    report_style    how it looks

Everything that comes from outside (names, paths, environment) is escaped; a content policy in the page forbids what the
page does not need, so that a mistake there would do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from streamfn.measure.counts import Counts
from streamfn.measure.files import write_whole
from streamfn.measure.noise import complaints
from streamfn.measure.report_charts import latency_chart, percentile_chart, stages_chart, throughput_chart
from streamfn.measure.report_style import STYLE
from streamfn.measure.report_tables import cpu_per_record, heat_maps, named, rows_table, shown_bytes
from streamfn.measure.result import Result, Row
from streamfn.measure.scales import nines, percent_at, shown_number, shown_time
from streamfn.measure.threshold import parse

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
PERCENTILES = (50, 75, 90, 95, 99, 99.9, 99.99, 99.999)
# Where a record's time goes, in the order in which it goes there.
STAGES = {
    "waiting": "of a record: from when it was due until its batch was complete and handed over",
    "queueing": "of an invocation, as the next ones: until a worker took it",
    "building": "making the event out of the log",
    "handler": "your handler",
    "completion": "from its end until the runtime had seen it",
    "checkpoint": "from there until the checkpoint was durable",
}
OPEN = (
    "Open loop: a record counts from the moment it was due, so a stall is charged to everything that waited behind it."
)
CLOSED = (
    "Closed loop: there was always a next record, due when there was room for it. That says how much goes through, not "
    "how long a record would take at a rate: a stall delays the records behind it without being counted in their "
    "latency. For that, offer a rate (--rate)."
)


def write_html(path: Path, result: Result) -> None:
    """Write the page, whole or not at all. Raises FailedError where it cannot be written."""
    write_whole(path, html(result))


def html(result: Result) -> str:
    """The page for a result of one row or of a sweep; the best row is what it speaks of first."""
    row = result.rows[result.best]
    swept = len(result.rows) > 1
    parts = [
        f"<h1>{escape(row.handler)}</h1>",
        f'<p class="meta">{escape(_meta(result, row))}</p>',
        _notices(result),
        _tiles(row),
        _thresholds(result),
        '<div class="grid">',
        _figure(
            "Latency by percentile",
            percentile_chart(row.latency, _others(result)) + _percentiles(row) if row.latency.total else _NOTHING,
            _keys(("", "best row"), ("other", "the others")) if swept else "",
            OPEN if row.mode == "open" else CLOSED,
        ),
        _stages(row),
        *_over_time(row, swept=swept),
        "</div>",
    ]
    if swept:
        maps = "".join(_figure(title, table, "", STRONGER) for title, table in heat_maps(result.rows, result.best))
        table = rows_table(result.rows, result.best)
        parts.append(f'<div class="grid">{maps}{_card(f"All {len(result.rows)} rows", table, "full")}</div>')
    parts.append(f'<div class="grid">{_environment(result)}{_processes(row)}</div>')
    return _page(f"streamfn bench: {row.handler}", "".join(parts))


_CORES = {"cores": "in all", "usable_cores": "usable", "quota_cores": "by quota"}
STRONGER = "The stronger the colour, the more it is."
_NOTHING = '<p class="soft">No record was finished while it was measured.</p>'


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def _meta(result: Result, row: Row) -> str:
    what = {"generated": "generated records", "stream": "records of a stream", "file": "records of a file"}
    kind = str(row.source.get("kind", ""))
    name = next((str(row.source[key]) for key in ("name", "stream", "path", "file") if row.source.get(key)), "")
    best = f"the best of {len(result.rows)} rows: " if len(result.rows) > 1 else ""
    return f"streamfn bench · {what.get(kind, kind)}{' ' + name if name else ''} · {best}{named(row)}"


def _notices(result: Result) -> str:
    """What makes the figures doubtful, before anybody reads them."""
    lines = [f"<li>{escape(line)}</li>" for line in complaints(result.noise, result.environment)]
    return _card("Why these figures may not hold", _list(lines), "notice") if lines else ""


def _tiles(row: Row) -> str:
    offered = "as fast as possible" if row.rate_offered is None else f"of {shown_number(row.rate_offered)} offered"
    if row.ramp is not None:
        offered = f"of {shown_number(row.ramp[0])} to {shown_number(row.ramp[1])} offered"
    tiles = [("Records per second", shown_number(row.rate_achieved), offered)]
    if row.latency.total:
        for percent, about in ((50, "half are quicker"), (99, "99 of 100"), (99.9, "999 of 1,000")):
            tiles.append((f"p{percent:g}", shown_time(row.latency.percentile(percent)), about))
        tiles.append(("Longest", shown_time(row.latency.max), f"mean {shown_time(row.latency.mean)}"))
    tiles.append(("Records", f"{row.records:,}", f"{row.batches:,} batches in {row.seconds:.3g} s"))
    tiles.append(("Errors", f"{row.errors:,}", f"{row.discarded:,} records discarded"))
    if row.runtime_us_per_record is not None or row.workers_us_per_record is not None:
        shares = [
            f"{who} {shown_time(us * 1000)}"
            for who, us in (("runtime", row.runtime_us_per_record), ("workers", row.workers_us_per_record))
            if us is not None
        ]
        tiles.append(("CPU for a record", cpu_per_record(row), ", ".join(shares)))
    inside = "".join(
        f'<dl class="card tile"><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(about)}</small></dd></dl>'
        for name, value, about in tiles
    )
    return f'<div class="tiles">{inside}</div>'


def _thresholds(result: Result) -> str:
    """Which were met, and what the figures were, in their own units."""
    if not result.thresholds:
        return ""
    lines = []
    for each in result.thresholds:
        text, kind = str(each["text"]), "met" if each["met"] else "missed"
        shown = parse(text).check(result).shown
        lines.append(f'<li><span class="{kind}">{kind}</span> <code>{escape(text)}</code>: {escape(shown)}</li>')
    return f'<div class="grid">{_card("Thresholds", _list(lines), "full")}</div>'


def _others(result: Result) -> dict[str, Counts]:
    return {
        f"{number + 1}: {named(row)}": row.latency
        for number, row in enumerate(result.rows)
        if number != result.best and row.latency.total
    }


def _percentiles(row: Row) -> str:
    """The figures under the curve, as far as the records tell them apart."""
    shown = [percent for percent in PERCENTILES if percent <= percent_at(nines(row.latency))]
    lines = [(f"{percent:g} %", shown_time(row.latency.percentile(percent))) for percent in shown]
    lines += [("maximum", shown_time(row.latency.max)), ("mean", shown_time(row.latency.mean))]
    body = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in lines)
    head = "<tr><th>of the records</th><th>at most</th></tr>"
    return f'<table class="wide"><thead>{head}</thead><tbody>{body}</tbody></table>'


def _stages(row: Row) -> str:
    """Where the time goes: a chart, and the figures under it."""
    known = [name for name in STAGES if name in row.stages]
    stages = {name: row.stages[name] for name in [*known, *(name for name in row.stages if name not in STAGES)]}
    if not any(counts.total for counts in stages.values()):
        return ""
    lines = []
    for name, counts in stages.items():
        cells = [shown_time(counts.percentile(percent)) if counts.total else "–" for percent in (50, 99, 100)]
        about = f"<br><span class='soft'>{escape(STAGES[name])}</span>" if name in STAGES else ""
        figures = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f'<tr><td style="white-space:normal">{escape(name)}{about}</td>{figures}</tr>')
    heads = "".join(f"<th>{head}</th>" for head in ("stage", "p50", "p99", "max"))
    table = f'<table class="wide"><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    note = "A dot is the median, the bar goes up to p99, the thin line to the maximum. Percentiles do not add up."
    return _figure("Where the time goes", stages_chart(stages) + table, "", note)


def _over_time(row: Row, *, swept: bool) -> list[str]:
    """Two charts over time, of the row's first run."""
    first = [sample for sample in row.samples if sample.run == row.samples[0].run]
    if not sum(sample.seconds for sample in first):
        return []
    of = " (best row)" if swept else ""
    offered = row.ramp or (row.rate_offered and (row.rate_offered, row.rate_offered))
    keys = _keys(("offered", "offered")) if offered else ""
    found = [_figure(f"Throughput over time{of}", throughput_chart(first, offered or None), keys)]
    if any(sample.latency.total for sample in first):
        found.append(_figure(f"Latency over time{of}", latency_chart(first), _keys(("", "p50"), ("second", "p99"))))
    return found


def _environment(result: Result) -> str:
    """The machine, and what was seen of others on it."""
    found = result.environment
    memory, load = found.get("memory_bytes"), found.get("load")
    cores = ", ".join(f"{found[name]} {word}" for name, word in _CORES.items() if found.get(name) is not None)
    versions = found.get("versions")
    facts = {
        "processor": found.get("cpu"),
        "cores": cores or None,
        "governor": found.get("governor"),
        "turbo": found.get("turbo"),
        "virtual": "yes" if found.get("virtual") else None,
        "memory": shown_bytes(memory) if isinstance(memory, int) else None,
        "kernel": found.get("kernel"),
        "Python": found.get("python"),
        "streamfn": found.get("streamfn"),
        "with": ", ".join(f"{name} {at}" for name, at in versions.items()) if isinstance(versions, Mapping) else None,
        "measured at": found.get("time"),
        "load average before": ", ".join(f"{each:.2f}" for each in load) if isinstance(load, Sequence) else None,
        **_noise(result.noise),
    }
    return _pairs("Measured on", {name: value for name, value in facts.items() if value is not None})


def _noise(noise: Mapping[str, object]) -> dict[str, object]:
    """What was seen just before the measurement; nothing of it where it was not looked for."""
    stolen, pause, wakeup = noise.get("stolen"), noise.get("worst_pause_ms"), noise.get("wakeup_ms")
    found: dict[str, object] = {}
    if isinstance(stolen, float):
        found["of its time others had"] = f"{stolen:.1%}"
    if isinstance(pause, float):
        found["longest pause"] = shown_time(pause * 1e6)
    if isinstance(wakeup, Mapping):
        found["a sleep of 1 ms was late by"] = ", ".join(f"{name} {at:.3g} ms" for name, at in wakeup.items())
    return found


def _processes(row: Row) -> str:
    """What the processes of the row used."""
    found: dict[str, object] = {}
    if row.cold_starts.total:
        longest = shown_time(row.cold_starts.max)
        found["cold starts"] = (
            f"{row.cold_starts.total}, p50 {shown_time(row.cold_starts.percentile(50))}, max {longest}"
        )
    found |= {f"context switches, {kind}": f"{number:,}" for kind, number in row.context_switches.items()}
    found |= {f"page faults, {kind}": f"{number:,}" for kind, number in row.page_faults.items()}
    found |= {f"peak memory, {who}": shown_bytes(size) for who, size in row.peak_memory_bytes.items()}
    return _pairs("Processes", found)


def _pairs(title: str, facts: Mapping[str, object]) -> str:
    if not facts:
        return ""
    inside = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items())
    return _card(title, f'<dl class="pairs">{inside}</dl>')


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(items)}</ul>"


def _keys(*keys: tuple[str, str]) -> str:
    inside = "".join(f'<span class="key"><i class="{kind}"></i>{escape(name)}</span>' for kind, name in keys)
    return f'<p class="soft">{inside}</p>'


def _figure(title: str, content: str, keys: str = "", note: str = "") -> str:
    caption = f"<figcaption>{escape(note)}</figcaption>" if note else ""
    return f'<figure class="card"><h2>{escape(title)}</h2>{keys}{content}{caption}</figure>'


def _card(title: str, content: str, kind: str = "") -> str:
    return f'<section class="card {kind}"><h2>{escape(title)}</h2>{content}</section>'
