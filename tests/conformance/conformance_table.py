"""Write docs/conformance.md from the marks on the tests: `python tests/conformance/conformance_table.py`.

A test that shows a rule of Lambda's event source mappings says so:

    @pytest.mark.conformance(
        "retries/progress-resets-the-budget",           # group/name, once in the whole suite with a rule
        source="recorded",                              # recorded, documented, inferred or ours
        rule="Progress gives what is left of a batch a fresh budget of attempts.",
        differs="",                                     # optional: where we knowingly do something else
    )

Another test that shows the same rule gives the id alone.  One test may carry several marks, and a mark may stand in a
`pytest.param(..., marks=...)`.  The marks are read from the source, nothing is imported or run.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "conformance.md"

SOURCES = {
    "recorded": "seen in the real service",
    "documented": "AWS's developer guide or service model says so",
    "inferred": "follows from what was recorded or documented, or fits the one recording there is",
    "ours": "AWS says nothing; decided here, for the reason that the rule gives",
}
GROUPS = {
    "events": "What a handler is given",
    "batches": "Batches",
    "retries": "Failures and retries",
    "age": "Record age",
    "bisect": "Bisect on function error",
    "responses": "What a handler returns",
    "discards": "Discards and on-failure records",
    "lanes": "Parallel lanes",
    "windows": "Tumbling windows",
    "filters": "Filters",
    "shards": "Positions, shards and resharding",
    "mappings": "Mappings: life cycle, shapes and refusals",
    "functions": "Functions: configuration, versions and single calls",
    "promises": "Order, checkpoints and liveness",
}

PREAMBLE = """\
# Conformance

Every rule of Lambda's event source mappings for Kinesis and DynamoDB streams that streamfn keeps, where the rule comes
from, and the test that shows it. This page is generated from the marks on the tests
(`python tests/conformance/conformance_table.py`), and a test fails when it is stale: what stands here is run.
"""


@dataclass
class Rule:
    """One row: what is said of the rule, and the tests that show it."""

    name: str
    source: str = ""
    text: str = ""
    differs: str = ""
    tests: list[str] = field(default_factory=list)


class BadMark(Exception):
    """A mark that the table cannot take; the text says where and why."""


def collect(directory: Path) -> dict[str, Rule]:
    """Read the marks of all tests below `directory`.  Raises BadMark."""
    rules: dict[str, Rule] = {}
    for path in sorted(directory.rglob("test_*.py")):
        source = path.read_text("utf-8")
        if "mark.conformance" not in source:
            continue
        where = path.relative_to(directory.parent).as_posix()
        for test, call in marks(ast.parse(source), f"{where}::"):
            take(rules, test, call)
    for rule in rules.values():
        if not rule.text:
            raise BadMark(f"{rule.name}: no mark says source= and rule= ({rule.tests[0]})")
    return rules


def marks(tree: ast.AST, prefix: str) -> Iterator[tuple[str, ast.Call]]:
    """Every mark in the decorators of functions and classes, with the name of the test it is on."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                yield from in_decorator(decorator, prefix + node.name)
            if isinstance(node, ast.ClassDef):
                yield from marks(node, f"{prefix}{node.name}::")


def in_decorator(node: ast.AST, test: str) -> Iterator[tuple[str, ast.Call]]:
    if isinstance(node, ast.Call):
        if is_mark(node):
            yield test, node
            return
        case = next((word.value for word in node.keywords if word.arg == "id"), None)
        if isinstance(case, ast.Constant):
            test = f"{test}[{case.value}]"
    for child in ast.iter_child_nodes(node):
        yield from in_decorator(child, test)


def is_mark(call: ast.Call) -> bool:
    return ast.unparse(call.func).endswith("mark.conformance")


def take(rules: dict[str, Rule], test: str, call: ast.Call) -> None:
    """Add a mark to the table."""
    try:
        (name,) = (ast.literal_eval(argument) for argument in call.args)
        words = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except ValueError as error:
        raise BadMark(f"{test}: one id, and literals for the rest, please: {ast.unparse(call)}") from error
    if not set(words) <= {"source", "rule", "differs"}:
        raise BadMark(f"{test}: {name} has {sorted(words)}; known are source, rule and differs")
    if name.partition("/")[0] not in GROUPS or "/" not in name:
        raise BadMark(f"{test}: {name!r} should be group/name, with one of these groups: {', '.join(GROUPS)}")
    rule = rules.setdefault(name, Rule(name))
    rule.tests.append(test)
    if not words:
        return
    if rule.text:
        raise BadMark(f"{test}: {name} is described twice; give the id alone ({rule.tests[0]})")
    if words.get("source") not in SOURCES or not words.get("rule"):
        raise BadMark(f"{test}: {name} needs a rule= and one of these as source=: {', '.join(SOURCES)}")
    rule.source, rule.text, rule.differs = words["source"], words["rule"], words.get("differs", "")


def write(rules: dict[str, Rule]) -> str:
    """Return the page."""
    by_group: dict[str, list[Rule]] = defaultdict(list)
    for rule in rules.values():
        by_group[rule.name.partition("/")[0]].append(rule)
    lines = [PREAMBLE]
    counts = {source: sum(rule.source == source for rule in rules.values()) for source in SOURCES}
    lines += ["| source | rules | meaning |", "|---|---|---|"]
    lines += [f"| {source} | {counts[source]} | {SOURCES[source]} |" for source in SOURCES]
    differing = [rule for rule in rules.values() if rule.differs]
    if differing:
        lines += ["", "## Where we knowingly differ", ""]
        lines += [f"- **{rule.name}**: {rule.differs}" for rule in sorted(differing, key=lambda rule: rule.name)]
    for group, title in GROUPS.items():
        if by_group[group]:
            lines += ["", f"## {title}", "", "| rule | source | shown by |", "|---|---|---|"]
            lines += [row(rule) for rule in sorted(by_group[group], key=lambda rule: rule.name)]
    return "\n".join(lines) + "\n"


def row(rule: Rule) -> str:
    tests = "<br>".join(link(test) for test in dict.fromkeys(rule.tests))
    text = cell(f"**{rule.name.partition('/')[2]}**: {rule.text}")
    return f"| {text} | {rule.source} | {tests} |"


def link(test: str) -> str:
    path, _, name = test.partition("::")
    return f"[{cell(name)}](../{path})"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> int:
    """Write the page; returns the exit code."""
    try:
        page = write(collect(ROOT / "tests"))
    except BadMark as error:
        print(error, file=sys.stderr)
        return 1
    DOCUMENT.write_text(page, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
