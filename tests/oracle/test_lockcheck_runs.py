"""Findings against what happens: programs made at random are compiled with error-checking mutexes and run on
every input; what the mutexes complain of must be what the checker says, line by line.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.recipes import lock_programs
from virtscope.lockcheck import frontend, program, rules

CASES = 40
KINDS = {
    "double-lock": "relock",
    "double-unlock": "unlock",
    "unlock-unlocked": "unlock",
    "exit-locked": "leak",
}
NAMES = {"a.lock": "a", "b.lock": "b", "c.lock": "c"}

Seen = set[tuple[str, int, str]]


def happened(folder: Path, text: str) -> Seen:
    """What the mutexes complain of when every function runs on every input."""
    (folder / "prelude.h").write_text(lock_programs.PRELUDE)
    source = folder / "traced.c"
    source.write_text(lock_programs.traced(text) + lock_programs.harness(CASES))
    command = ["gcc", "-O1", "-w", "-pthread", "-include", "prelude.h", "traced.c", "-o", "traced"]
    subprocess.run(command, cwd=folder, check=True)
    out = subprocess.run([folder / "traced"], capture_output=True, text=True, check=True, timeout=60).stdout
    rows = [line.split() for line in out.splitlines()]
    return {(row[0], int(row[1]), row[2] if len(row) > 2 else "") for row in rows}


def said(folder: Path, text: str) -> Seen:
    """What the checker says."""
    source = folder / "plain.c"
    source.write_text(lock_programs.plain(text))
    unit = frontend.read(str(source), [])
    assert not unit.problem
    entries = [f"case_{n}" for n in range(CASES)]
    whole = program.collect([unit], rules.load("pthread"), entries)
    out: Seen = set()
    for finding in program.analyse_program(whole):
        if finding.kind == "lock-order":
            continue  # there is one thread
        names = [n for n, _ in finding.variables] if finding.kind == "exit-locked" else [""]
        out |= {(KINDS[finding.kind], finding.line, NAMES.get(n, n[:1] if "->" in n else n)) for n in names}
    return out


@pytest.mark.parametrize("seed", range(2))
def test_a_program_without_faults_has_no_findings(seed: int, tmp_path: Path) -> None:
    text = lock_programs.program(seed, CASES, faults=0)
    assert not happened(tmp_path, text)
    assert not said(tmp_path, text)


@pytest.mark.parametrize("seed", range(100, 103))
def test_what_happens_on_some_path_is_reported_at_that_line(seed: int, tmp_path: Path) -> None:
    text = lock_programs.program(seed, CASES, faults=2)
    real, found = happened(tmp_path, text), said(tmp_path, text)
    assert len(real) > CASES / 2, "the faults hardly show: the generator tests nothing"
    assert not real - found, "not reported"
    # After a first mistake states may be joined that no single run has.
    assert len(found - real) <= len(real) // 50, "reported, and does not happen"
