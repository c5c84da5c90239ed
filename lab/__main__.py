"""`python -m lab`: boots guests and fetches kernels by hand."""

from __future__ import annotations

import argparse
import signal
import sys

from lab.cache import LabError
from lab.guest import Guest
from lab.initrd import initrd
from lab.kernels import ALIASES, MATRIX, NAMES, kernel, refresh
from lab.userspace import script


def _boot(options: argparse.Namespace) -> None:
    guest = Guest(
        options.kernel,
        memory_mib=options.memory,
        machine=options.machine,
        cpu=options.cpu,
        smp=options.smp,
        monitor=not options.no_monitor,
        backend=options.backend,
        defaults=options.defaults,
        agent=options.agent,
        direct=options.direct,
        setup="" if options.boot_only else None,
        append=options.append,
        args=options.qemu_args,
    )
    with guest:
        print(f"kernel {guest.kernel.release}, ready in {guest.boot_seconds:.1f} s")
        print(f"pid {guest.pid}")
        print(f"qmp {guest.qmp_socket or 'none'}")
        print(f"console {guest.console_log}", flush=True)
        if options.run:
            print(guest.run(options.run), end="")
            return
        print("Ctrl-C ends it; shell commands typed here run in the guest", flush=True)
        for line in sys.stdin:
            done = guest.execute(line)
            sys.stdout.write((done.stdout + done.stderr).decode(errors="replace"))
            sys.stdout.flush()
        signal.pause()


def _files(options: argparse.Namespace) -> None:
    found = kernel(options.kernel)
    print(f"-kernel {found.vmlinuz} -initrd {initrd(found, script())}")


def _kernels(options: argparse.Namespace) -> None:
    for name in options.names or MATRIX:
        found = refresh(name) if options.refresh else kernel(name)
        print(f"{name:12} {found.release:26} {found.version:16} {found.suite}", flush=True)


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(required=True)
    boot = commands.add_parser("boot", help="boot a guest and keep it until Ctrl-C")
    boot.add_argument("kernel", help=f"one of {', '.join([*NAMES, *ALIASES])}, or PACKAGE@SUITE")
    boot.add_argument("--memory", type=int, default=256, metavar="MIB")
    boot.add_argument("--machine", default="q35")
    boot.add_argument("--cpu", default="")
    boot.add_argument("--smp", type=int, default=1)
    boot.add_argument("--no-monitor", action="store_true")
    boot.add_argument(
        "--backend", default="plain", help="plain, ram, memfd, memfd-private, file, file-private, numa"
    )
    boot.add_argument("--defaults", action="store_true", help="leave QEMU's default devices in (VGA, e1000)")
    boot.add_argument("--agent", choices=("virtio", "serial"), default="virtio", help="the agent's port")
    boot.add_argument("--direct", action="store_true", help="boot the uncompressed image: faster, no KASLR")
    boot.add_argument("--boot-only", action="store_true", help="no processes and network set up")
    boot.add_argument("--append", default="", help="text for the kernel command line")
    boot.add_argument("--run", metavar="COMMAND", help="run this shell command in the guest and end")
    boot.add_argument("qemu_args", nargs="*", help="further QEMU arguments, after --")
    boot.set_defaults(action=_boot)
    files = commands.add_parser("files", help="print kernel and initrd, to start QEMU by hand")
    files.add_argument("kernel")
    files.set_defaults(action=_files)
    kernels = commands.add_parser("kernels", help="fetch kernels, by default the whole matrix")
    kernels.add_argument("names", nargs="*")
    kernels.add_argument("--refresh", action="store_true", help="look for newer ones in the archive")
    kernels.set_defaults(action=_kernels)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        options.action(options)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
