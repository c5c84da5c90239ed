"""Whole runs: cache, suppressions, baseline, what is new, and what cannot be read."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from virtscope.errors import UsageError
from virtscope.lockcheck import check, compiledb, rules, suppress
from virtscope.lockcheck.findings import Report

LEAK = """#include <pthread.h>
static pthread_mutex_t m;
int test(void);
int leaks(void) {
    pthread_mutex_lock(&m);
    if (test())
        return 1;%s
    pthread_mutex_unlock(&m);
    return 0;
}
"""


def run(folder: Path, *names: str, cache: Path | None = None, **more: object) -> Report:
    commands = compiledb.plain([str(folder / n) for n in names or ("a.c",)])
    kept = str(cache) if cache else None
    return check.run(commands, rules.load("pthread"), cache=kept, jobs=1, **more).report  # type: ignore[arg-type]


def test_a_finding_has_its_code_and_its_lock(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text(LEAK % "")
    report = run(tmp_path)
    assert [(f.kind, f.line, f.code, f.variables[0][0]) for f in report.findings] == [
        ("exit-locked", 7, "return 1;", "m")
    ]
    assert report.by_function()[0].name == "leaks"


def test_a_preprocessed_file_has_the_code_of_a_source_that_is_not_there(tmp_path: Path) -> None:
    text = """# 1 "gone/a.c"
# 1 "<built-in>" 1
# 1 "gone/a.c" 2
typedef union { int x; } pthread_mutex_t;
int pthread_mutex_lock(pthread_mutex_t *);
static pthread_mutex_t m;
# 40 "gone/a.c"
int leaks(int n) {
    pthread_mutex_lock(&m);
    return
# 42 "gone/a.c"
          n + 1
# 42 "gone/a.c"
          ;
# 900000000 "gone/b.c"
}
"""
    (tmp_path / "a.i").write_text(text)
    found = run(tmp_path, "a.i").findings
    assert [(f.kind, f.file, f.line, f.code) for f in found] == [
        ("exit-locked", "gone/a.c", 42, "return n + 1 ;")
    ]


@pytest.mark.parametrize(
    ("comment", "left", "notes"),
    [
        (" /* lockcheck: ignore exit-locked: the caller unlocks */", 0, 0),
        (" // lockcheck: ignore double-lock, exit-locked: known", 0, 0),
        (" // lockcheck: ignore all: known", 0, 0),
        (" // lockcheck: ignore double-lock: other", 1, 0),
        (" // lockcheck: ignore exit-locked", 1, 1),
    ],
)
def test_comments_suppress_with_a_reason(tmp_path: Path, comment: str, left: int, notes: int) -> None:
    (tmp_path / "a.c").write_text(LEAK % comment)
    report = run(tmp_path)
    assert (len(report.findings), len(report.partial)) == (left, notes)
    assert all(f.suppressed for f in report.suppressed)


def test_a_comment_before_a_function_counts_for_it(tmp_path: Path) -> None:
    text = (LEAK % "").replace("int leaks", "/* lockcheck: ignore-function exit-locked: a test */\nint leaks")
    (tmp_path / "a.c").write_text(text)
    assert not run(tmp_path).findings


def test_a_baseline_holds_while_lines_move(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text(LEAK % "")
    accepted = tmp_path / "base.json"
    suppress.write_baseline(str(accepted), run(tmp_path).findings, "looked at")
    (tmp_path / "a.c").write_text("\n\n\n" + LEAK % "")
    report = run(tmp_path, baseline=suppress.read_baseline(str(accepted)))
    assert not report.findings
    assert report.suppressed[0].suppressed == "looked at"


def test_a_baseline_needs_reasons(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a reason"):
        suppress.write_baseline(str(tmp_path / "b"), [], " ")
    (tmp_path / "b").write_text('{"findings": [{"fingerprint": "x", "function": "f"}]}')
    with pytest.raises(UsageError, match="without a reason"):
        suppress.read_baseline(str(tmp_path / "b"))


def test_the_cache_gives_the_same_report_and_sees_changes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (tmp_path / "h.h").write_text("#define EXTRA\n")
    (tmp_path / "a.c").write_text('#include "h.h"\n' + LEAK % "" + "EXTRA\n")
    (tmp_path / "b.c").write_text("int other(void) { return 1; }\n")
    first = run(tmp_path, "a.c", "b.c", cache=cache)
    again = run(tmp_path, "a.c", "b.c", cache=cache)
    assert again.findings == first.findings
    assert (again.files, again.functions) == (first.files, first.functions)
    (tmp_path / "h.h").write_text("#define EXTRA void more(void) { pthread_mutex_lock(&m); }\n")
    changed = run(tmp_path, "a.c", "b.c", cache=cache)
    assert {f.function for f in changed.findings} == {"leaks", "more"}
    assert changed == run(tmp_path, "a.c", "b.c")


def test_a_damaged_cache_is_none(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (tmp_path / "a.c").write_text(LEAK % "")
    first = run(tmp_path, cache=cache)
    for path in cache.rglob("*.json"):
        if path.parent.name != "units":
            path.write_text("[1,")
    assert run(tmp_path, cache=cache).findings == first.findings


def test_what_is_new_since_a_revision(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "a.c").write_text(LEAK % "")
    git("add", ".")
    git("-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "base")
    (tmp_path / "a.c").write_text("\n" + LEAK % "" + "void more(void) { pthread_mutex_lock(&m); }\n")
    commands = compiledb.plain([str(tmp_path / "a.c")])
    chosen = rules.load("pthread")
    before = check.new_since("HEAD", commands, chosen, (), 1, None)
    now = check.run(commands, chosen, cache=None, jobs=1).report.findings
    assert [f.function for f in check.only_new(now, before)] == ["more"]
    with pytest.raises(UsageError, match="neither a report nor a revision"):
        check.new_since("no-such-revision", commands, chosen, (), 1, None)
    saved = tmp_path / "report.json"
    saved.write_text(json.dumps({"rows": [{"fingerprint": f.fingerprint} for f in now]}))
    assert check.new_since(str(saved), commands, chosen, (), 1, None) == Counter(f.fingerprint for f in now)


def test_an_entry_point_must_release_and_must_exist(tmp_path: Path) -> None:
    text = (
        "#include <pthread.h>\nstatic pthread_mutex_t m;\nvoid take_lock(void) { pthread_mutex_lock(&m); }\n"
    )
    (tmp_path / "a.c").write_text(text)
    assert not run(tmp_path).findings
    assert [f.kind for f in run(tmp_path, entries=["take_lock"]).findings] == ["exit-locked"]
    with pytest.raises(UsageError, match="no function is called nothing"):
        run(tmp_path, entries=["nothing"])


def test_a_compilation_database(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("#ifdef ON\n" + LEAK % "" + "#endif\n")
    rows = [
        {"directory": str(tmp_path), "file": "a.c", "command": "cc -O2 -DON=1 -c a.c -o a.o"},
        {"directory": str(tmp_path), "file": "x.S", "arguments": ["cc", "-c", "x.S"]},
    ]
    (tmp_path / "compile_commands.json").write_text(json.dumps(rows))
    (command,) = compiledb.load(str(tmp_path))
    assert command.arguments == ("-DON=1",)
    assert len(check.run([command], rules.load("pthread"), cache=None).report.findings) == 1
    with pytest.raises(UsageError, match="No such file"):
        compiledb.load(str(tmp_path / "nothing"))
    (tmp_path / "compile_commands.json").write_text("{")
    with pytest.raises(UsageError, match="not a compilation database"):
        compiledb.load(str(tmp_path))


def test_a_stub_does_not_stand_for_the_real_function(tmp_path: Path) -> None:
    head = "#include <pthread.h>\nstruct s { pthread_mutex_t lock; int n; };\n"
    (tmp_path / "stub.c").write_text(head + "int get(struct s *s) { return -1; }\n")
    (tmp_path / "real.c").write_text(
        head + "int get(struct s *s) {\n    pthread_mutex_lock(&s->lock);\n    s->n++;\n    return 0;\n}\n"
    )
    (tmp_path / "use.c").write_text(
        head + "int get(struct s *s);\n"
        "int right(struct s *s) {\n"
        "    if (get(s) < 0)\n"
        "        return -1;\n"
        "    pthread_mutex_unlock(&s->lock);\n"
        "    return 0;\n"
        "}\n"
        "int wrong(struct s *s) {\n"
        "    if (get(s) < 0)\n"
        "        return -1;\n"
        "    if (s->n > 3)\n"
        "        return 0;\n"
        "    pthread_mutex_unlock(&s->lock);\n"
        "    return 0;\n"
        "}\n"
    )
    for names in (("stub.c", "real.c", "use.c"), ("use.c", "real.c", "stub.c")):
        found = [(f.function, f.kind, f.line) for f in run(tmp_path, *names).findings]
        assert found == [("wrong", "exit-locked", 14)]


def test_a_stub_that_ends_the_program_does_not_hide_what_comes_after_its_call(tmp_path: Path) -> None:
    head = "#include <pthread.h>\n#include <stdlib.h>\nstatic pthread_mutex_t m;\n"
    (tmp_path / "stub.c").write_text("#include <stdlib.h>\nvoid work(int n) { abort(); abort(); abort(); }\n")
    (tmp_path / "real.c").write_text(
        head + "void work(int n) {\n    pthread_mutex_lock(&m);\n    pthread_mutex_unlock(&m);\n}\n"
        "void calls(void) {\n    pthread_mutex_lock(&m);\n    work(1);\n}\n"
    )
    found = {(f.function, f.kind) for f in run(tmp_path, "stub.c", "real.c").findings}
    assert found == {("calls", "double-lock"), ("calls", "exit-locked")}
