"""Bad input: missing headers, code that does not compile, huge and strange functions: clear words, an end."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtscope.lockcheck import check, compiledb, rules
from virtscope.lockcheck.findings import Report

HEADER = "#include <pthread.h>\nstatic pthread_mutex_t m;\nint test(void);\n"


def run(path: Path, *flags: str) -> Report:
    commands = compiledb.plain([str(path)], flags)
    return check.run(commands, rules.load("pthread"), cache=None, jobs=1).report


def write(folder: Path, text: str, name: str = "a.c") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_missing_headers_and_names_are_said_and_the_rest_is_checked(tmp_path: Path) -> None:
    text = f"""#include "config.h"
#include <not/there.h>
{HEADER}
int f(missing_t *p) {{
    pthread_mutex_lock(&m);
    report(MISSING_DOMAIN, _("text"), p->field);
    if (test())
        return MISSING_CODE;
    pthread_mutex_unlock(&m);
    return 0;
}}
"""
    report = run(write(tmp_path, text))
    assert [f.line for f in report.findings] == [11]
    assert "config.h" in report.partial[0].text
    assert not report.unread


def test_code_that_does_not_compile(tmp_path: Path) -> None:
    broken = HEADER + "int f(void) { pthread_mutex_lock(&m); if (test( { return ; }\nvoid g(void) { } }}}\n"
    report = run(write(tmp_path, broken))
    assert report.partial
    assert "error" in report.partial[0].text


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    report = run(tmp_path / "none.c")
    assert "No such file" in report.unread[0].text


def test_binary_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "a.c"
    path.write_bytes(bytes(range(256)) * 64)
    report = run(path)
    assert report.partial or report.unread


@pytest.mark.parametrize("lines", [5_000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_a_function_of_very_many_lines(tmp_path: Path, lines: int) -> None:
    half = lines // 2
    code = [f"    if (test() == {i}) x += {i};" for i in range(half)]
    code += [f"    x = test() + {i};" for i in range(half)]
    text = HEADER + "int f(int x) {\n    pthread_mutex_lock(&m);\n" + "\n".join(code) + "\n    return x;\n}\n"
    report = run(write(tmp_path, text))
    assert [f.kind for f in report.findings] == ["exit-locked"]
    assert not report.skipped


def test_a_function_with_hundreds_of_objects(tmp_path: Path) -> None:
    code = [
        f"struct s *p{i} = get({i}); if (!p{i}) goto out; pthread_mutex_lock(&p{i}->lock);\n"
        f"if (x == {i}) {{ pthread_mutex_unlock(&p{i}->lock); goto out; }}\n"
        f"pthread_mutex_unlock(&p{i}->lock);\n"
        for i in range(500)
    ]
    types = "struct s { pthread_mutex_t lock; };\nstruct s *get(int);\n"
    text = f"{HEADER}{types}int f(int x) {{\n{''.join(code)}pthread_mutex_lock(&m);\nout: return x;\n}}\n"
    report = run(write(tmp_path, text))
    assert [[name for name, _ in f.variables] for f in report.findings] == [["m"]]
    assert not report.skipped


def test_a_long_ladder_a_deep_nest_and_a_long_sum(tmp_path: Path) -> None:
    ladder = "".join(f"else if (x == {i}) test();\n" for i in range(3000))
    nest = "if (test()) {" * 200 + "x++;" + "}" * 200
    total = "+".join(["x"] * 3000)
    text = (
        f"{HEADER}int f(int x) {{ pthread_mutex_lock(&m); if (x) test();\n{ladder}{nest} return {total}; }}\n"
    )
    report = run(write(tmp_path, text))
    assert report.findings or report.partial or report.unread or report.skipped


def many_locks(count: int, flag: str, undo: str) -> str:
    names = [f"l{i}" for i in range(count)]
    take = "".join(f"if ({flag % i}) pthread_mutex_lock(&{n});\n" for i, n in enumerate(names))
    give = "".join(f"if ({undo % i}) pthread_mutex_unlock(&{n});\n" for i, n in enumerate(names))
    body = f"while (more()) {{ {take} {give} }}"
    parameters = ", ".join(f"int c{i}" for i in range(count))
    declared = f"int more(void), ask(int);\nstatic pthread_mutex_t {', '.join(names)};\n"
    return f"{HEADER}{declared}void f({parameters}) {{ {body} }}\n"


def test_many_conditional_locks_are_reported(tmp_path: Path) -> None:
    report = run(write(tmp_path, many_locks(20, "ask(%d)", "ask(-%d)")))
    leaked = {name for f in report.findings if f.kind == "exit-locked" for name, _ in f.variables}
    twice = {name for f in report.findings if f.kind == "double-lock" for name, _ in f.variables}
    assert leaked == twice == {f"l{i}" for i in range(20)}
    assert not report.skipped


def test_many_locks_that_are_released_as_they_were_taken_are_not(tmp_path: Path) -> None:
    report = run(write(tmp_path, many_locks(60, "c%d", "c%d")))
    assert not report.findings
    assert not report.skipped


def test_computed_goto_is_refused_in_words(tmp_path: Path) -> None:
    text = (
        HEADER
        + "void f(int x) { void *t[] = { &&a, &&b }; goto *t[x];\na: pthread_mutex_lock(&m);\nb: return; }\n"
    )
    report = run(write(tmp_path, text))
    assert "computed goto on line 4" in report.skipped[0].text


def test_cyclic_types_and_calls(tmp_path: Path) -> None:
    text = (
        HEADER
        + """
struct a; struct b { struct a *a; pthread_mutex_t lock; }; struct a { struct b *b; };
void two(struct a *a);
void one(struct a *a) {
    pthread_mutex_lock(&a->b->a->b->lock);
    two(a->b->a);
    pthread_mutex_unlock(&a->b->a->b->lock);
}
void two(struct a *a) { while (a) { one(a->b->a); a = a->b->a; } }
"""
    )
    report = run(write(tmp_path, text))
    assert not report.partial


def test_preprocessed_input_keeps_its_lines(tmp_path: Path) -> None:
    text = '# 1 "real.c"\nvoid pthread_mutex_lock(int *);\nint m;\n# 40 "real.c"\n'
    text += "int f(void) {\n pthread_mutex_lock(&m);\n return 1;\n}\n"
    report = run(write(tmp_path, text, "a.i"))
    assert [(f.file, f.line) for f in report.findings] == [("real.c", 42)]


def test_old_c(tmp_path: Path) -> None:
    text = (
        HEADER
        + "f(n) int n; { pthread_mutex_lock(&m); if (n) return undeclared(n); pthread_mutex_unlock(&m); }\n"
    )
    report = run(write(tmp_path, text), "-std=gnu89")
    assert [f.kind for f in report.findings] == ["exit-locked"]
    assert not report.partial
