"""virt-sandbox: run a program of this host in a throw-away virtual machine or container."""

from __future__ import annotations

import argparse
import signal
import sys

from virtscope.cli.command import Command, Example, Option
from virtscope.cli.exit_codes import OK
from virtscope.cli.sandbox_options import OPTIONS, build

SANDBOX_FAILED = 125
TIMED_OUT = 124


def _run(args: argparse.Namespace) -> int:
    from virtscope.errors import SandboxTimeout, UsageError, VirtscopeError

    # A machine that dies while we write to it is an error to report, not our own end.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        if args.list_backends:
            return _list_backends()
        if args.gc:
            return _collect_garbage()
        if args.pool is not None:
            from virtscope.sandbox import pool

            return pool.serve(build(args), args.pool)
        sandbox = build(args)
        if args.service:
            from virtscope.sandbox import service

            unit = service.read_unit(args.service)
            sandbox = service.sandbox_for(unit, {}, sandbox)
            args.command = list(unit.argv)
        if args.desktop:
            from virtscope.sandbox import desktop

            sandbox = desktop.display(sandbox, args.desktop, server="cage" if args.wayland else "xorg")
        if args.dry_run:
            print(sandbox.dry_run())
            return OK
        if not args.command:
            _complain("no command to run (try virt-sandbox --help)")
            return 2
        return run_on_streams(
            sandbox, _command(args.command), quiet=args.quiet, terminal=_terminal(args), args=args
        )
    except SandboxTimeout as error:
        _complain(str(error))
        return TIMED_OUT
    except UsageError as error:
        _complain(str(error))
        return 2
    except VirtscopeError as error:
        _complain(str(error))
        return SANDBOX_FAILED


def _command(words: list[str]) -> list[str]:
    return words[1:] if words[0] == "--" else words


def _terminal(args: argparse.Namespace) -> bool | None:
    if args.tty:
        return True
    return False if args.no_tty else None


def run_on_streams(
    sandbox: object,
    argv: list[str],
    *,
    quiet: bool = False,
    terminal: bool | None = None,
    args: argparse.Namespace | None = None,
) -> int:
    """Run a command of a sandbox on our own streams; returns what virt-sandbox's exit status is to be."""
    from virtscope.sandbox import Sandbox
    from virtscope.sandbox import terminal as terminals

    assert isinstance(sandbox, Sandbox)
    if not quiet:
        _say_accelerator(sandbox)
    if sandbox.definition.display is not None:
        from virtscope.sandbox import desktop

        return desktop.run(sandbox, argv, icc=getattr(args, "icc", None), told=_say_where)
    session = None
    if args is not None and not args.no_pool:
        from virtscope.sandbox import pool

        session = pool.take(sandbox)
    if session is None:
        session = sandbox.start()
    with session:
        result = terminals.run(session, argv, terminal=terminal, timeout=sandbox.definition.limits.timeout)
    if result.problem:
        _complain(f"{argv[0]}: {result.problem}")
    return result.status


def _say_accelerator(sandbox: object) -> None:
    """Once after every boot of the host: that machines are emulated, and why."""
    from virtscope.sandbox import Sandbox, accelerator

    assert isinstance(sandbox, Sandbox)
    if sandbox.definition.backend == "qemu:" and (
        sentence := accelerator.to_be_said(sandbox.definition.accelerator)
    ):
        sys.stderr.write(f"virt-sandbox: {sentence}\n")


def _say_where(address: str, password: str) -> None:
    """How to look at the display."""
    sys.stderr.write(f"virt-sandbox: display at {address}{', password ' + password if password else ''}\n")


def _list_backends() -> int:
    from virtscope.cli.output import escape
    from virtscope.sandbox import backends

    for backend in backends.available():
        state = "works" if backend.works else "no"
        print(f"{backend.name:<16} {state:<6} {backend.isolation:<22} {escape(backend.note)}")
    return OK


def _collect_garbage() -> int:
    from virtscope.sandbox import cache, runtime

    for path in [*runtime.collect_garbage(), *runtime.collect_cache_garbage(cache.cache_directory())]:
        print(path)
    return OK


def _complain(sentence: str) -> None:
    from virtscope.cli.output import escape

    sys.stdout.flush()
    sys.stderr.write(f"virt-sandbox: {escape(sentence)}\n")


COMMAND = Command(
    name="virt-sandbox",
    summary="run a program of this host in a throw-away virtual machine or container",
    description=(
        "Runs a program that is installed on this host inside a virtual machine (or container) "
        "that lives for that "
        "command only. There is no guest to install: the guest's root is the host's root, read-only.\n\n"
        "Standard input, output and error are the program's own, kept apart, and its exit "
        "status is virt-sandbox's. "
        "On a terminal it is interactive. /tmp, /home, /root and /run are private and empty."
    ),
    options=(
        *OPTIONS,
        Option(("-t", "--tty"), "give it a terminal even when ours is none"),
        Option(("-T", "--no-tty"), "give it no terminal"),
        Option(
            ("--desktop",),
            "give it a display: vnc or spice (on a socket of its own), [HOST]:NUMBER or unix:/PATH for VNC, "
            "spice:[HOST:]PORT or spice:unix:/PATH",
            metavar="WHERE",
            group="Display",
        ),
        Option(("--wayland",), "a Wayland kiosk (cage) instead of Xorg", group="Display"),
        Option(
            ("--icc",),
            "the colour profile of that display (default: the X display's)",
            metavar="FILE",
            complete="file",
            group="Display",
        ),
        Option(
            ("--pool",),
            "keep so many machines waiting for commands, until interrupted",
            metavar="N",
            parse=int,
            group="Pool",
        ),
        Option(("--no-pool",), "do not take a waiting machine", group="Pool"),
        Option(("--service",), "run the command of this unit of the host, as its user", metavar="UNIT"),
        Option(("--dry-run",), "print the command line or XML instead of running anything"),
        Option(("--list-backends",), "say which back ends work on this host, and why others do not"),
        Option(("--gc",), "remove what killed sandboxes left, and print it"),
        Option(("command",), "the program and its arguments", metavar="COMMAND", nargs="..."),
    ),
    action=_run,
    examples=(
        Example("virt-sandbox /bin/date", "run date in a virtual machine"),
        Example(
            "virt-sandbox --mount host-bind:/tmp/src=. make -C /tmp/src -n", "show it a folder, read-only"
        ),
        Example("virt-sandbox -c uml: --memory 256M bash", "an interactive shell under User Mode Linux"),
        Example(
            "virt-sandbox --network user --allow example.org:443 curl https://example.org", "one destination"
        ),
        Example("virt-sandbox --disk disk.qcow2,qcow2,rw --root fsck -f /dev/vda1", "check a disk"),
        Example("virt-sandbox --desktop spice --wayland foot", "a terminal in a kiosk, seen over SPICE"),
    ),
    exit_meanings=(
        (2, "The options are wrong, or ask for what this back end cannot do."),
        (124, "The time given with --timeout was not enough."),
        (125, "The sandbox itself failed."),
        (126, "The command could not be run."),
        (127, "There is no such command."),
    ),
)

main = COMMAND.main
