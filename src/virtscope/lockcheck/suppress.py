"""Findings that someone looked at and accepted, each with the reason: in comments, and in a baseline file.

A comment on the line of the finding, or on the line before it::

    /* lockcheck: ignore exit-locked: the caller unlocks */
    // lockcheck: ignore double-lock, lock-order: both are recursive

A comment right before a function (``ignore-function``) counts for all of it. The reason is not optional.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import replace

from ..errors import UsageError
from .findings import Finding, Place

_COMMENT = re.compile(
    r"lockcheck:\s*ignore(-function)?\s+([\w-]+(?:\s*,\s*[\w-]+)*)\s*(?::\s*(.*?))?\s*(?:\*/|$)"
)


_LITERAL = re.compile(r"""\"(?:\\.|[^"\\])*\"|'(?:\\.|[^'\\])*'|/\*.*?\*/|//.*""")
_FURTHER_LINES = 8
"""How many lines of a statement are shown at most."""

_MARKER = re.compile(r'#(?:line)?\s+(\d{1,9})\s+"((?:[^"\\]|\\.)*)"')
_MOST_LINES = 1 << 22
_LARGEST = 256 << 20
_LONGEST = 4096


class Sources:
    """The lines of source files, read once each.

    Attributes:
        preprocessed: preprocessed files, which have the lines of sources that are not there.
    """

    def __init__(self) -> None:
        self.preprocessed: list[str] = []
        self._room = _MOST_LINES  # a marker may name any number
        self._files: dict[str, list[str]] = {}

    def lines(self, file: str) -> list[str]:
        """A file's lines; none when it cannot be read."""
        if file not in self._files and self.preprocessed and not os.path.exists(file):
            left, self.preprocessed = self.preprocessed, []
            for path in left:
                self._unfold(path)
        if file not in self._files:
            self._files[file] = []
            try:
                status = os.stat(file)  # a #line directive may name anything
                if stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST:
                    with open(file, encoding="utf-8", errors="replace") as stream:
                        self._files[file] = stream.read().split("\n")
            except (OSError, ValueError):
                return []
        return self._files[file]

    def _unfold(self, path: str) -> None:
        """Takes the lines of all sources that are not there out of a preprocessed file."""
        name, number, there = "", 0, True
        for text in self.lines(path):
            marker = _MARKER.match(text)
            if marker is not None:
                name, number = os.path.normpath(marker[2]), int(marker[1])
                there = os.path.exists(name) or marker[2][:1] == "<"
                continue
            if not there and text.strip() and number > 0:
                lines = self._files.setdefault(name, [])
                missing = max(number - len(lines), 0)
                if missing <= self._room:
                    self._room -= missing
                    lines.extend([""] * missing)
                    if len(lines[number - 1]) < _LONGEST:
                        lines[number - 1] = f"{lines[number - 1]} {text.strip()}".strip()
            number += 1

    def line(self, file: str, number: int) -> str:
        """One line, without the white space around it; empty when there is none."""
        lines = self.lines(file)
        return lines[number - 1].strip() if 0 < number <= len(lines) else ""

    def statement(self, file: str, number: int) -> str:
        """A line, and those after it as long as a parenthesis stays open."""
        text = self.line(file, number)
        for further in range(number + 1, number + _FURTHER_LINES):
            bare = _LITERAL.sub("", text)
            if bare.count("(") <= bare.count(")"):
                break
            text = f"{text} {self.line(file, further)}".rstrip()
        return text


def by_comments(
    findings: Iterable[Finding], sources: Sources, starts: Callable[[Finding], int]
) -> tuple[list[Finding], list[Finding], list[Place]]:
    """Splits findings into those left and those a comment accepts.

    Args:
        findings: all of them.
        sources: where the comments are read.
        starts: the line on which the function of a finding starts.

    Returns:
        The findings left, those suppressed, and the comments that give no reason, which do not count.
    """
    left: list[Finding] = []
    gone: list[Finding] = []
    unreasoned: dict[tuple[str, int], Place] = {}
    for finding in findings:
        reason = ""
        begin = starts(finding)
        places = [(finding.line, ""), (finding.line - 1, "")]
        places += [(begin - i, "-function") for i in range(4) if begin > i]
        for number, scope in places:
            found = _COMMENT.search(sources.line(finding.file, number)[:_LONGEST])
            if found is None or (found[1] or "") != scope:
                continue
            kinds = {k.strip() for k in found[2].split(",")}
            if finding.kind not in kinds and "all" not in kinds:
                continue
            if found[3]:
                reason = found[3]
                break
            unreasoned[(finding.file, number)] = Place(
                finding.file, number, "this suppression gives no reason, so it does not count"
            )
        (gone if reason else left).append(replace(finding, suppressed=reason) if reason else finding)
    return left, gone, list(unreasoned.values())


def read_baseline(path: str) -> dict[str, list[str]]:
    """A baseline's fingerprints, each with the reason of every finding that is accepted under it.

    Raises:
        UsageError: the file cannot be read, is no baseline, or accepts a finding without a reason.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise UsageError(f"{path}: not a baseline: it is larger than {_LARGEST >> 20} MiB")
        data = json.loads(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot read the baseline: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a baseline: {error}") from None
    rows = data.get("findings") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise UsageError(f"{path}: not a baseline: it has no list of findings")
    out: dict[str, list[str]] = {}
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("fingerprint"), str):
            raise UsageError(f"{path}: a finding in the baseline has no fingerprint")
        if not row.get("reason"):
            name = row.get("function", row["fingerprint"])
            raise UsageError(f"{path}: the baseline accepts {name} ({row.get('kind')}) without a reason")
        out.setdefault(row["fingerprint"], []).append(str(row["reason"]))
    return out


def write_baseline(path: str, findings: Iterable[Finding], reason: str) -> int:
    """Accepts findings for one reason; returns how many.

    Raises:
        UsageError: no reason is given, or the file cannot be written.
    """
    if not reason.strip():
        raise UsageError("a baseline needs a reason: say why these findings are accepted (--reason TEXT)")
    rows = [
        {
            "fingerprint": f.fingerprint,
            "kind": f.kind,
            "function": f.function,
            "file": f.file.rsplit("/", 1)[-1],
            "code": f.code,
            "reason": reason,
        }
        for f in findings
    ]
    try:
        with open(path, "w", encoding="utf-8") as stream:
            json.dump({"schema": "virt-lockcheck-baseline/1", "findings": rows}, stream, indent=1)
            stream.write("\n")
    except OSError as error:
        raise UsageError(f"{path}: cannot write the baseline: {error.strerror}") from None
    return len(rows)


def by_fingerprints(
    findings: Iterable[Finding], known: dict[str, list[str]]
) -> tuple[list[Finding], list[Finding]]:
    """Splits findings into those left and those that fingerprints accept, each as often as it is given."""
    left: list[Finding] = []
    gone: list[Finding] = []
    reasons = {fingerprint: list(every) for fingerprint, every in known.items()}
    for finding in findings:
        accepted = reasons.get(finding.fingerprint)
        if accepted:
            gone.append(replace(finding, suppressed=accepted.pop(0)))
        else:
            left.append(finding)
    return left, gone
