"""Findings against what happens: programs made at random are compiled with error-checking mutexes and run on
every input; what the mutexes complain of must be what the checker says, line by line.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.recipes import driver_programs, lock_programs
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


DRIVER_CASES = 60


@pytest.mark.parametrize("seed", range(3))
def test_the_two_level_rule_is_broken_where_a_run_breaks_it(seed: int, tmp_path: Path) -> None:
    text = driver_programs.program(seed, DRIVER_CASES)
    (tmp_path / "prelude.h").write_text(driver_programs.PRELUDE)
    traced = driver_programs.traced(text) + driver_programs.harness(DRIVER_CASES)
    (tmp_path / "traced.c").write_text(traced)
    command = ["gcc", "-O1", "-w", "-include", "prelude.h", "traced.c", "-o", "traced"]
    subprocess.run(command, cwd=tmp_path, check=True)
    out = subprocess.run([tmp_path / "traced"], capture_output=True, text=True, check=True, timeout=60).stdout
    real = {(kind, int(line)) for kind, line in (row.split() for row in out.splitlines())}
    source = tmp_path / "plain.c"
    source.write_text(driver_programs.plain(text))
    unit = frontend.read(str(source), [])
    assert not unit.problem
    whole = program.collect([unit], rules.load("libvirt-2009"))
    assert len(whole.entries) == DRIVER_CASES
    found = {
        ("unlock" if f.kind in ("double-unlock", "unlock-unlocked") else f.kind, f.line)
        for f in program.analyse_program(whole)
    }
    assert {kind for kind, _ in real} == set(driver_programs.KINDS)
    assert not real - found, "not reported"
    assert len(found - real) <= len(real) // 50, "reported, and does not happen"
