"""What is reported: mistakes, the functions they are in, and the totals."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, and what is said about it."""

    file: str
    line: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake.

    Attributes:
        kind: a key of :data:`~.rules.CHECKS`.
        function, file, line: where.
        message: one sentence.
        variables: the locks it is about, each with its type.
        related: other places that explain it, such as both chains of a lock-order inversion.
        code: the statement, from the source; empty when it cannot be read.
        suppressed: the reason it was suppressed for, or empty.
    """

    kind: str
    function: str
    file: str
    line: int
    message: str
    variables: tuple[tuple[str, str], ...] = ()
    related: tuple[Place, ...] = ()
    code: str = ""
    suppressed: str = ""

    @property
    def fingerprint(self) -> str:
        """Stays the same while lines move: of the kind, file name, function, variables and code."""
        parts = [self.kind, self.file.rsplit("/", 1)[-1], self.function, " ".join(self.code.split())]
        parts += [name for name, _ in self.variables]
        return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class CheckedFunction:
    """A function that was looked at and has something to report.

    Attributes:
        exits: findings of kind ``exit-locked``, one for each exit.
        mistakes: the others.
    """

    name: str
    file: str
    line: int
    exits: tuple[Finding, ...]
    mistakes: tuple[Finding, ...]


@dataclass(slots=True)
class Report:
    """The result of a run.

    Attributes:
        findings: every mistake that is not suppressed, by file and line.
        suppressed: those that are.
        unread: files that could not be read at all, each with the reason.
        partial: files that were read with errors, each with the first of them.
        skipped: functions that could not be followed, each with the reason.
        files, functions: how many were looked at.
    """

    rules: str
    findings: list[Finding] = field(default_factory=list)
    suppressed: list[Finding] = field(default_factory=list)
    unread: list[Place] = field(default_factory=list)
    partial: list[Place] = field(default_factory=list)
    skipped: list[Place] = field(default_factory=list)
    files: int = 0
    functions: int = 0
    entries: int = 0

    def by_function(self) -> list[CheckedFunction]:
        """The findings grouped by function, in order of file and line."""
        groups: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.file, finding.function), []).append(finding)
        out = []
        for (file, name), found in groups.items():
            exits = tuple(f for f in found if f.kind == "exit-locked")
            mistakes = tuple(f for f in found if f.kind != "exit-locked")
            out.append(CheckedFunction(name, file, min(f.line for f in found), exits, mistakes))
        return out

    def totals(self) -> dict[str, int]:
        """How many findings there are of each kind."""
        out: dict[str, int] = {}
        for finding in self.findings:
            out[finding.kind] = out.get(finding.kind, 0) + 1
        return dict(sorted(out.items()))


def to_row(finding: Finding) -> dict[str, Any]:
    """A finding as JSON values."""
    return {
        "kind": finding.kind,
        "function": finding.function,
        "file": finding.file,
        "line": finding.line,
        "message": finding.message,
        "code": finding.code,
        "variables": [{"name": n, "type": t} for n, t in finding.variables],
        "related": [{"file": p.file, "line": p.line, "text": p.text} for p in finding.related],
        "fingerprint": finding.fingerprint,
    }


def from_row(row: list[Any]) -> Finding:
    """A finding from the values of its fields, as they come out of JSON."""
    kind, function, file, line, message, variables, related, code, suppressed = row
    names = tuple((n, t) for n, t in variables)
    return Finding(
        kind, function, file, line, message, names, tuple(Place(*p) for p in related), code, suppressed
    )
