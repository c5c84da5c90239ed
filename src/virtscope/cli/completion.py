"""Shell completion, written from the commands' tables. `completion_script` is the entry point."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from virtscope.cli.command import Command, Option
from virtscope.cli.commands import COMMANDS
from virtscope.cli.exit_codes import FAILED, OK
from virtscope.cli.man import help_options
from virtscope.cli.options import all_options

SHELLS = ("bash", "zsh", "fish")


def _flags(command: Command) -> tuple[Option, ...]:
    return tuple(
        option for option in (*all_options(command), *help_options(command)) if not option.is_positional
    )


def _bash_values(command: Command, option: Option) -> str:
    if option.choices:
        return f'COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$cur"))'
    if option.complete == "file":
        return 'COMPREPLY=($(compgen -f -- "$cur"))'
    if option.complete == "domain":
        return 'COMPREPLY=($(compgen -W "$(virsh -q list --all --name 2>/dev/null)" -- "$cur"))'
    if option.complete == "column":
        names = " ".join(column.name for column in command.columns)
        given = '"${cur%"${cur##*,}"}"'
        return f'COMPREPLY=($(compgen -P {given} -W "{names}" -- "${{cur##*,}}")); compopt -o nospace'
    return "COMPREPLY=()"


def _bash_function(command: Command) -> str:
    name = command.name.replace("-", "_")
    cases = "\n".join(
        f"        {'|'.join(option.flags)}) {_bash_values(command, option)}; return ;;"
        for option in _flags(command)
        if option.metavar is not None
    )
    words = " ".join(flag for option in _flags(command) for flag in option.flags)
    return f"""_{name}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}}
    case $prev in
{cases}
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "{words}" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}}
complete -o filenames -F _{name} {command.name}
"""


def _bash() -> str:
    functions = "\n".join(_bash_function(entry.load()) for entry in COMMANDS)
    names = " ".join(entry.short_name for entry in COMMANDS)
    cases = "\n".join(f"        {e.short_name}|{e.name}) _{e.name.replace('-', '_')} ;;" for e in COMMANDS)
    return f"""{functions}
_virtscope() {{
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "{names} completion man" -- "${{COMP_WORDS[1]}}"))
        return
    fi
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
}}
complete -o filenames -F _virtscope virtscope
"""


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_line(command: Command, option: Option) -> str:
    parts = ["complete", "-c", command.name]
    for flag in option.flags:
        parts += ["-l", flag[2:]] if flag.startswith("--") else ["-s", flag[1:]]
    if option.metavar is not None:
        parts.append("-r" if option.complete == "file" else "-x")
        if option.choices:
            parts += ["-a", _fish_quote(" ".join(option.choices))]
        elif option.complete == "domain":
            parts += ["-a", "'(virsh -q list --all --name 2>/dev/null)'"]
        elif option.complete == "column":
            parts += ["-a", _fish_quote(" ".join(column.name for column in command.columns))]
    parts += ["-d", _fish_quote(option.help)]
    return " ".join(parts)


def _fish() -> str:
    lines = []
    for entry in COMMANDS:
        command = entry.load()
        lines += [_fish_line(command, option) for option in _flags(command)]
        summary = _fish_quote(entry.summary)
        lines.append(f"complete -c virtscope -n __fish_use_subcommand -f -a {entry.short_name} -d {summary}")
    return "\n".join(lines) + "\n"


def completion_script(shell: str) -> str:
    """The completion script for one of `SHELLS`; zsh uses bash's through its own compatibility function."""
    if shell == "fish":
        return _fish()
    if shell == "zsh":
        return "autoload -U +X bashcompinit && bashcompinit\n" + _bash()
    return _bash()


def print_completion(arguments: Sequence[str]) -> int:
    """`virtscope completion SHELL`."""
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        print(f"virtscope completion: name one shell: {', '.join(SHELLS)}", file=sys.stderr)
        return FAILED
    sys.stdout.write(completion_script(arguments[0]))
    return OK
