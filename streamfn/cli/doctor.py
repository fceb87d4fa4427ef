"""`streamfn doctor`: what this machine allows, by isolation level and by means."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from streamfn.cli.options import Settings, common_options
from streamfn.cli.output import print_json

if TYPE_CHECKING:
    from streamfn.pool.confine.probe import Findings

_EPILOG = """\b
Examples:
  streamfn doctor
  streamfn doctor --json | jq -r .sandbox.available

\b
Everything is tried in processes that are gone afterwards. What is asked for and cannot be
had is refused (exit code 2), never left out: this says why, and docs/environment.md what
each level and each means protects from, and what not. The exit code here is 0.
"""

_PROCESS = "a crash of a handler stays its own; against a handler that means harm it holds nothing"


@click.command(epilog=_EPILOG)
@common_options
def doctor(settings: Settings) -> None:
    """Say what this machine allows: isolation levels, limits."""
    from streamfn.pool.confine.probe import survey

    findings = survey()
    if settings.json_output:
        print_json(_document(findings))
        return
    click.echo(f"isolation process   yes   {_PROCESS}")
    click.echo(f"isolation sandbox   {_word(findings.lacking is None)}{findings.lacking or ''}".rstrip())
    for title, level in (("a sandbox needs", "sandbox"), ("it is better with", ""), ("limits are held by", "limits")):
        means = [each for each in findings.means if each.level == level]
        if means:
            click.echo(f"\n{title}")
            for each in means:
                click.echo(f"  {each.name:<24} {_word(each.available)}{each.detail}".rstrip())


def _word(available: bool) -> str:
    return "yes   " if available else "no    "


def _document(findings: Findings) -> dict[str, object]:
    return {
        "process": {"available": True, "lacking": None},
        "sandbox": {"available": findings.lacking is None, "lacking": findings.lacking},
        "means": [asdict(each) for each in findings.means],
    }
