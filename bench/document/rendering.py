"""A document of its template and of what was measured. Pure.

<!-- measured NAME -->        everything that section NAME has printed, below a line that says how and when
...                           what stands here until it is measured
<!-- end -->
<!-- measured NAME 2 -->      its second block alone (a block: lines up to an empty one; the first line of all is
                              what it was measured on, and no block)
<!-- plot NAME -->            a picture, where there is what it is drawn from
"""

import re

DIRECTIVE = re.compile(r"^<!-- (measured|how|plot|end)(?: ([\w-]+))?(?: (\d+))? -->$")

QUIET_LOAD = 0.5  # the load average that other work leaves


class DocumentError(Exception):
    """A template that cannot be filled in: its message says where and why."""


def blocks(printed):
    """What a section has measured on, and the blocks of what it printed."""
    first, _, rest = printed.partition("\n")
    if first.startswith("|"):
        first, rest = "", printed
    return first, [block for block in re.split(r"\n\s*\n", rest.strip()) if block]


def measured(result, number=None):
    """The text that stands for a measurement."""
    _, found = blocks(result["printed"])
    if number is not None:
        if number > len(found):
            raise DocumentError(f"`{result['command']}` has printed {len(found)} blocks, so there is no block {number}")
        return found[number - 1]
    return "\n\n".join([how(result), *found])


def how(result):
    """The line that says how, when and on what it was measured."""
    machine, _ = blocks(result["printed"])
    took = f"{result['seconds']} s" if result["seconds"] < 120 else f"{result['seconds'] / 60:.0f} minutes"
    beside = f", beside other work (load {result['load']} when it began)" if result["load"] > QUIET_LOAD else ""
    said = f"`{result['command']}`, {result['date']}, {took}{beside}."
    return f"{said} {machine}." if machine else said


def render(template, results, names, plots):
    """The document. `names` are the sections there are, `plots` the pictures: {name: (path, what it shows) or None}."""
    lines, skipping = [], None
    for number, line in enumerate(template.splitlines(), 1):
        match = DIRECTIVE.match(line)
        if match is None:
            if line.startswith("<!-- ") and line.split()[1] in ("measured", "how", "plot", "end"):
                raise DocumentError(f"line {number}: `{line}` is no directive")
            if not skipping:
                lines.append(line)
            continue
        what, name, block = match.groups()
        if what == "end":
            if skipping is None:
                raise DocumentError(f"line {number}: nothing ends here")
            skipping = None
        elif what == "plot":
            if name not in plots:
                raise DocumentError(f"line {number}: there is no plot {name}")
            if plots[name] and not skipping:
                path, shows = plots[name]
                lines.append(f"![{shows}]({path})")
        elif what == "how":
            if name not in names:
                raise DocumentError(f"line {number}: there is no section {name}")
            if name in results and not skipping:
                lines.append(how(results[name]))
        else:
            if skipping is not None:
                raise DocumentError(f"line {number}: the measurement before this one has no end")
            if name not in names:
                raise DocumentError(f"line {number}: there is no section {name}")
            skipping = name in results
            if skipping:
                lines.append(measured(results[name], int(block) if block else None))
    if skipping is not None:
        raise DocumentError("the last measurement has no end")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"
