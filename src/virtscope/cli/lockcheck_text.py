"""virt-lockcheck's text report: per function its exits and mistakes, then the totals."""

from __future__ import annotations

import os
from collections.abc import Iterator

from virtscope.lockcheck.check import Checked
from virtscope.lockcheck.findings import CheckedFunction, Finding
from virtscope.lockcheck.rules import CHECKS

_RULE = "-" * 72
Styled = tuple[str, str | None]


def lines(checked: Checked, *, why: bool, title: str, brief: bool) -> Iterator[Styled]:
    """The report's lines, each with its style.

    Args:
        checked: the run.
        why: show the way to each finding.
        title: of the rule set.
        brief: one line for each function.
    """
    report = checked.report
    for function in report.by_function():
        if brief:
            yield _brief(function), None
        else:
            yield from _function(checked, function, why)
    if brief:
        return
    looked = "entry points" if report.entries else "functions"
    yield f"Summary ({title or report.rules})", "bold"
    count = len(report.by_function())
    yield f"  {report.files} files, {report.functions} {looked} looked at, {count} with mistakes", None
    totals = report.totals()
    if not totals:
        yield "  no mistakes found", "green"
    for kind, count in totals.items():
        yield f"  {count:5} {kind:22} {CHECKS[kind]}", "yellow"
    if report.suppressed:
        yield f"  {len(report.suppressed):5} suppressed, each with a reason", "dim"


def _brief(function: CheckedFunction) -> str:
    count = len(function.exits) + len(function.mistakes)
    kinds = sorted({f.kind for f in (*function.exits, *function.mistakes)})
    return f"{_path(function.file)}:{function.line}: {function.name}: {count} ({', '.join(kinds)})"


def _function(checked: Checked, function: CheckedFunction, why: bool) -> Iterator[Styled]:
    yield _RULE, "dim"
    yield f"Function: {function.name}", "bold"
    yield f"File:     {_path(function.file)}", None
    places = len({f.line for f in function.exits})
    yield f"  Exits with locks held: {places}", None
    for finding in function.exits:
        yield f"    line {finding.line}: {finding.code}", None
        for name, kind in dict.fromkeys(finding.variables):
            yield f"      still locked: {name} ({kind})", "red"
        yield from _related(finding)
        yield from _why(checked, finding, why)
    yield f"  Mistakes: {len(function.mistakes)}", None
    for finding in function.mistakes:
        yield f"    line {finding.line}: {finding.code}", None
        yield f"      {finding.kind}: {finding.message}{_types(finding)}", "red"
        yield from _related(finding)
        yield from _why(checked, finding, why)
    yield "", None


def _types(finding: Finding) -> str:
    """The variables that a mistake is about, as they are declared."""
    typed = ", ".join(f"{name}: {kind}" for name, kind in finding.variables if kind)
    return f" [{typed}]" if typed else ""


def _related(finding: Finding) -> Iterator[Styled]:
    for place in dict.fromkeys(finding.related):
        yield f"        {_path(place.file)}:{place.line}: {place.text}", None


def _why(checked: Checked, finding: Finding, wanted: bool) -> Iterator[Styled]:
    if not wanted or checked.program is None:
        return
    from virtscope.lockcheck.why import explain

    steps = explain(checked.program, finding, checked.sources)
    for step in steps:
        state = ", ".join(f"{name} {word}" for name, word in step.state)
        yield f"        {step.line:6}  {step.code}", None
        if state:
            yield f"                [{state}]", "cyan"


def _path(file: str) -> str:
    near = os.path.relpath(file)
    return file if near.startswith("../..") else near
