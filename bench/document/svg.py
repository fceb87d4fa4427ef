"""Charts as SVG, drawn for a page that may be light or dark. Pure: figures in, text out."""

import math
from html import escape

STYLE = """
text{font:12px system-ui,sans-serif;fill:#24292f}.t{font-weight:600;font-size:14px}.m{fill:#57606a}
.g{stroke:#d0d7de;stroke-width:1}.s0{stroke:#0969da}.s1{stroke:#8c959f}.s2{stroke:#bc4c00}.f0{fill:#0969da}.f1{fill:#8c959f}
.f2{fill:#bc4c00}.l{fill:none;stroke-width:2}.b{fill:#ffffff}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.m{fill:#9198a1}.g{stroke:#3d444d}.b{fill:#0d1117}
.s0{stroke:#4493f8}.s1{stroke:#9198a1}.s2{stroke:#f0883e}.f0{fill:#4493f8}.f1{fill:#9198a1}.f2{fill:#f0883e}}
"""
WIDTH = 760


def short(value):
    """A figure as a label: 1.2 M, 30 k, 7."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def short_bytes(size):
    """A size as a label: 64 B, 1 KiB, 1 MiB."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size} B"


def page(title, height, parts):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    shape = f'<rect class="b" width="{WIDTH}" height="{height}" rx="6"/>'
    heading = f'<text class="t" x="16" y="24">{escape(title)}</text>'
    return "\n".join(
        [head, f"<title>{escape(title)}</title><style>{STYLE}</style>", shape, heading, *parts, "</svg>", ""]
    )


def bars(title, rows):
    """A bar each for (label, value, emphasised); values from zero."""
    left, right, step, top = 280, 90, 26, 40
    most = max(value for _, value, _ in rows)
    parts = []
    for place, (label, value, emphasised) in enumerate(rows):
        y = top + place * step
        length = (WIDTH - left - right) * value / most
        middle = y + 15
        parts.append(f'<text x="{left - 10}" y="{middle}" text-anchor="end">{escape(label)}</text>')
        kind = "f0" if emphasised else "f1"
        parts.append(f'<rect class="{kind}" x="{left}" y="{y + 2}" width="{max(length, 1):.1f}" height="18" rx="2"/>')
        parts.append(f'<text x="{left + length + 8:.1f}" y="{middle}">{short(value)}</text>')
    return page(title, top + len(rows) * step + 14, parts)


def decades(low, high):
    """Powers of ten around two values."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def steps(high):
    """Round values from zero to above `high`, five to nine of them."""
    unit = 10.0 ** math.floor(math.log10(high))
    step = next(size * unit for size in (0.2, 0.5, 1, 2) if high / (size * unit) <= 8)
    return [step * number for number in range(math.ceil(high / step) + 1)]


def lines(title, across, up, series, *, label_of=short, linear=False):
    """A line each for (label, [(x, y)]), its label at its end; x is logarithmic, y too unless it is to be linear."""
    left, right, top, bottom, height = 64, 150, 44, 48, 320
    points = [point for _, line in series for point in line]
    xs, values = sorted({x for x, _ in points}), [y for _, y in points]
    ticks = steps(max(values)) if linear else decades(min(values), max(values))

    def at_x(x):
        share = math.log(x / xs[0]) / (math.log(xs[-1] / xs[0]) or 1)
        return left + (WIDTH - left - right) * share

    def at_y(y):
        share = y / ticks[-1] if linear else math.log(y / ticks[0]) / math.log(ticks[-1] / ticks[0])
        return height - bottom - (height - top - bottom) * share

    parts = [f'<text class="m" x="{WIDTH - right}" y="{height - 10}" text-anchor="end">{escape(across)}</text>']
    parts.append(f'<text class="m" x="16" y="{height - 10}">{escape(up)}</text>')
    for tick in ticks:
        y = at_y(tick)
        parts.append(f'<line class="g" x1="{left}" y1="{y:.1f}" x2="{WIDTH - right}" y2="{y:.1f}"/>')
        parts.append(f'<text class="m" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    for x in xs:
        label = label_of(x)
        parts.append(
            f'<text class="m" x="{at_x(x):.1f}" y="{height - bottom + 18}" text-anchor="middle">{label}</text>'
        )
    ends = spread([(label, at_y(line[-1][1])) for label, line in series])
    for place, ((label, end), (_, line)) in enumerate(zip(ends, series, strict=True)):
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in line)
        parts.append(f'<polyline class="l s{place}" points="{path}"/>')
        parts += [f'<circle class="f{place}" cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3"/>' for x, y in line]
        parts.append(
            f'<text class="f{place}" x="{at_x(line[-1][0]) + 10:.1f}" y="{end + 4:.1f}">{escape(label)}</text>'
        )
    return page(title, height, parts)


def spread(labels, apart=16):
    """The same labels, in the same order, no two closer together than that."""
    placed = {}
    last = -math.inf
    for label, y in sorted(labels, key=lambda item: item[1]):
        last = placed[label] = max(y, last + apart)
    return [(label, placed[label]) for label, _ in labels]
