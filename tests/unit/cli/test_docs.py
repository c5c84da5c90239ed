"""Manual pages, completions and the list of commands agree with the commands themselves."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from docs.generate import DOCS, pages
from virtscope.cli import main
from virtscope.cli.command import Guests
from virtscope.cli.commands import COMMANDS, Entry
from virtscope.cli.completion import completion_script
from virtscope.cli.man import manual_page
from virtscope.cli.options import all_options
from virtscope.cli.parser import build_parser

each_command = pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)


@pytest.mark.parametrize("path", sorted(pages()), ids=str)
def test_generated_files_are_up_to_date(path: Path) -> None:
    assert (DOCS / path).read_text() == pages()[path], "run `make docs`"


def test_no_page_is_left_of_a_command_that_is_gone() -> None:
    assert {path.name for path in (DOCS / "man").iterdir()} == {f"{entry.name}.1" for entry in COMMANDS}


@each_command
def test_the_list_agrees_with_the_command(entry: Entry) -> None:
    command = entry.load()
    assert (command.name, command.summary) == (entry.name, entry.summary)
    assert command.rows is not None or command.action is not None


def test_every_command_has_its_console_script() -> None:
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    expected = {entry.name: f"virtscope.cli.{entry.module}:main" for entry in COMMANDS}
    assert project["scripts"] == expected | {"virtscope": "virtscope.cli:main"}


@each_command
def test_the_manual_names_every_option_the_parser_takes(entry: Entry) -> None:
    command = entry.load()
    page = manual_page(command).replace("\\-", "-")
    for action in build_parser(command)._actions:
        for flag in action.option_strings:
            assert re.search(rf"\\fB{re.escape(flag)}\\fR", page), flag


@each_command
def test_the_manual_formats_without_a_warning(entry: Entry) -> None:
    if shutil.which("groff") is None:
        pytest.fail("groff is missing: setup/debian-packages test installs it")
    page = manual_page(entry.load())
    run = subprocess.run(
        ["groff", "-man", "-Tutf8", "-wall", "-z"], input=page.encode(), capture_output=True, check=True
    )
    assert run.stderr == b""


@each_command
def test_flags_are_unique_and_options_described(entry: Entry) -> None:
    command = entry.load()
    flags = [flag for option in all_options(command) for flag in option.flags]
    assert len(flags) == len(set(flags))
    for option in all_options(command):
        assert option.help
        assert not option.help.endswith("."), option.flags
    if command.guests is not Guests.NONE:
        assert {"--domain", "--connect"} <= set(flags)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_bash_takes_the_completion(shell: str) -> None:
    script = completion_script(shell).removeprefix("autoload -U +X bashcompinit && bashcompinit\n")
    subprocess.run(["bash", "-n"], input=script.encode(), check=True)


def complete(words: str) -> list[str]:
    """What bash offers for a command line; the last word is the one being typed."""
    line = words.split(" ")
    script = completion_script("bash") + (
        f"\nCOMP_WORDS=({' '.join(repr(word) for word in line)}); COMP_CWORD={len(line) - 1}\n"
        f'_{line[0].replace("-", "_")}\nprintf "%s\\n" "${{COMPREPLY[@]}}"\n'
    )
    run = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_bash_completes_options_values_and_columns() -> None:
    assert "--forest" in complete("virt-ps --fo")
    assert complete("virt-ps --color a") == ["auto", "always"]
    assert "pid,rss" in complete("virt-ps -o pid,rs")
    assert "ps" in complete("virtscope p")


def test_virtscope_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for entry in COMMANDS:
        assert f"{entry.name} " in shown
        assert entry.summary in shown


def test_virtscope_names_the_nearest_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dmsg"]) == 2
    assert "did you mean dmesg?" in capsys.readouterr().err


def test_virtscope_without_a_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
