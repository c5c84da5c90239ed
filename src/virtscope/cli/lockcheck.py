"""virt-lockcheck: find locking mistakes in C without running it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from virtscope.cli.command import Command, Example, Option
from virtscope.cli.exit_codes import NEGATIVE, OK, PARTIAL

if TYPE_CHECKING:
    from virtscope.lockcheck.check import Checked
    from virtscope.lockcheck.compiledb import Command as Compile
    from virtscope.lockcheck.findings import Report
    from virtscope.lockcheck.rules import RuleSet


def _jobs(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(f"{text!r} is not a whole number above 0")
    return number


def _commands(args: argparse.Namespace) -> list[Compile]:
    """The files to check, from the build folder, the arguments, or both (the arguments then choose)."""
    import os

    from virtscope.errors import UsageError
    from virtscope.lockcheck import compiledb

    flags = [f"-I{x}" for x in args.include or ()] + [f"-D{x}" for x in args.define or ()]
    flags += _split(args.cflags) if args.cflags else []
    if not args.build:
        return compiledb.plain(args.files, flags)
    found = compiledb.load(args.build)
    if flags:
        from dataclasses import replace

        found = [replace(c, arguments=(*c.arguments, *compiledb.keep(flags))) for c in found]
    if not args.files:
        return found
    wanted = [os.path.abspath(f) for f in args.files]
    chosen = [c for c in found if any(c.file == w or c.file.startswith(w + os.sep) for w in wanted)]
    if not chosen:
        raise UsageError(f"{args.build}: none of these files is in its compile_commands.json")
    return chosen


def _split(words: str) -> list[str]:
    """The arguments in one word, quoted as in a shell."""
    import shlex

    from virtscope.errors import UsageError

    try:
        return shlex.split(words)
    except ValueError as error:
        what = "a quotation is not closed" if "quotation" in str(error) else "it ends with a lone backslash"
        raise UsageError(f"--cflags={words}: {what}") from None


def _check(args: argparse.Namespace) -> None:
    from virtscope.errors import UsageError

    if args.list_rules:
        return
    if not args.files and not args.build:
        raise UsageError("name C files, or a build folder with -p (try virt-lockcheck --help)")
    if sum((args.json, args.sarif, bool(args.graph), args.functions)) > 1:
        raise UsageError("choose one of --json, --sarif, --functions and --graph")
    if args.write_baseline and not (args.reason or "").strip():
        raise UsageError("--write-baseline needs --reason: say why these findings are accepted")


def _run(args: argparse.Namespace) -> int:
    from virtscope.lockcheck import check, rules, suppress

    if args.list_rules:
        for name in rules.shipped():
            print(f"{name:14} {rules.load(name).title}")
        return OK
    chosen = rules.load(args.rules)
    commands = _commands(args)
    cache = None if args.no_cache else (args.cache or "")
    checked = check.run(
        commands,
        chosen,
        entries=args.entry or (),
        baseline=suppress.read_baseline(args.baseline) if args.baseline else None,
        jobs=args.jobs or 0,
        cache=cache,
        keep_program=bool(args.why or args.graph),
        progress=None if args.quiet or not sys.stderr.isatty() else _progress,
    )
    if args.graph:
        return _graph(args, checked)
    report = checked.report
    if args.diff_base:
        before = check.new_since(args.diff_base, commands, chosen, args.entry or (), args.jobs or 0, cache)
        report.findings = check.only_new(report.findings, before)
    if args.write_baseline:
        count = suppress.write_baseline(args.write_baseline, report.findings, args.reason)
        _say(f"{args.write_baseline}: {count} findings accepted")
        report.findings = []
    _print(args, checked, chosen)
    _complain(args, report)
    sys.stdout.flush()
    if report.unread:
        return PARTIAL
    return NEGATIVE if report.findings else OK


def _progress(phase: str, done: int, total: int) -> None:
    end = "\n" if done >= total else ""
    sys.stderr.write(f"\rvirt-lockcheck: {phase} {done}/{total}\x1b[K{end}")
    sys.stderr.flush()


def _say(sentence: str) -> None:
    from virtscope.cli import output

    sys.stdout.flush()
    sys.stderr.write(f"virt-lockcheck: {output.escape(sentence)}\n")


def _complain(args: argparse.Namespace, report: Report) -> None:
    for place in report.unread:
        _say(f"{place.file}: not checked: {place.text}")
    if args.quiet:
        return
    for place in report.partial if args.verbose else report.partial[:5]:
        where = f"{place.file}:{place.line}" if place.line else place.file
        _say(f"{where}: checked in part: {place.text}")
    if len(report.partial) > 5 and not args.verbose:
        _say(f"and {len(report.partial) - 5} more files were checked in part (-v names them)")
    for place in report.skipped:
        _say(f"{place.file}:{place.line}: not followed: {place.text}")


def _graph(args: argparse.Namespace, checked: Checked) -> int:
    from virtscope.lockcheck import graph

    assert checked.program is not None
    draw = {"svg": graph.svg, "dot": graph.dot, "text": graph.text}[args.graph_format]
    sys.stdout.write(draw(checked.program, args.graph, checked.sources))
    return OK


def _print(args: argparse.Namespace, checked: Checked, chosen: RuleSet) -> None:
    from virtscope.cli import output

    report = checked.report
    if args.json:
        from virtscope.lockcheck.findings import to_row

        errors = [{"file": p.file, "error": p.text} for p in report.unread]
        notes = [{"file": p.file, "line": p.line, "note": p.text} for p in (*report.partial, *report.skipped)]
        document = {
            "schema": "virt-lockcheck/1",
            "rules": report.rules,
            "files": report.files,
            "functions": report.functions,
            "rows": [to_row(f) for f in report.findings],
            "suppressed": [{**to_row(f), "reason": f.suppressed} for f in report.suppressed],
            "totals": report.totals(),
            "notes": notes,
            "errors": errors,
        }
        print(output.dump_json(document, indent=2))
    elif args.sarif:
        from virtscope import __version__
        from virtscope.lockcheck import sarif

        print(output.dump_json(sarif.document(report, __version__), indent=2))
    else:
        from virtscope.cli.lockcheck_text import lines

        color = output.use_color(args.color, sys.stdout)
        for text, style in lines(checked, why=bool(args.why), title=chosen.title, brief=args.functions):
            print(output.paint(output.escape(text), style, color))


_WHAT = "What to check"
_HOW = "What is reported"

COMMAND = Command(
    name="virt-lockcheck",
    summary="find locking mistakes in C code, without running it",
    description=(
        "Reads C with clang, follows the control flow of every function, and reports where locking rules are "
        "broken: locks held at an exit, taken twice, released without being held, taken in both orders; "
        "objects used while unlocked."
        "\n\n"
        "What locks and unlocks, and which rules hold, is a rule set: a shipped one, or a TOML file of yours."
    ),
    options=(
        Option(
            ("files",),
            "C files, preprocessed files, or folders of them",
            metavar="FILE",
            nargs="*",
            complete="file",
            group=_WHAT,
        ),
        Option(
            ("-p", "--build"),
            "a build folder with compile_commands.json",
            metavar="DIR",
            complete="file",
            group=_WHAT,
        ),
        Option(
            ("--rules",),
            "the rule set: a name or a TOML file (default: pthread)",
            metavar="SET",
            default="pthread",
            complete="file",
            group=_WHAT,
        ),
        Option(("--list-rules",), "list the rule sets that come with it", group=_WHAT),
        Option(
            ("--entry",),
            "a function to look at as an entry point (may be repeated)",
            metavar="FUNC",
            repeat=True,
            group=_WHAT,
        ),
        Option(
            ("-I",),
            "a folder of headers (may be repeated)",
            metavar="DIR",
            repeat=True,
            dest="include",
            group=_WHAT,
        ),
        Option(
            ("-D",),
            "a macro (may be repeated)",
            metavar="NAME[=VALUE]",
            repeat=True,
            dest="define",
            group=_WHAT,
        ),
        Option(
            ("--cflags",),
            "more compiler arguments, in one word: --cflags='-std=gnu89 -m32'",
            metavar="WORDS",
            group=_WHAT,
        ),
        Option(
            ("-j", "--jobs"),
            "how many files to read at once (default: one per processor)",
            metavar="N",
            parse=_jobs,
            group=_WHAT,
        ),
        Option(
            ("--cache",),
            "where to keep what was learned (default: the user's cache folder)",
            metavar="DIR",
            complete="file",
            group=_WHAT,
        ),
        Option(("--no-cache",), "learn everything anew and keep nothing", group=_WHAT),
        Option(("-J", "--json"), "print JSON", group=_HOW),
        Option(("--sarif",), "print SARIF 2.1.0", group=_HOW),
        Option(("--functions",), "print one line for each function with findings", group=_HOW),
        Option(
            ("--why",),
            "show the statements that lead to each mistake, with the lock state after each",
            group=_HOW,
        ),
        Option(
            ("--graph",),
            "draw the flow graph of a function, with the lock states",
            metavar="FUNC",
            group=_HOW,
        ),
        Option(
            ("--graph-format",),
            "how --graph draws (default: svg)",
            metavar="FORMAT",
            default="svg",
            choices=("svg", "dot", "text"),
            group=_HOW,
        ),
        Option(
            ("--baseline",),
            "leave out the findings that this file accepts",
            metavar="FILE",
            complete="file",
            group=_HOW,
        ),
        Option(
            ("--write-baseline",),
            "accept all findings in this file, for --reason",
            metavar="FILE",
            complete="file",
            group=_HOW,
        ),
        Option(("--reason",), "why --write-baseline accepts them", metavar="TEXT", group=_HOW),
        Option(
            ("--diff-base",),
            "report only what is new since a git revision, or an earlier --json report",
            metavar="REV|FILE",
            complete="file",
            group=_HOW,
        ),
        Option(
            ("--color",),
            "colour the text: auto, always or never",
            metavar="WHEN",
            default="auto",
            choices=("auto", "always", "never"),
            group=_HOW,
        ),
    ),
    action=_run,
    check=_check,
    examples=(
        Example("virt-lockcheck server.c", "check one file for mistakes with pthread locks"),
        Example(
            "virt-lockcheck -p build --rules libvirt --why", "check libvirt, show the way to each mistake"
        ),
        Example("virt-lockcheck -p build --diff-base origin/main --sarif", "in CI: only what a branch adds"),
        Example("virt-lockcheck server.c --graph handle > handle.svg", "draw one function"),
    ),
    notes=(
        (
            "SUPPRESSING",
            "A comment on the line of a finding, or on the line before, accepts it: /* lockcheck: ignore "
            "exit-locked: the caller unlocks */. Before a function, ignore-function counts for all of it. A "
            "baseline file accepts findings wherever their lines move. Both need a reason.",
        ),
    ),
    exit_meanings=(
        (OK, "Nothing was found."),
        (NEGATIVE, "There are findings."),
        (PARTIAL, "Some files could not be read; the rest was checked."),
    ),
)

main = COMMAND.main
