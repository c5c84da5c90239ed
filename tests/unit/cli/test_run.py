"""Running a command: options, columns, sorting, errors, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from virtscope.cli import main
from virtscope.cli.command import Column, Command, Guests, Line, Option
from virtscope.cli.exit_codes import FAILED, NEGATIVE, OK, PARTIAL
from virtscope.errors import CorruptData, UsageError


@dataclass(frozen=True, slots=True)
class Animal:
    name: str
    legs: int | None


ANIMALS = (Animal("dog", 4), Animal("ant", 6), Animal("ufo", None))

COLUMNS = (
    Column("name", "NAME", lambda row: row.name, "its name"),
    Column("legs", "LEGS", lambda row: row.legs, "how many legs it has", right=True),
)


def rows(_guest: object, args: argparse.Namespace) -> Iterator[Animal]:
    yield from ANIMALS
    if args.break_after:
        raise CorruptData("the list of animals loops")


def command(**more: object) -> Command:
    table: dict[str, object] = {
        "name": "virt-zoo",
        "summary": "list animals",
        "description": "Lists animals.",
        "guests": Guests.NONE,
        "options": (Option(("--break-after",), "fail after the rows"),),
        "columns": COLUMNS,
        "rows": rows,
    }
    return Command(**(table | more))  # type: ignore[arg-type]


def test_a_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command().main([]) == OK
    assert capsys.readouterr().out == "NAME  LEGS\ndog      4\nant      6\nufo      -\n"


def test_json_is_a_document_with_schema_rows_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert command().main(["--json"]) == OK
    assert json.loads(capsys.readouterr().out) == {
        "schema": "virt-zoo/1",
        "rows": [{"name": a.name, "legs": a.legs} for a in ANIMALS],
        "errors": [],
    }


def test_jsonl_is_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    command().main(["--jsonl", "-o", "legs"])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"legs": 4},
        {"legs": 6},
        {"legs": None},
    ]


def test_sorting_puts_unknown_last_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    command().main(["--sort", "legs", "-n"])
    up = capsys.readouterr().out.split()[::2]
    command().main(["--sort", "-legs", "-n"])
    down = capsys.readouterr().out.split()[::2]
    assert (up, down) == (["dog", "ant", "ufo"], ["ant", "dog", "ufo"])


def test_an_error_after_rows_is_partial(capsys: pytest.CaptureFixture[str]) -> None:
    assert command().main(["--break-after"]) == PARTIAL
    captured = capsys.readouterr()
    assert "dog" in captured.out
    assert captured.err == "virt-zoo: the list of animals loops\n"


def test_an_error_without_rows_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    def nothing(_guest: object, _args: argparse.Namespace) -> Iterator[Animal]:
        raise CorruptData("bad \x1b[31m news")
        yield

    assert command(rows=nothing).main([]) == FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "virt-zoo: bad \\x1b[31m news\n"


def test_an_unknown_column_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert command().main(["-o", "lags"]) == FAILED
    assert "there is no column 'lags': did you mean legs?" in capsys.readouterr().err


def test_a_wrong_option_is_one_sentence_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command().main(["--wings"])
    assert stop.value.code == FAILED
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("forms", ["--json --csv", "-J --jsonl", "--csv --jsonl", "--json --jsonl --csv"])
def test_forms_of_output_exclude_each_other(capsys: pytest.CaptureFixture[str], forms: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        command().main(forms.split())
    assert stopped.value.code == FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert " exclude each other" in captured.err
    for form in forms.replace("-J", "--json").split():
        assert form in captured.err


def test_contradicting_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    def check(_args: argparse.Namespace) -> None:
        raise UsageError("--a and --b exclude each other")

    assert command(check=check).main([]) == FAILED
    assert capsys.readouterr().err == "virt-zoo: --a and --b exclude each other\n"


def test_an_action_decides_its_exit_code() -> None:
    assert command(rows=None, columns=(), action=lambda _args: NEGATIVE).main([]) == NEGATIVE


def test_classic_text_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    def text(found: Iterator[Animal], _args: argparse.Namespace) -> Iterator[Line]:
        for animal in found:
            yield Line(f"{animal.name}\x1b[2J")

    command(text=text).main([])
    assert capsys.readouterr().out.splitlines()[0] == "dog\\x1b[2J"


def test_help_and_version_are_always_there(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h", "--version", "-V"):
        with pytest.raises(SystemExit) as stop:
            command().main([flag])
        assert stop.value.code == OK
        assert "virt-zoo" in capsys.readouterr().out


def test_h_keeps_its_classic_meaning_where_the_tool_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    human = command(options=(Option(("-h", "--human-readable"), "sizes people read"), *command().options))
    assert human.main(["-h"]) == OK
    assert capsys.readouterr().out.startswith("NAME")


def run_in_shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a shell line in which $P is Python; most things end before anything of a guest is looked at."""
    return subprocess.run(
        ["sh", "-c", line],
        env={**os.environ, "P": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
    )


CALL = "from virtscope.cli import main; import sys; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("arguments", ["--help", "man ps", "ps --help", "ps -V", "completion bash"])
def test_a_closed_standard_output_is_one_sentence(arguments: str) -> None:
    done = run_in_shell(f'"$P" -c "{CALL}" {arguments} >&-')
    assert done.returncode == FAILED
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(": standard output cannot be written: Bad file descriptor\n")


def test_closed_streams_do_not_matter_where_nothing_is_written_to_them() -> None:
    done = run_in_shell(f'"$P" -c "{CALL}" ps -V <&- 2>&-')
    assert (done.returncode, done.stdout[:7]) == (OK, "virt-ps")
    assert run_in_shell(f'"$P" -c "{CALL}" ps --qemu 1 <&- 2>&-').returncode == FAILED


def test_a_full_standard_output_is_one_sentence_for_the_list_of_commands_too() -> None:
    done = run_in_shell(f'"$P" -c "{CALL}" --help >/dev/full')
    assert done.returncode == FAILED
    assert done.stderr == "virtscope: standard output cannot be written: No space left on device\n"


BROKEN = """
import dataclasses, errno, os, sys
from virtscope.cli import ps

def rows(guest, args):
    raise OSError(errno.EIO, os.strerror(errno.EIO))
    yield

sys.exit(dataclasses.replace(ps.COMMAND, rows=rows).main(["-m", "dump"]))
"""


def test_an_error_of_the_system_that_nobody_expected_is_not_blamed_on_standard_output(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(BROKEN)
    for redirection in ("", ">/dev/full"):
        done = run_in_shell(f'"$P" {script} {redirection}')
        assert (done.returncode, done.stdout) == (FAILED, "")
        place = re.escape("(virtscope.cli.run, line ") + r"\d+\)"
        assert re.fullmatch(
            rf"virt-ps: unexpected error: \[Errno 5\] Input/output error {place}\n", done.stderr
        )


def test_who_stops_to_read_ends_the_command_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-c", CALL, "man", "lockcheck"]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_full_standard_error_changes_no_exit_code() -> None:
    assert run_in_shell(f'"$P" -c "{CALL}" ps --qemu 1 2>/dev/full').returncode == FAILED


def test_an_interrupt_while_a_command_is_still_loading_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("virtscope.cli.run.guarded", interrupted)
    assert command().main([]) == 130
    assert main([]) == 130
    assert capsys.readouterr() == ("", "")


def test_several_guests_cannot_be_followed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dmesg", "-w", "-m", "/none/a", "-m", "/none/b"]) == FAILED
    said = capsys.readouterr().err
    assert said == "virt-dmesg: only one guest can be followed at a time, not 2: name the one\n"
