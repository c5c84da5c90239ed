"""Small C files, one idea each, with what must be reported beside the code; nothing else may be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from virtscope.lockcheck import frontend, program, rules

CORPUS = Path(__file__).parent / "corpus"


def expected(text: str) -> set[tuple[int, str]]:
    out = set()
    for number, line in enumerate(text.splitlines(), 1):
        found = re.search(r"expect: ([\w -]+)", line)
        if found:
            out |= {(number, kind) for kind in found[1].split()}
    return out


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.c")), ids=lambda p: p.stem)
def test_findings_are_those_beside_the_code(path: Path) -> None:
    text = path.read_text()
    header = dict(re.findall(r"^// (rules|entry|flags): (.*)$", text, re.M))
    chosen = rules.load(header["rules"])
    unit = frontend.read(str(path), header.get("flags", "").split())
    assert not unit.problem
    whole = program.collect([unit], chosen, header.get("entry", "").split())
    found = {(f.line, f.kind) for f in program.analyse_program(whole)}
    wanted = expected(text)
    assert found == wanted, f"missing {sorted(wanted - found)}, not wanted {sorted(found - wanted)}"
