"""Bad input: missing headers, code that does not compile, huge and strange functions: clear words, an end."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from virtscope.cli import lockcheck as command
from virtscope.errors import UsageError
from virtscope.lockcheck import check, compiledb, reading, rules, suppress
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


def body(expression: str) -> str:
    return f"{HEADER}int g(int);\nint f(int x) {{ pthread_mutex_lock(&m); return {expression}; }}\n"


NESTED = {
    "parentheses": body("(" * 3000 + "x" + ")" * 3000),
    "more-parentheses": body("(" * 100_000 + "x" + ")" * 100_000),
    "signs": body("- " * 100_000 + "x"),
    "choices": body("x ? 1 : " * 4000 + "2"),
    "calls": body("g(" * 3000 + "x" + ")" * 3000),
    "statement-expressions": body("({ " * 500 + "x;" + " });" * 499 + " })"),
    "blocks": body("({ " + "{" * 3000 + "x++;" + "}" * 3000 + " x; })"),
    "labels": body("({ " + " ".join(f"a{i}:" for i in range(12_000)) + " x; })"),
    "loops": body("({ " + "while (test()) " * 1500 + "x++; x; })"),
}


@pytest.mark.parametrize("name", sorted(NESTED))
def test_nesting_without_end_is_read_or_named(tmp_path: Path, name: str) -> None:
    leak = f"{HEADER}int other(void) {{ pthread_mutex_lock(&m); return 1; }}\n"
    deep, plain = write(tmp_path, NESTED[name]), write(tmp_path, leak, "b.c")
    commands = compiledb.plain([str(deep), str(plain)])
    report = check.run(commands, rules.load("pthread"), cache=None, jobs=2).report
    assert "other" in {f.function for f in report.findings}
    where = {f.function for f in report.findings} | {p.text.partition(" ")[0] for p in report.skipped}
    assert "f" in where or [p.file for p in report.unread] == [str(deep)]


def test_a_reader_that_dies_costs_its_file_only(tmp_path: Path) -> None:
    leak = f"{HEADER}int leak%d(void) {{ pthread_mutex_lock(&m); return 1; }}\n"
    fatal = "#pragma clang __debug crash\n"
    files = [write(tmp_path, fatal if i in (2, 5) else leak % i, f"{i}.c") for i in range(8)]
    commands = compiledb.plain([str(f) for f in files])
    report = check.run(commands, rules.load("pthread"), cache=None, jobs=2).report
    assert {Path(p.file).name for p in report.unread} == {"2.c", "5.c"}
    assert {f.function for f in report.findings} == {f"leak{i}" for i in (0, 1, 3, 4, 6, 7)}


def test_macros_that_expand_without_end_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SECONDS", 1)
    bomb = "#define A0 x +\n" + "".join(f"#define A{i} {f'A{i - 1} ' * 10}\n" for i in range(1, 12))
    report = run(write(tmp_path, bomb + body("A11 1")))
    assert report.unread
    assert "1 s" in report.unread[0].text


def test_files_that_include_themselves(tmp_path: Path) -> None:
    write(tmp_path, '#include "h.h"\nint declared(void);\n', "h.h")
    report = run(write(tmp_path, '#include "h.h"\n' + body("x")))
    assert [f.kind for f in report.findings] == ["exit-locked"]
    assert "nested too deeply" in report.partial[0].text


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.c")
    (tmp_path / "folder.c").mkdir()
    commands = [
        *compiledb.plain([str(tmp_path / "pipe.c"), "/dev/zero"]),
        compiledb.Command(str(tmp_path / "folder.c"), str(tmp_path), ()),
    ]
    report = check.run(commands, rules.load("pthread"), cache=None, jobs=1).report
    assert [p.text for p in report.unread] == [
        "cannot be opened: it is a device or a pipe, not a file",
        "cannot be opened: it is a device or a pipe, not a file",
        "cannot be opened: it is a folder",
    ]


def test_lines_said_to_be_of_a_device_are_not_read_from_it(tmp_path: Path) -> None:
    text = '# 1 "/dev/zero.c"\nvoid pthread_mutex_lock(int *);\nint m;\n'
    text += '# 4 "/dev/zero"\nint f(void) { pthread_mutex_lock(&m); return 1; }\n'
    assert not run(write(tmp_path, text, "a.i")).unread
    assert suppress.Sources().line("/dev/zero", 4) == ""


@pytest.mark.parametrize(
    "text",
    [b"", b"\0" * 5000, bytes(range(256)) * 20, "int f(void) { return 1; }".encode("utf-16"), b"\xff\xfe{{{"],
)
def test_rubbish_is_no_program(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "a.c"
    path.write_bytes(text)
    assert not run(path).findings


def test_names_cannot_act_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leak = body("x /* \x1b[2J\x07 */")
    for name in (b"x\x1b[31mred.c", b"new\nline.c", b"bad\xff\xfe.c"):
        path = os.fsencode(tmp_path) + b"/" + name
        with open(path, "w") as stream:
            stream.write(leak)
        for option in ("--quiet", "--json", "--sarif", "--why", "--functions"):
            words = [option, "--no-cache", "-j", "1", os.fsdecode(path)]
            assert command.main(words) == 1, (name, option)
            out = capsys.readouterr()
            assert not set("\x1b\x07") & set(out.out + out.err)
            (out.out + out.err).encode()
    for form in ("text", "dot"):
        assert command.main(["--graph", "f", "--graph-format", form, "--no-cache", os.fsdecode(path)]) == 0
        assert not set("\x1b\x07") & set(capsys.readouterr().out)


def test_a_crash_is_exit_3_whatever_else_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = write(tmp_path, "#pragma clang __debug crash\n", "bad.c")
    assert command.main(["--no-cache", str(write(tmp_path, body("x"))), str(bad)]) == 3
    out = capsys.readouterr()
    assert "exit-locked" in out.out
    assert "bad.c: not checked: clang " in out.err
    assert len(out.err.splitlines()) == 1


def test_arguments_are_quoted_as_in_a_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "#define STR(x) #x\n#ifdef NAME\nconst char *s = STR(NAME);\n" + body("x") + "#endif\n"
    path = str(write(tmp_path, text))
    assert command.main(["--no-cache", "--functions", "--cflags=-m64 '-DNAME=a b'", path]) == 1
    assert " f: 1" in capsys.readouterr().out
    assert command.main(["--no-cache", "--cflags=-std=gnu89 '-DNAME=a b", path]) == 2
    assert "a quotation is not closed" in capsys.readouterr().err
    assert command.main(["--no-cache", "--cflags=-std=gnu89 \\", path]) == 2
    assert "lone backslash" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a compilation database"),
        ("{}", "a list of commands was expected"),
        ("[" * 100_000, "not a compilation database"),
        ("[1]", "entry 0 names no file"),
        ('[{"file": 3}]', "entry 0 names no file"),
        ('[{"file": "a.c", "command": "cc \'-DX"}]', "cannot be split"),
        ("[]", "no C file"),
        ("\xff", "not a compilation database"),
    ],
)
def test_a_compilation_database_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    (tmp_path / "compile_commands.json").write_bytes(text.encode("latin-1"))
    assert command.main(["--no-cache", "-p", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert len(said) < 1000


def test_a_compilation_database_with_odd_rows(tmp_path: Path) -> None:
    write(tmp_path, body("x"))
    rows = [
        {
            "directory": str(tmp_path),
            "file": "a.c",
            "arguments": ["cc", "-D", "\0", "-DX=\ud800", "-I"],
        },
        {"directory": str(tmp_path), "file": "gone.c", "command": ""},
        {"directory": 7, "file": "x.c", "arguments": []},
        {"directory": str(tmp_path), "file": "\0.c", "arguments": []},
        {"directory": str(tmp_path / "none"), "file": str(tmp_path / "a.c"), "arguments": None},
    ]
    rows += [{"directory": "/", "file": f"{i}.S", "command": "cc " + "x " * 20} for i in range(3000)]
    (tmp_path / "compile_commands.json").write_text(json.dumps(rows))
    commands = compiledb.load(str(tmp_path))
    assert len(commands) == 4
    report = check.run(commands, rules.load("pthread"), cache=None, jobs=1).report
    assert len(report.unread) == 4


def test_a_rule_file_with_a_slip_says_where_and_what_was_meant(tmp_path: Path) -> None:
    for text in ('title = "x"\n[[lock]]\nnam = "m"\n', "title = [", "\0", "\xff\xfe", "[" * 10_000):
        path = tmp_path / "r.toml"
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(UsageError, match=r"r\.toml"):
            rules.load(str(path))


def test_a_cache_that_is_damaged_or_closed_is_none(tmp_path: Path) -> None:
    path, cache = write(tmp_path, body("x")), tmp_path / "cache"
    commands = compiledb.plain([str(path)])

    def kinds(folder: Path) -> list[str]:
        report = check.run(commands, rules.load("pthread"), cache=str(folder), jobs=1).report
        return [f.kind for f in report.findings]

    assert kinds(cache) == ["exit-locked"]
    files = [f for f in cache.rglob("*.json") if f.is_file()]
    for junk in (b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[[[", b'{"functions": 3}', b"[" * 200_000, b"3"):
        for file in files:
            file.write_bytes(junk)
            assert kinds(cache) == ["exit-locked"], (file, junk)
    for file in files:  # cut in half
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        assert kinds(cache) == ["exit-locked"], file
    shut = tmp_path / "shut"
    shut.write_text("no folder")
    assert kinds(shut) == kinds(shut / "deeper") == kinds(Path("/proc/none")) == ["exit-locked"]


def test_flags_and_rules_are_part_of_what_the_cache_knows(tmp_path: Path) -> None:
    text = HEADER + "int f(void) { pthread_mutex_lock(&m);\n#ifdef UNDO\npthread_mutex_unlock(&m);\n#endif\n"
    text += "return 1; }\n"
    path, cache = write(tmp_path, text), str(tmp_path / "cache")

    def kinds(flags: list[str], chosen: str) -> list[str]:
        commands = compiledb.plain([str(path)], flags)
        return [f.kind for f in check.run(commands, rules.load(chosen), cache=cache, jobs=1).report.findings]

    for _ in range(2):
        assert kinds([], "pthread") == ["exit-locked"]
        assert kinds(["-DUNDO"], "pthread") == []
        assert kinds([], "libvirt-2009") == []


def test_a_header_that_appears_later_is_read(tmp_path: Path) -> None:
    path, cache = write(tmp_path, '#include "later.h"\n' + body("x") + "MORE\n"), str(tmp_path / "cache")
    commands = compiledb.plain([str(path)], [f"-I{tmp_path / 'include'}"])

    def functions() -> set[str]:
        report = check.run(commands, rules.load("pthread"), cache=cache, jobs=1).report
        return {f.function for f in report.findings}

    assert functions() == functions() == {"f"}
    (tmp_path / "include").mkdir()
    more = "#define MORE int more(void) { pthread_mutex_lock(&m); return 1; }\n"
    write(tmp_path / "include", more, "later.h")
    assert functions() == {"f", "more"}


def test_one_more_of_what_was_accepted_is_not(tmp_path: Path) -> None:
    accepted = tmp_path / "base.json"
    code = "if (x)\nreturn x;\nif (test())\nreturn x;\npthread_mutex_unlock(&m); return 0; }"
    path = write(tmp_path, f"{HEADER}int f(int x) {{\npthread_mutex_lock(&m);\n{code}\n")
    found = run(path).findings
    assert len(found) == 2 > len({f.fingerprint for f in found})
    suppress.write_baseline(str(accepted), found[:1], "looked at")
    baseline = suppress.read_baseline(str(accepted))
    commands = compiledb.plain([str(path)])
    report = check.run(commands, rules.load("pthread"), cache=None, jobs=1, baseline=baseline).report
    assert (len(report.findings), len(report.suppressed)) == (1, 1)


def test_a_revision_is_no_option(tmp_path: Path) -> None:
    path = write(tmp_path, body("x"))
    author = ["-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "base"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)
    bad = f"--output={tmp_path / 'written'}"
    with pytest.raises(UsageError, match="neither a report nor a revision"):
        check.new_since(bad, compiledb.plain([str(path)]), rules.load("pthread"), (), 1, None)
    assert not (tmp_path / "written").exists()


def test_empty_loops_end(tmp_path: Path) -> None:
    loops = "void f(void) { a: goto b; b: goto a; }\nvoid g(void) { for (;;) for (;;) ; }\n"
    loops += "void h(int x) { for (;;) { if (x) continue; else continue; } }\n"
    report = run(write(tmp_path, HEADER + loops + "int k(void) { pthread_mutex_lock(&m); return 1; }\n"))
    assert [f.function for f in report.findings] == ["k"]


def test_input_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiledb, "_LARGEST", 1 << 20)
    monkeypatch.setattr(suppress, "_LARGEST", 1 << 20)
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        compiledb.load("/dev/zero")
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        suppress.read_baseline("/dev/zero")


def test_macros_that_hide_locks(tmp_path: Path) -> None:
    text = """
#define LOCK(o) pthread_mutex_lock(&(o)->lock)
#define UNLOCK(o) do { if (o) pthread_mutex_unlock(&(o)->lock); } while (0)
#define HOLDING(o) for (int once = (LOCK(o), 1); once; once = 0, pthread_mutex_unlock(&(o)->lock))
#define BEGIN(o) { LOCK(o);
#define END(o) UNLOCK(o); }
struct s { pthread_mutex_t lock; int v; };
void clean(struct s *s) { HOLDING(s) { s->v++; } }
void bracketed(struct s *s) { BEGIN(s) s->v++; END(s) }
int leaks(struct s *s) { HOLDING(s) { if (test()) return 1; } return 0; }
int leaks_too(struct s *s) { BEGIN(s) if (test()) return 1; END(s) return 0; }
"""
    report = run(write(tmp_path, HEADER + text))
    assert {(f.function, f.kind) for f in report.findings} == {
        ("leaks", "exit-locked"),
        ("leaks_too", "exit-locked"),
    }


def test_the_cache_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtscope.lockcheck.cache.KEPT", 3)
    path, cache = write(tmp_path, body("x")), tmp_path / "cache"
    for i in range(6):
        path.write_text(f"/* {i} */ {body('x')}")
        os.utime(path, (i, i))
        check.run(compiledb.plain([str(path)]), rules.load("pthread"), cache=str(cache), jobs=1)
    assert len(list((cache / "reports").iterdir())) == 3
    assert len(list((cache / "units").iterdir())) == 1
