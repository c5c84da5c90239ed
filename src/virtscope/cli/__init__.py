"""The commands: one file each, on a small framework (command.py: the table; run.py: running it).

`main` is `virtscope`, which lists the commands and runs any of them: `virtscope ps` is `virt-ps`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from virtscope import __version__
from virtscope.cli.exit_codes import FAILED, OK

_HELP = """usage: virtscope COMMAND [ARGUMENT...]
       virtscope completion bash|zsh|fish
       virtscope man COMMAND

Look inside, confine and trace virtual machines from the outside.

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `virtscope`; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        from virtscope.cli.run import guarded

        return guarded("virtscope", lambda: _run(arguments))
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, while it was being imported


def _run(arguments: list[str]) -> int:
    from virtscope.cli.commands import COMMANDS, find

    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(len(entry.name) for entry in COMMANDS)
        print(_HELP + "\n".join(f"  {entry.name:{width}}  {entry.summary}" for entry in COMMANDS))
        print("\nEvery command takes --help and has a manual page: virtscope man ps")
        return OK if arguments else FAILED
    if arguments[0] in ("-V", "--version"):
        print(f"virtscope {__version__}")
        return OK
    name, rest = arguments[0], arguments[1:]
    if name == "completion":
        from virtscope.cli.completion import print_completion

        return print_completion(rest)
    if name == "man":
        from virtscope.cli.man import print_manual

        return print_manual(rest)
    entry = find(name)
    if entry is None:
        import difflib

        near = difflib.get_close_matches(name, [known.short_name for known in COMMANDS], 1)
        hint = f"; did you mean {near[0]}?" if near else " (virtscope --help lists them)"
        print(f"virtscope: there is no command {name!r}{hint}", file=sys.stderr)
        return FAILED
    return entry.load().main(rest)
