"""`python -m bench.document`: make docs/performance.md from the template beside this file and from results.json.

    python -m bench.document                               from what has been measured; measures nothing
    python -m bench.document --measure peers scaling       measure these sections first (`--list` says which there are)
    python -m bench.document --measure all
    python -m bench.document --measure all --quick         whether everything runs, into a directory of its own

What is measured is kept section by section, so an interrupted run loses one of them.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench.document.plots import PLOTS, drawn
from bench.document.rendering import render
from bench.document.sections import BY_NAME, SECTIONS, measure
from bench.engine import ROOT

HERE = Path(__file__).resolve().parent
TEMPLATE, RESULTS = HERE / "performance.md", HERE / "results.json"
DOCS = ROOT / "docs"


def load(path):
    return json.loads(path.read_text()) if path.exists() else {}


def documents(template, results):
    """{path below docs: text} of everything that is generated."""
    pictures = drawn(results)
    plots = {name: (f"plots/{name}.svg", pictures[name][0]) if name in pictures else None for name in PLOTS}
    made = {f"plots/{name}.svg": picture for name, (_, picture) in pictures.items()}
    return {"performance.md": render(template, results, set(BY_NAME), plots), **made}


def write(results, docs):
    for name, text in documents(TEMPLATE.read_text(), results).items():
        path = docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m bench.document", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", nargs="+", metavar="SECTION", default=[], help="sections to measure first, or all")
    parser.add_argument("--quick", action="store_true", help="as little as shows that it runs; docs/ is left alone")
    parser.add_argument("--peers-python", help="the interpreter of the environment with the peers (bench/peers)")
    parser.add_argument("--list", action="store_true", help="say which sections there are, and how long each takes")
    options = parser.parse_args()
    if options.list:
        for section in SECTIONS:
            print(f"{section.name:18} {section.minutes:4} min  python -m {' '.join(section.command)}")
        return
    names = list(BY_NAME) if options.measure == ["all"] else options.measure
    if unknown := [name for name in names if name not in BY_NAME]:
        parser.error(f"there is no section {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    docs, kept = DOCS, RESULTS
    if options.quick:
        docs = Path(tempfile.mkdtemp(prefix="bench-docs-"))
        kept = docs / "results.json"
    results = load(RESULTS)
    for name in names:
        section = BY_NAME[name]
        print(f"{name}: about {section.minutes} min", file=sys.stderr)
        extra = ["--python", options.peers_python] if name == "peers" and options.peers_python else []
        results[name] = measure(section, quick=options.quick, extra=extra)
        kept.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write(results, docs)
    print(docs / "performance.md")


if __name__ == "__main__":
    main()
