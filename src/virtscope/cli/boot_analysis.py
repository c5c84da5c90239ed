"""virt-boot-analysis: where the time of a boot goes."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from virtscope.cli.boot_benchmark import OPTIONS as BENCHMARK_OPTIONS
from virtscope.cli.boot_benchmark import environment, sandbox_of
from virtscope.cli.command import Command, Example, Option
from virtscope.cli.exit_codes import NEGATIVE, OK
from virtscope.errors import GuestNotFound, UsageError

if TYPE_CHECKING:
    from virtscope.sandbox.boot.activity import Activity, Span

WHAT = "What is started"
HOW = "How it is shown"


def _spans(args: argparse.Namespace) -> list[Span]:
    """The starts to look at."""
    from virtscope.sandbox.boot import console, measure

    if args.log:
        span = console.log_span(_read(args.log).splitlines(), Path(args.log).name)
        if span is None:
            raise UsageError(f"{args.log}: no line of it has a kernel's time stamp")
        return [span]
    if args.initrd or args.disk:
        return list(measure.console_passes(_machine(args), args.until, args.passes, args.timeout))
    command = args.command or ["/bin/true"]
    command = command[1:] if command[0] == "--" else command
    sandbox = sandbox_of(args)
    if not args.json and not args.quiet and args.passes > 1:
        sys.stderr.write(f"virt-boot-analysis: {args.passes} starts\n")
    sandbox.run(["/bin/true"], timeout=300)
    return list(measure.sandbox_passes(sandbox, command, args.passes, detail=not args.no_detail))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError as error:
        raise GuestNotFound(f"{path}: {error.strerror}") from None


def _machine(args: argparse.Namespace) -> list[str]:
    """QEMU's arguments for a kernel with its initrd, or a disk."""
    from virtscope.sandbox import accelerator, parse_size

    kind = accelerator.usable() if args.accel == "auto" else args.accel
    machine = "q35" if args.machine == "auto" else args.machine
    memory = parse_size(args.memsize + ("M" if args.memsize.isdigit() else "")) if args.memsize else 512 << 20
    words = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-M",
        machine,
        "-accel",
        kind,
    ]
    words += ["-m", f"{memory >> 10}k", "-smp", str(args.smp)]
    if args.kernel:
        words += ["-kernel", args.kernel, "-append", f"console=ttyS0 {args.append}".strip()]
        if args.initrd:
            words += ["-initrd", args.initrd]
    elif args.initrd:
        raise UsageError("--initrd needs --kernel")
    if args.disk:
        path, _, form = args.disk.partition(",")
        drive = f"file={path.replace(',', ',,')},format={form or 'raw'},if=virtio,snapshot=on"
        words += ["-drive", drive]
    return words


def _run(args: argparse.Namespace) -> int:
    from virtscope.sandbox.boot import export

    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if args.diff:
        return _diff(args.diff)
    if args.passes < 1:
        raise UsageError("-n: at least one pass")
    from virtscope.sandbox.boot.activity import merge

    about: dict[str, object] = {"title": "Where the boot time goes", **environment(), "passes": args.passes}
    if args.load:
        root = export.from_json(_read(args.load))
    else:
        spans = _spans(args)
        about["passes"] = len(spans)
        root = merge(spans)
    _write(args, root, about)
    return OK


def _write(args: argparse.Namespace, root: Activity, about: dict[str, object]) -> None:
    from virtscope.sandbox.boot import export, page, svg, text

    files: tuple[tuple[str | None, Callable[[], str]], ...] = (
        (args.svg, lambda: svg.draw(root)),
        (args.html, lambda: page.render(root, about)),
        (args.trace, lambda: export.to_trace(root)),
        (args.save, lambda: export.to_json(root, about)),
    )
    for path, make in files:
        if path:
            try:
                Path(path).write_text(make())
            except OSError as error:
                raise UsageError(f"{path}: {error.strerror}") from None
    if args.json:
        print(export.to_json(root, about))
        return
    width = args.width or shutil.get_terminal_size((110, 40)).columns
    for line in text.timeline(root, width):
        print(line)
    print()
    for line in text.tree(root, 0.0 if args.verbose else 0.003):
        print(line)


def _diff(paths: Sequence[str]) -> int:
    from virtscope.sandbox.boot import compare, export

    if len(paths) != 2:
        raise UsageError("--diff: two results, before and after")
    before, after = (export.from_json(_read(path)) for path in paths)
    slower = False
    print(f"{'before':>9} {'after':>9} {'change':>9}  {'p':>7}  activity")
    for row in compare.changes(before, after):
        was = "-" if row.before is None else f"{row.before * 1000:.1f}"
        now = "-" if row.after is None else f"{row.after * 1000:.1f}"
        chance = "-" if row.probability is None else f"{row.probability:.3f}"
        star = " *" if row.significant else ""
        print(f"{was:>9} {now:>9} {row.difference * 1000:+9.1f}  {chance:>7}  {row.path}{star}")
        slower |= bool(row.significant) and row.difference > 0 and " / " not in row.path
    return NEGATIVE if slower else OK


COMMAND = Command(
    name="virt-boot-analysis",
    summary="show where the time of a boot goes",
    description=(
        "Starts a sandbox, or boots any kernel or disk on a serial console, and shows a tree of "
        "activities: when "
        "each began and ended, mean, standard deviation and share of the whole. What no part "
        "explains is shown as "
        "such; -v shows even the smallest.\n\n"
        "With --log it reads a captured console log with the kernel's time stamps, for instance "
        "a libvirt domain's. "
        "With --diff it compares two results that --save wrote, and marks with * what is more "
        "than chance; its "
        "exit status is 1 if the whole became slower."
    ),
    options=(
        *(option for option in BENCHMARK_OPTIONS),
        Option(("--json",), "print the result as JSON", group=HOW),
        Option(("--no-detail",), "do not have the kernel report its initcalls", group=WHAT),
        Option(
            ("--initrd",),
            "with --kernel, boot these on a serial console",
            metavar="FILE",
            complete="file",
            group=WHAT,
        ),
        Option(
            ("--disk",),
            "boot this disk on a serial console: IMG[,FORMAT]; it is not changed",
            metavar="IMG",
            complete="file",
            group=WHAT,
        ),
        Option(
            ("--until",),
            "the line that ends such a boot",
            metavar="PATTERN",
            group=WHAT,
            default=r"login:|reboot: |Kernel panic|Attempted to kill init",
        ),
        Option(
            ("--timeout",),
            "seconds for such a boot",
            metavar="SECONDS",
            parse=float,
            default=120.0,
            group=WHAT,
        ),
        Option(("--log",), "read a captured console log", metavar="FILE", complete="file", group=WHAT),
        Option(("--load",), "show a result that --save wrote", metavar="FILE", complete="file", group=WHAT),
        Option(
            ("--diff",),
            "compare two results: --diff BEFORE --diff AFTER",
            metavar="FILE",
            repeat=True,
            complete="file",
            group=WHAT,
        ),
        Option(
            ("--save",), "write the result, for --load and --diff", metavar="FILE", complete="file", group=HOW
        ),
        Option(("--svg",), "write a drawing", metavar="FILE", complete="file", group=HOW),
        Option(
            ("--html",),
            "write a page with zoom and hover that needs nothing else",
            metavar="FILE",
            complete="file",
            group=HOW,
        ),
        Option(("--trace",), "write Chrome's trace format", metavar="FILE", complete="file", group=HOW),
        Option(("--width",), "of the timeline", metavar="N", parse=int, group=HOW),
        Option(("command",), "the command to run in the sandbox", metavar="COMMAND", nargs="..."),
    ),
    action=_run,
    examples=(
        Example("virt-boot-analysis", "the sandbox's own boot"),
        Example("virt-boot-analysis --html boot.html -n 5", "as a page"),
        Example("virt-boot-analysis --kernel /boot/vmlinuz --initrd /boot/initrd.img", "any kernel"),
        Example("virt-boot-analysis --log console.log", "a log that was captured elsewhere"),
        Example("virt-boot-analysis --diff before.json --diff after.json", "what got slower"),
    ),
    see_also=("virt-boot-benchmark", "virt-sandbox"),
)

main = COMMAND.main
