"""virt-boot-benchmark: how long a sandbox's machine takes to start, run nothing and end."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from typing import TYPE_CHECKING

from virtscope import __version__
from virtscope.cli.command import Command, Example, Option
from virtscope.cli.exit_codes import OK
from virtscope.errors import UsageError

if TYPE_CHECKING:
    from virtscope.sandbox import Sandbox

TEST_VERSION = "virt-boot-benchmark 1"

OPTIONS: tuple[Option, ...] = (
    Option(("-n", "--passes"), "how many starts are measured", metavar="N", parse=int, default=10),
    Option(("-c", "--connect"), "the back end, as for virt-sandbox", metavar="BACKEND", default="qemu:"),
    Option(("--smp",), "number of processors", metavar="N", parse=int, default=1),
    Option(("--memsize",), "memory, like 256M; a plain number is MiB", metavar="SIZE"),
    Option(("--append",), "more words for the kernel's command line", metavar="WORDS", default=""),
    Option(("--kernel",), "boot this kernel image or installed release", metavar="KERNEL"),
    Option(
        ("--machine",),
        "QEMU's machine type",
        metavar="TYPE",
        default="auto",
        choices=("auto", "microvm", "pc", "q35"),
    ),
    Option(("--accel",), "kvm, tcg or auto", metavar="NAME", default="auto", choices=("auto", "kvm", "tcg")),
    Option(
        ("--transport",),
        "9p, virtiofs or auto",
        metavar="NAME",
        default="auto",
        choices=("auto", "9p", "virtiofs"),
    ),
    Option(("--snapshot",), "resume a saved machine instead of booting one"),
)


def sandbox_of(args: argparse.Namespace) -> Sandbox:
    """The sandbox that the options describe."""
    from virtscope.sandbox import Sandbox, parse_size

    sandbox = Sandbox().on(args.connect).with_limits(cpus=args.smp)
    if args.memsize:
        size = parse_size(args.memsize + ("M" if args.memsize.isdigit() else ""))
        sandbox = sandbox.with_limits(memory=size)
    return sandbox.with_options(
        append=args.append,
        kernel=args.kernel,
        machine=args.machine,
        accelerator=args.accel,
        transport=args.transport,
        snapshot=args.snapshot,
    )


def environment() -> dict[str, str]:
    """Test version, host, processor and QEMU's version."""
    import platform
    import shutil
    import subprocess

    cpu = "unknown"
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    about = {"test": f"{TEST_VERSION} (virtscope {__version__})", "host": platform.platform(), "cpu": cpu}
    program = shutil.which("qemu-system-x86_64")
    if program:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        about["qemu"] = done.stdout.splitlines()[0] if done.stdout else "unknown"
    return about


def _once(sandbox: Sandbox) -> float:
    began = time.perf_counter()
    sandbox.run(["/bin/true"], timeout=300)
    return time.perf_counter() - began


def _show(name: str, samples: list[float]) -> float:
    from virtscope.sandbox.boot.activity import spread

    mean, deviation = spread(samples)
    said = "" if deviation is None else f" +- {deviation * 1000:.1f}"
    print(f"{name}: {mean * 1000:.1f} ms{said}")
    return mean


def _run(args: argparse.Namespace) -> int:
    if args.passes < 1:
        raise UsageError("-n: at least one pass")
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sandboxes = [sandbox_of(args)]
    if args.vs is not None:
        from virtscope.cli.parser import parse

        try:
            words = shlex.split(args.vs)
        except ValueError as error:
            raise UsageError(f"--vs: {error}") from None
        sandboxes.append(sandbox_of(parse(COMMAND, words)))
    for key, value in environment().items():
        print(f"{key.capitalize()}: {value}")
    from virtscope.sandbox import accelerator

    if args.connect == "qemu:":
        kind = accelerator.usable() if args.accel == "auto" else args.accel
        print(f"Back end: {args.connect} {kind}")
    else:
        print(f"Back end: {args.connect}")
    for sandbox in sandboxes:
        _once(sandbox)
    results: list[list[float]] = [[] for _ in sandboxes]
    for number in range(args.passes):
        for samples, sandbox in zip(results, sandboxes, strict=True):
            samples.append(_once(sandbox))
        if not args.quiet and sys.stderr.isatty():
            sys.stderr.write(f"\rpass {number + 1}/{args.passes} ")
    if not args.quiet and sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    print(f"Passes: {args.passes}")
    first = _show("Result", results[0])
    if len(results) > 1:
        second = _show("Versus", results[1])
        from virtscope.sandbox.boot.compare import welch

        probability = welch(results[0], results[1])
        chance = "" if probability is None else f" (p = {probability:.3g})"
        print(f"Ratio: {second / first:.3f}{chance}")
    return OK


COMMAND = Command(
    name="virt-boot-benchmark",
    summary="measure how long a virtual machine takes to start and end",
    description=(
        "Starts a sandbox's machine, runs /bin/true in it and ends it, as often as asked for, "
        "after one start "
        "that warms the caches; prints mean and standard deviation.\n\n"
        "With --vs a second configuration is measured as well, pass by pass in turn, so that a change of the "
        "host's load falls on both; the ratio is the second to the first."
    ),
    options=(*OPTIONS, Option(("--vs",), "options of a second configuration", metavar="OPTIONS")),
    action=_run,
    examples=(
        Example("virt-boot-benchmark -n 20", "the machine of virt-sandbox"),
        Example("virt-boot-benchmark --vs='--machine pc'", "microvm against pc"),
        Example("virt-boot-benchmark --vs=--snapshot", "booting against resuming"),
    ),
)

main = COMMAND.main
