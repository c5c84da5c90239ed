"""virt-sandbox-service: system services confined in sandboxes."""

from __future__ import annotations

import argparse
import signal

from virtscope.cli.command import Command, Example, Option
from virtscope.cli.exit_codes import OK
from virtscope.errors import UsageError

ACTIONS = ("create", "start", "stop", "list", "delete", "run")


def _run(args: argparse.Namespace) -> int:
    from virtscope.sandbox.service import ServiceStore

    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    store = ServiceStore()
    if args.action == "list":
        for row in store.services():
            print(f"{row.name:<24} {row.state:<8} {row.pid or '-':<8} {row.backend:<16} {row.unit}")
        return OK
    names = args.names or ([row.name for row in store.services()] if args.all else [])
    if not names:
        raise UsageError(f"{args.action}: name the services, or --all")
    if args.action == "create":
        return _create(store, names, args)
    if args.action == "run":
        return store.run(names[0])
    for name in names:
        if args.action == "start":
            store.start(name)
        elif args.action == "stop":
            store.stop(name)
        else:
            store.delete(name)
    return OK


def _create(store: object, names: list[str], args: argparse.Namespace) -> int:
    from virtscope.sandbox import parse_size
    from virtscope.sandbox.service import ServiceStore, read_unit

    assert isinstance(store, ServiceStore)
    if not args.unit:
        raise UsageError("create: which unit? (--unit NAME.service)")
    unit = read_unit(args.unit)
    for name in names:
        store.create(name, unit, args.connect, size=parse_size(args.size))
    return OK


COMMAND = Command(
    name="virt-sandbox-service",
    summary="run system services confined in virtual machines or containers",
    description=(
        "Takes a service unit of this host as a template: its command, user, environment and "
        "folders. Every service "
        "created from it runs in a sandbox of its own, its state folders on disk images of its own.\n\n"
        "`run` is what `start` runs in the background."
    ),
    options=(
        Option(("action",), "what to do", metavar="ACTION", choices=ACTIONS),
        Option(("names",), "the services", metavar="NAME", nargs="*"),
        Option(("--unit",), "create: the unit to make them from, a name or a path", metavar="UNIT"),
        Option(
            ("-c", "--connect"),
            "create: the back end, as for virt-sandbox",
            metavar="BACKEND",
            default="qemu:",
        ),
        Option(("--size",), "create: of each state image", metavar="SIZE", default="1G"),
        Option(("--all",), "all services"),
    ),
    action=_run,
    examples=(
        Example(
            "virt-sandbox-service create cache1 cache2 --unit redis-server.service", "two from one template"
        ),
        Example("virt-sandbox-service start --all", "start them"),
        Example("virt-sandbox-service list", "see how they are"),
    ),
    see_also=("virt-sandbox",),
)

main = COMMAND.main
