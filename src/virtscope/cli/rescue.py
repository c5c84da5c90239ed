"""virt-rescue: a shell with the host's tools and an image's filesystems, in a throw-away virtual machine."""

from __future__ import annotations

import argparse

from virtscope.cli.command import Command, Example, Option
from virtscope.cli.options import _AddDisk
from virtscope.cli.sandbox_options import MACHINE_OPTIONS
from virtscope.errors import UsageError

DISKS: tuple[Option, ...] = (
    Option(
        ("-a", "--add"),
        "a disk image (may be repeated)",
        metavar="FILE",
        action=_AddDisk,
        dest="disks",
        complete="file",
    ),
    Option(
        ("--format",), "the format of the images that follow, instead of what their names say", metavar="FMT"
    ),
    Option(("--rw", "-w"), "let the disks be written to"),
    Option(("--network",), "reach the network", dest="with_network"),
)


def run_in_machine(args: argparse.Namespace, *, inside: bool) -> int:
    """What virt-rescue and virt-run share: the machine, the filesystems, the command on our own streams."""
    import signal
    import sys

    from virtscope.cli.output import escape
    from virtscope.cli.sandbox import SANDBOX_FAILED, TIMED_OUT
    from virtscope.cli.sandbox_options import with_machine
    from virtscope.errors import SandboxTimeout, VirtscopeError
    from virtscope.sandbox import rescue, terminal

    name = "virt-run" if inside else "virt-rescue"
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if not args.disks:
        raise UsageError("no disk image (-a FILE)")
    words = args.command[1:] if args.command[:1] == ["--"] else args.command
    if inside and not words:
        raise UsageError("no command to run in the image")
    try:
        sandbox = rescue.machine(args.disks, writable=args.rw)
        memory = args.memory
        args.memory = memory or f"{rescue.MEMORY >> 20}M"
        sandbox = with_machine(sandbox, args)
        if args.with_network:
            sandbox = sandbox.with_network("user")
        with sandbox.start() as session:
            found = rescue.assemble(session, run=inside, writable=args.rw)
            if not inside and not args.quiet and not words:
                sys.stderr.write("".join(f"{escape(line)}\n" for line in found))
            try:
                argv = rescue.inside(words) if inside else words or ["/bin/bash", "-i"]
                result = terminal.run(session, argv, timeout=args.timeout)
            finally:
                rescue.release(session)
        if result.problem:
            sys.stderr.write(f"{name}: {escape(argv[0])}: {result.problem}\n")
        return result.status
    except SandboxTimeout as error:
        sys.stderr.write(f"{name}: {escape(str(error))}\n")
        return TIMED_OUT
    except VirtscopeError as error:
        sys.stderr.write(f"{name}: {escape(str(error))}\n")
        return SANDBOX_FAILED


def _run(args: argparse.Namespace) -> int:
    return run_in_machine(args, inside=False)


COMMAND = Command(
    name="virt-rescue",
    summary="repair a disk image with the host's tools, in a throw-away virtual machine",
    description=(
        "Gives a virtual machine the disk images and a root shell in it. The programs are the "
        "host's; the image's "
        "filesystems are mounted under /sysroot, as its own fstab says. Nothing of the image is "
        "mounted or parsed "
        "by the host.\n\n"
        "The disks cannot be written to unless --rw is given. Do not use --rw on the disk of a running guest."
    ),
    options=(
        *DISKS,
        *MACHINE_OPTIONS,
        Option(("command",), "a command instead of a shell", metavar="COMMAND", nargs="..."),
    ),
    action=_run,
    examples=(
        Example("virt-rescue -a disk.qcow2", "look around"),
        Example("virt-rescue -a disk.img --rw -- sh -c 'umount /sysroot; fsck -y /dev/vda1'", "repair it"),
    ),
    see_also=("virt-run", "virt-sandbox"),
)

main = COMMAND.main
