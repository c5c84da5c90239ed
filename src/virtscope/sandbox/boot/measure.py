"""Starts things and notes when what happened: sandboxes, any kernel or disk on a serial console, captured
logs.

Structured events come first: the time QEMU's monitor answers, the marks of the guest's init, the kernel's own
time stamps, which are brought onto the host's clock by the moment at which a mark arrived. Only firmware is
told by patterns. Entry points: `sandbox_passes`, `console_passes`.
"""

from __future__ import annotations

import os
import re
import select
import socket
import time
from collections.abc import Iterator, Sequence

from virtscope.errors import SandboxError, SandboxTimeout
from virtscope.sandbox import Sandbox, initramfs, kernels, plan, process, qemu
from virtscope.sandbox.boot import console
from virtscope.sandbox.boot.activity import Span
from virtscope.sandbox.session import Session, printable
from virtscope.sandbox.snapshot import Monitor

FIRMWARE = re.compile(r"SeaBIOS|qboot|UEFI|BdsDxe|iPXE|GRUB|ISOLINUX|EFI stub", re.IGNORECASE)
LOG_OPTIONS = "initcall_debug log_buf_len=8M"


def sandbox_passes(
    sandbox: Sandbox, argv: Sequence[str], count: int, *, detail: bool = True
) -> Iterator[Span]:
    """Start a sandbox `count` times, run a command in each, and yield what took how long.

    Args:
        sandbox: what to start; a machine of the qemu: back end is booted, never resumed, unless it asks for
            that.
        argv: the command.
        count: how many starts.
        detail: have the kernel say what it spends time on, which costs some itself.
    """
    for _ in range(count):
        if sandbox.definition.backend == "qemu:" and not sandbox.definition.snapshot:
            yield _machine_pass(sandbox, argv, detail=detail)
        else:
            yield _plain_pass(sandbox, argv)


def _plain_pass(sandbox: Sandbox, argv: Sequence[str]) -> Span:
    """A start seen from outside only."""
    began = time.monotonic()
    with sandbox.start() as session:
        started = time.monotonic()
        session.run(argv, timeout=120)
        ran = time.monotonic()
    ended = time.monotonic()
    at = [moment - began for moment in (began, started, ran, ended)]
    children = (Span("start", at[0], at[1]), Span("command", at[1], at[2]), Span("shutdown", at[2], at[3]))
    return Span("sandbox", 0.0, at[3], children)


def _machine_pass(sandbox: Sandbox, argv: Sequence[str], *, detail: bool) -> Span:
    definition = sandbox.definition
    if detail:
        sandbox = sandbox.with_options(append=f"{definition.append} {LOG_OPTIONS}".strip())
        definition = sandbox.definition
    moments: dict[str, float] = {}

    def note(name: str) -> None:
        moments[name] = time.monotonic()

    note("begin")
    kernel = kernels.choose(definition.kernel, transports=qemu._transports(definition))
    form = qemu.shape(definition, kernel)
    note("features")
    boot = initramfs.prepare(kernel, form.features)
    note("prepared")
    ours, theirs = socket.socketpair()
    with ours:
        session = _start_and_listen(sandbox, form, boot, ours, theirs, note)
        with session:
            session.setup(plan.operations(definition, qemu.base(definition)), time.monotonic() + 60)
            note("set up")
            sandbox.prepare(session)
            session.run(argv, timeout=120)
            note("ran")
            log = _kernel_log(session) if detail else []
            note("closing")
        note("end")
    return _assemble(moments, session.marks, log)


def _start_and_listen(
    sandbox: Sandbox,
    form: qemu.Shape,
    boot: initramfs.BootFiles,
    ours: socket.socket,
    theirs: socket.socket,
    note: object,
) -> Session:
    """Boot with a monitor attached, noting when QEMU is up."""
    import threading

    assert callable(note)

    def listen() -> None:
        # QEMU answers its monitor when it has built the machine and enters its main loop.
        try:
            Monitor(ours)
            note("qemu")
        except SandboxError:
            pass

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    session = qemu.boot_machine(sandbox.definition, form, boot, monitor=theirs)
    theirs.close()
    note("ready")
    listener.join(1)
    return session


def _kernel_log(session: Session) -> list[console.Message]:
    from virtscope.sandbox.definition import Identity

    root = Identity(0, 0, (), "root", "/")
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    result = session.run(["dmesg", "-r"], identity=root, env=environment, cwd="/", timeout=60)
    return console.messages(result.stdout.decode("utf-8", "replace").splitlines())


def _assemble(
    moments: dict[str, float], marks: Sequence[tuple[str, float, float]], log: Sequence[console.Message]
) -> Span:
    began = moments["begin"]
    at = {name: moment - began for name, moment in moments.items()}
    guest = {name: when for name, when, _ in marks}
    # The last mark before the hello is sent at the moment it is made; what came before waited for the
    # channel.
    arrived = next(host for name, _, host in marks if name == "channel") - began
    offset = arrived - guest["channel"]
    init, channel = guest["init"] + offset, guest["channel"] + offset
    qemu_up = min(at.get("qemu", at["prepared"]), init)
    kernel_start = max(qemu_up, offset + (log[0].when if log else 0.0))
    kernel = Span("kernel", kernel_start, init, console.kernel_spans(log, guest["init"], offset))
    modules = []
    last = init
    for name, when, _ in marks:
        if name.startswith("module "):
            short = re.sub(r"^module \d+-|\.ko$", "", name)
            modules.append(Span(f"module {short}", last, when + offset))
            last = when + offset
    setup_children = []
    if "root" in guest and "setup" in guest:
        root, done = guest["root"] + offset, guest["setup"] + offset
        setup_children = [Span("host root", at["ready"], root), Span("mounts and files", root, done)]
    closing = at["end"] - at["closing"]
    end = at["ran"] + closing
    return Span(
        "sandbox",
        0.0,
        end,
        (
            Span("feature detection", 0.0, at["features"]),
            Span("preparation", at["features"], at["prepared"]),
            Span("QEMU", at["prepared"], qemu_up),
            *([Span("firmware and loading", qemu_up, kernel_start)] if kernel_start > qemu_up else []),
            kernel,
            Span("init", init, channel, tuple(modules)),
            Span("set up", at["ready"], at["set up"], tuple(setup_children)),
            Span("command", at["set up"], at["ran"]),
            Span("shutdown", at["ran"], end),
        ),
    )


def console_passes(
    arguments: Sequence[str], until: str, count: int, timeout: float = 120.0
) -> Iterator[Span]:
    """Boot QEMU with these arguments `count` times, listening to its serial console.

    Args:
        arguments: QEMU's, without a serial port.
        until: a pattern of the line that ends the boot.
        count: how many boots.
        timeout: seconds for each.
    """
    for _ in range(count):
        yield _console_pass(arguments, until, timeout)


def _console_pass(arguments: Sequence[str], until: str, timeout: float) -> Span:
    ours, theirs = socket.socketpair()
    began = time.monotonic()
    serial = ["-chardev", f"socket,id=console,fd={theirs.fileno()}", "-serial", "chardev:console"]
    try:
        machine = process.HostProcess("QEMU", [qemu.binary(), *arguments, *serial], keep=[theirs.fileno()])
    finally:
        theirs.close()
    lines: list[tuple[float, str]] = []
    try:
        pattern = re.compile(until)
        for when, line in _lines(ours, began + timeout):
            lines.append((when - began, line))
            if pattern.search(line) or len(lines) >= console.MOST_LINES:
                break
        if not lines:
            raise SandboxError(
                machine.poll() or "nothing arrived on the serial console (console=ttyS0 missing?)"
            )
    finally:
        machine.kill()
        ours.close()
    return console_span(lines)


def _lines(channel: socket.socket, deadline: float) -> Iterator[tuple[float, str]]:
    """Lines with the time at which their first byte came; a prompt without an end is a line after a pause."""
    buffer = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise SandboxTimeout("the boot did not end in the time allowed (--until, --timeout)")
        ready, _, _ = select.select([channel], [], [], min(left, 0.2))
        now = time.monotonic()
        data = channel.recv(65536) if ready else b""
        if ready and not data:
            return
        if not ready and buffer:
            yield now, printable(buffer)
            buffer = b""
        buffer += data
        *whole, buffer = buffer.split(b"\n")
        for line in whole:
            yield now, printable(line)
        buffer = buffer[-console.LONGEST_LINE :]


def console_span(lines: Sequence[tuple[float, str]]) -> Span:
    """A boot from its console: (seconds since QEMU was started, line)."""
    end = lines[-1][0]
    stamped = [(when, message) for when, line in lines for message in console.messages([line])]
    first = lines[0][0]
    if not stamped:
        return Span("boot", 0.0, end, (Span("QEMU", 0.0, first), Span("console", first, end)))
    # the kernel's clock against ours: a line can only arrive late, so the earliest arrival is the truest
    offset = min(when - message.when for when, message in stamped)
    log = [message for _, message in stamped]
    start = max(first, log[0].when + offset)
    handover = next((m.when for m in log if re.match(r"Run \S+ as init process", m.text)), log[-1].when)
    children = [Span("QEMU", 0.0, min(first, start))]
    if any(FIRMWARE.search(line) for when, line in lines if when <= start) and start > first:
        children.append(Span("firmware", first, start))
    finish = min(handover + offset, end)
    children.append(Span("kernel", start, finish, console.kernel_spans(log, handover, offset)))
    if end > finish:
        children.append(Span("user space", finish, end))
    return Span("boot", 0.0, end, tuple(children))


def warm(paths: Sequence[str | os.PathLike[str]]) -> None:
    """Read files once, so that the first start is like the others."""
    for path in paths:
        with open(path, "rb") as stream:
            while stream.read(1 << 20):
                pass
