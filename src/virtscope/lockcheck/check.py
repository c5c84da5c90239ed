"""Checks a program: reads its files, follows its functions, takes out what is suppressed.

:func:`run` is the entry point of the library; the command only prints its :class:`~.findings.Report`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field, replace

from ..errors import UsageError
from . import program as programs
from . import suppress
from .cache import RESULT_VERSION, Cache, default_folder, digest
from .compiledb import Command
from .findings import Finding, Place, Report, from_row
from .ir import Unit
from .program import Program
from .reading import Progress, read_all
from .rules import RuleSet


@dataclass(slots=True)
class Checked:
    """A run's report, and the program it came from.

    Attributes:
        program: None when the whole report came from the cache.
    """

    report: Report
    program: Program | None = None
    sources: suppress.Sources = field(default_factory=suppress.Sources)


def run(
    commands: Iterable[Command],
    rules: RuleSet,
    *,
    entries: Iterable[str] = (),
    baseline: dict[str, list[str]] | None = None,
    jobs: int = 0,
    cache: str | None = "",
    keep_program: bool = False,
    progress: Progress | None = None,
) -> Checked:
    """Checks files.

    Args:
        commands: the files and how to compile them (:mod:`.compiledb`).
        rules: the rule set (:func:`.rules.load`).
        entries: functions to look at besides those the rule set names.
        baseline: accepted findings (:func:`.suppress.read_baseline`).
        jobs: how many processes read files; 0 for one per processor.
        cache: the cache folder; None for no cache, empty for the usual one.
        keep_program: fill in :attr:`Checked.program` even when the cache has the answer.
        progress: told a phase, how much is done, and of how much.

    Raises:
        UsageError: no file is named.
        MissingDependency: there is no libclang.
    """
    every = [
        replace(c, arguments=(*c.arguments, *(f"-D{d}" for d in rules.defines)))
        for c in commands
        if not any(re.search(p, c.file) for p in rules.skip_files)
    ]
    if not every:
        raise UsageError("there is no C file to check")
    named = sorted(set(entries))
    store = Cache(default_folder() if cache == "" else cache)
    identity = digest([RESULT_VERSION, rules.text, named])
    whole = ""
    if store.folder is not None and not keep_program:
        whole = _whole(store, every, identity)
        old = store.load("reports", whole) if whole else None
        if isinstance(old, list):
            checked = Checked(_report_from(old))
            return _finish(checked, baseline)
    units = list(read_all(every, store, jobs, progress))
    whole_program = programs.collect(units, rules, named)
    missing = set(named) - {f.name for f in whole_program.functions.values()} - set(whole_program.functions)
    if missing:
        raise UsageError(f"no function is called {', '.join(sorted(missing))} in these files")
    known = store.load("functions", _group(every, identity, rules)) if store.folder is not None else None
    results = known if isinstance(known, dict) else {}

    def step(done: int, total: int) -> None:
        if progress is not None:
            progress("following", done, total)

    findings = programs.analyse_program(whole_program, step, results if store.folder is not None else None)
    checked = Checked(_report(rules, units, whole_program, findings), whole_program)
    checked.sources.preprocessed = [u.file for u in units if u.file.endswith(".i")]
    _comments(checked)
    if store.folder is not None:
        store.keep("functions", _group(every, identity, rules), results)
        key = _whole(store, every, identity)
        if key:
            store.keep("reports", key, _report_row(checked.report))
    return _finish(checked, baseline)


def new_since(
    base: str, commands: list[Command], rules: RuleSet, entries: Iterable[str], jobs: int, cache: str | None
) -> Counter[str]:
    """The fingerprints of the findings there were before, and how many of each.

    Args:
        base: a report that ``--json`` wrote, or a git revision of the tree the files are in.
        commands: today's files; the revision's are compiled the same way.
        rules: the rule set.
        entries: as for :func:`run`.
        jobs: as for :func:`run`.
        cache: as for :func:`run`.

    Raises:
        UsageError: it is neither.
    """
    if os.path.isfile(base):
        try:
            with open(base, encoding="utf-8") as stream:
                data = json.load(stream)
            return Counter(str(row["fingerprint"]) for row in data["rows"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(f"{base}: not a report that virt-lockcheck --json wrote") from None
    folder = os.path.dirname(commands[0].file) if commands else "."
    top = _git(folder, "rev-parse", "--show-toplevel", why=f"{base} is no file, and").decode().strip()
    wanted = ("rev-parse", "--verify", "--end-of-options", f"{base}^{{tree}}")
    tree = _git(top, *wanted, why=f"{base} is neither a report nor a revision:").decode().strip()
    archive = _git(top, "archive", "--format=tar", tree, why=f"{base}:")
    with tempfile.TemporaryDirectory(prefix="virt-lockcheck-") as other:
        _unpack(archive, other, base)
        moved = []
        for c in commands:
            file = _moved(c.file, top, other)
            if os.path.exists(file):
                words = tuple(_moved_word(w, c.directory, top, other) for w in c.arguments)
                moved.append(Command(file, _moved(c.directory, top, other), words))
        for command in moved:
            os.makedirs(command.directory, exist_ok=True)
        if not moved:
            return Counter()
        names = list(entries)
        try:
            report = run(moved, rules, entries=names, jobs=jobs, cache=cache).report
        except UsageError:  # a function named as entry is new
            report = run(moved, rules, jobs=jobs, cache=cache).report
        return Counter(f.fingerprint for f in report.findings)


def only_new(findings: list[Finding], before: Counter[str]) -> list[Finding]:
    """The findings that are not among those before; of several that look alike, as many as were added."""
    left = Counter(before)
    out = []
    for finding in findings:
        if left[finding.fingerprint] > 0:
            left[finding.fingerprint] -= 1
        else:
            out.append(finding)
    return out


def _unpack(archive: bytes, folder: str, base: str) -> None:
    try:
        subprocess.run(["tar", "-x", "-C", folder], input=archive, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"{base}: its files cannot be unpacked: {error}") from None


def _git(folder: str, *words: str, why: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", folder, *words], capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise UsageError(f"{why} git is not installed") from None
    except subprocess.CalledProcessError as error:
        text = error.stderr.decode(errors="replace").strip().splitlines()
        raise UsageError(f"{why} {text[-1] if text else 'git failed'}") from None


def _moved(path: str, top: str, other: str) -> str:
    """A path inside the tree as it is in the other copy of the tree."""
    inside = path == top or path.startswith(top + os.sep)
    return other + path[len(top) :] if inside else path


def _moved_word(word: str, directory: str, top: str, other: str) -> str:
    for flag in ("-I", "-isystem", "-iquote", "-include", ""):
        if word.startswith(flag) and len(word) > len(flag):
            path = word[len(flag) :]
            if flag and not os.path.isabs(path):
                path = os.path.normpath(os.path.join(directory, path))
            if path.startswith(top):
                moved = _moved(path, top, other)
                return flag + (moved if os.path.exists(moved) else path)
            if flag:
                return flag + path
    return word


def _whole(store: Cache, commands: list[Command], identity: str) -> str:
    """The key of a run's report, or empty when a file is not in the cache."""
    parts = []
    for command in commands:
        text = store.stamp(command)
        if not text:
            return ""
        parts.append(text)
    return digest([identity, parts])


def _group(commands: list[Command], identity: str, rules: RuleSet) -> str:
    return digest([identity, rules.name, sorted(c.file for c in commands)])


def _report(rules: RuleSet, units: list[Unit], program: Program, findings: list[Finding]) -> Report:
    looked = program.entries if rules.entries or program.entries else set(program.functions)
    report = Report(rules.name, findings, files=len(units), functions=len(looked))
    report.entries = len(program.entries)
    for unit in units:
        if unit.fatal:
            report.unread.append(Place(unit.file, 0, unit.problem))
        elif unit.problem:
            report.partial.append(Place(unit.file, 0, unit.problem))
    report.skipped = programs.skipped(program)
    return report


def _comments(checked: Checked) -> None:
    """Adds the code to findings, and takes out those that comments accept."""
    report, program = checked.report, checked.program
    assert program is not None
    lines = {(f.file, f.name): f.line for f in program.functions.values()}
    sources = checked.sources
    coded = [replace(f, code=sources.statement(f.file, f.line)) for f in report.findings]

    def start(finding: Finding) -> int:
        return lines.get((finding.file, finding.function), 0)

    left, gone, unreasoned = suppress.by_comments(coded, sources, start)
    report.findings, report.suppressed = left, gone
    report.partial += unreasoned


def _finish(checked: Checked, baseline: dict[str, list[str]] | None) -> Checked:
    report = checked.report
    if baseline:
        left, gone = suppress.by_fingerprints(report.findings, baseline)
        report.findings = left
        report.suppressed = [*report.suppressed, *gone]
    return checked


def _report_row(report: Report) -> list[object]:
    return [
        report.rules,
        [astuple(f) for f in report.findings],
        [astuple(f) for f in report.suppressed],
        *([astuple(p) for p in places] for places in (report.unread, report.partial, report.skipped)),
        report.files,
        report.functions,
        report.entries,
    ]


def _report_from(row: list[object]) -> Report:
    name, found, gone, unread, partial, skipped, files, functions, entries = row
    assert isinstance(found, list)
    assert isinstance(gone, list)
    lists = [x for x in (unread, partial, skipped) if isinstance(x, list)]
    places = [[Place(*p) for p in x] for x in lists]
    return Report(
        str(name),
        [from_row(f) for f in found],
        [from_row(f) for f in gone],
        places[0],
        places[1],
        places[2],
        int(str(files)),
        int(str(functions)),
        int(str(entries)),
    )
