"""What following one function yields, before the whole program is judged."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import Any

from .findings import Finding, from_row
from .summaries import Summary


@dataclass(slots=True)
class Candidate:
    """A lock held at an exit, or released without having been taken, in a function that may mean it.

    Attributes:
        field: the identity of the lock when it is a field of a struct; empty when it is none, and when other
            ways through the function tell that no other function is to do the other half.
        stored: whether a pointer to the object is put somewhere.
        lock: the name callers know it by, or empty.
        origin: the called function (and its name for the lock) that left it so, or empty.
    """

    kind: str
    lock: str
    key: str
    line: int
    origin: tuple[str, str]
    finding: Finding
    field: str = ""
    stored: bool = False


@dataclass(slots=True)
class Edge:
    """One lock taken while another is held."""

    held: str
    taken: str
    held_line: int
    line: int
    callee: str


@dataclass(slots=True)
class Result:
    """What the analysis of one function found.

    Attributes:
        edges: locks taken while others are held.
        evidence: ``("holds" or "releases", callee, lock)``: that a caller does its part.
        elements: locks, as fields of structs, of an array's elements that it releases and did not take.
        passed: ``(lock, callee, its name there)``: a lock the caller must hold because a called function
            wants it.
    """

    summary: Summary = field(default_factory=Summary)
    findings: list[Finding] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    evidence: set[tuple[str, str, str]] = field(default_factory=set)
    passed: set[tuple[str, str, str]] = field(default_factory=set)
    elements: set[str] = field(default_factory=set)
    problem: str = ""

    def to_json(self) -> list[Any]:
        """The result as JSON values."""
        return [
            self.summary.to_json(),
            [astuple(f) for f in self.findings],
            [
                [c.kind, c.lock, c.key, c.line, c.origin, astuple(c.finding), c.field, c.stored]
                for c in self.candidates
            ],
            [astuple(e) for e in self.edges],
            sorted(self.evidence),
            sorted(self.passed),
            sorted(self.elements),
            self.problem,
        ]

    @classmethod
    def from_json(cls, row: list[Any]) -> Result:
        """The inverse of :meth:`to_json`."""
        return cls(
            Summary.from_json(row[0]),
            [from_row(f) for f in row[1]],
            [
                Candidate(kind, lock, key, line, (origin[0], origin[1]), from_row(f), name, stored)
                for kind, lock, key, line, origin, f, name, stored in row[2]
            ],
            [Edge(*e) for e in row[3]],
            {(a, b, c) for a, b, c in row[4]},
            {(a, b, c) for a, b, c in row[5]},
            set(row[6]),
            row[7],
        )
