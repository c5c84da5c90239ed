"""Findings as SARIF 2.1.0, which code review sites and editors show beside the code.

The format: https://docs.oasis-open.org/sarif/sarif/v2.1.0/.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

from .findings import Finding, Place, Report
from .rules import CHECKS

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def document(report: Report, version: str, root: str | None = None) -> dict[str, Any]:
    """A report as a SARIF log with one run.

    Args:
        report: what was found.
        version: of virtscope.
        root: paths under it are written relative to it; the current folder by default.
    """
    base = os.path.abspath(root or os.getcwd())
    rules = [
        {"id": kind, "shortDescription": {"text": text}, "defaultConfiguration": {"level": _level(kind)}}
        for kind, text in CHECKS.items()
    ]
    order = {kind: i for i, kind in enumerate(CHECKS)}
    results = [_result(f, order, base) for f in (*report.findings, *report.suppressed)]
    notes = [
        {"level": level, "message": {"text": f"{place.file}: {place.text}"}}
        for level, places in (
            ("error", report.unread),
            ("warning", report.partial),
            ("warning", report.skipped),
        )
        for place in places
    ]
    driver = {
        "name": "virt-lockcheck",
        "version": version,
        "rules": rules,
    }
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "originalUriBaseIds": {"ROOT": {"uri": f"file://{quote(os.fsencode(base))}/"}},
        "invocations": [{"executionSuccessful": not report.unread, "toolExecutionNotifications": notes}],
        "results": results,
        "columnKind": "unicodeCodePoints",
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _level(kind: str) -> str:
    return "warning" if kind in ("driver-unlocked", "lock-order", "forbidden-call") else "error"


def _result(finding: Finding, order: dict[str, int], base: str) -> dict[str, Any]:
    place = Place(finding.file, finding.line)
    out: dict[str, Any] = {
        "ruleId": finding.kind,
        "ruleIndex": order[finding.kind],
        "level": _level(finding.kind),
        "message": {"text": f"{finding.function}: {finding.message}"},
        "locations": [_location(place, base, finding.function)],
        "partialFingerprints": {"virtLockcheck/v1": finding.fingerprint},
    }
    if finding.related:
        out["relatedLocations"] = [
            {**_location(p, base), "id": i, "message": {"text": p.text or finding.message}}
            for i, p in enumerate(finding.related)
        ]
    if finding.suppressed:
        out["suppressions"] = [{"kind": "external", "justification": finding.suppressed}]
    return out


def _location(place: Place, base: str, function: str = "") -> dict[str, Any]:
    path = os.path.abspath(place.file)
    inside = path.startswith(base + os.sep)
    where = (
        {"uri": quote(os.fsencode(os.path.relpath(path, base))), "uriBaseId": "ROOT"}
        if inside
        else {"uri": f"file://{quote(os.fsencode(path))}"}
    )
    out: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": where, "region": {"startLine": max(1, place.line)}}
    }
    if function:
        out["logicalLocations"] = [{"name": function, "kind": "function"}]
    return out
