"""Machines that start from a snapshot: booted once, saved where init waits to be told what to do, resumed in
place of a boot.

The guest's memory is a file in the cache. The machine that is saved maps it shared, so that saving writes
only the state of its devices (QEMU's `x-ignore-shared` migration capability); every machine resumed maps it
privately, so that it reads pages as it touches them and never changes the file. A resumed guest gets the time
of day and fresh entropy with its first setup operations, before anything runs in it. Entry points: `resume`,
`create`.
"""

from __future__ import annotations

import array
import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from virtscope.errors import SandboxError
from virtscope.sandbox import accelerator, cache, compiler, initramfs, process, qemu
from virtscope.sandbox.definition import Definition
from virtscope.sandbox.session import Session

PATIENCE = 30.0
KEPT = 6


def resume(
    definition: Definition,
    form: qemu.Shape,
    boot: initramfs.BootFiles,
    launch: Sequence[str] = (),
    taps: Sequence[int] = (),
) -> Session | None:
    """Returns a session with a machine resumed from the snapshot of its shape, made now if there is none.

    None when this host's QEMU cannot save or resume such a machine; a normal boot works then.
    """
    name = f"snapshot-{_key(definition, form, boot)}"
    folder = cache.cache_directory()
    memory, state, failed = folder / f"{name}.ram", folder / f"{name}.state", folder / f"{name}.none"
    if failed.exists():
        return None
    if not state.exists():
        with cache.locked(name):
            if not state.exists() and not _create(definition, form, boot, memory, state, taps):
                failed.write_bytes(b"")
                return None
    try:
        os.utime(state)
        return _start(definition, form, boot, memory, state, launch, taps)
    except (SandboxError, FileNotFoundError):
        # Not worth a failure: boot instead, and let the next start make a new one.
        state.unlink(missing_ok=True)
        return None


def _key(definition: Definition, form: qemu.Shape, boot: initramfs.BootFiles) -> str:
    program = qemu.binary()
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as stream:
        flags = next((line for line in stream if line.startswith("flags")), "")
    line = "\0".join(qemu.command_line(definition, form, boot))
    return cache.fingerprint(cache.file_identity(program), line, flags, str(accelerator.tsc_khz()))


def _create(
    definition: Definition,
    form: qemu.Shape,
    boot: initramfs.BootFiles,
    memory: Path,
    state: Path,
    taps: Sequence[int],
) -> bool:
    """Boot a machine and save it; whether that worked."""
    temporary = memory.with_name(f".{memory.name}.{os.getpid()}")
    saved = state.with_name(f".{state.name}.{os.getpid()}")
    ours, theirs = socket.socketpair()
    session: Session | None = None
    try:
        with open(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as stream:
            stream.truncate(form.memory)
            session = qemu.boot_machine(
                definition, form, boot, monitor=theirs, memory=stream.fileno(), taps=taps
            )
        theirs.close()
        monitor = Monitor(ours)
        monitor.capability("x-ignore-shared")
        with open(saved, "wb") as stream:
            monitor.command("getfd", {"fdname": "state"}, fd=stream.fileno())
            monitor.command("migrate", {"uri": "fd:state"})
            deadline = time.monotonic() + PATIENCE
            while (status := monitor.command("query-migrate").get("status")) != "completed":
                if status in ("failed", "cancelled") or time.monotonic() > deadline:
                    return False
                time.sleep(0.005)
        session.abandon()
        temporary.rename(memory)
        saved.rename(state)
        _prune(state.parent)
        return True
    except SandboxError:
        return False
    finally:
        if session is not None:
            session.abandon()
        ours.close()
        theirs.close()
        temporary.unlink(missing_ok=True)
        saved.unlink(missing_ok=True)


def _prune(folder: Path) -> None:
    """Forget all but the snapshots used last: each holds what a booted machine keeps in memory."""
    states = sorted(folder.glob("snapshot-*.state"), key=lambda path: path.stat().st_mtime, reverse=True)
    for state in states[KEPT:]:
        state.unlink(missing_ok=True)
    for memory in folder.glob("snapshot-*.ram"):
        if not memory.with_suffix(".state").exists():
            memory.unlink(missing_ok=True)


def _start(
    definition: Definition,
    form: qemu.Shape,
    boot: initramfs.BootFiles,
    memory: Path,
    state: Path,
    launch: Sequence[str],
    taps: Sequence[int],
) -> Session:
    ours, theirs = socket.socketpair()
    control, monitor_end = socket.socketpair()
    library = compiler.shared_library("private_memory.c")
    files = (boot.kernel, boot.initramfs, state, memory, library)
    descriptors = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in files]
    kernel, archive, saved, ram, shim = descriptors
    environment = os.environ | {
        "LD_PRELOAD": f"/proc/self/fd/{shim}",
        "VIRTSCOPE_MEMORY": f"/proc/self/fd/{ram}",
    }
    try:
        argv = qemu.command_line(
            definition,
            form,
            boot,
            channel=theirs.fileno(),
            kernel=f"/proc/self/fd/{kernel}",
            archive=f"/proc/self/fd/{archive}",
            monitor=monitor_end.fileno(),
            memory_file=f"/proc/self/fd/{ram}",
            tap=taps[0] if taps else 4,
        )
        argv += ["-incoming", "defer"]
        keep = [theirs.fileno(), monitor_end.fileno(), *descriptors, *taps]
        options = [*launch, *qemu.confinement(definition), *qemu.lent(zip(descriptors, files, strict=True))]
        machine = process.Group(
            process.HostProcess("QEMU", argv, keep=keep, launch=options, environment=environment)
        )
        theirs.close()
        monitor_end.close()
        try:
            monitor = Monitor(control)
            monitor.capability("x-ignore-shared")
            monitor.command("migrate-incoming", {"uri": f"fd:{saved}"})
        except SandboxError:
            machine.kill()
            raise
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        monitor_end.close()
        for fd in descriptors:
            os.close(fd)
    session = Session(ours, machine)
    session.resumed()
    session.on_close.append(control.close)
    return session


class Monitor:
    """As much of QEMU's machine protocol as saving and resuming needs, on a socket that is connected."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        connection.settimeout(PATIENCE)
        self._read()
        self.command("qmp_capabilities")

    def _read(self) -> dict[str, object]:
        try:
            line = self._lines.readline(1 << 20)
        except OSError:
            line = b""
        if not line:
            raise SandboxError("QEMU closed its monitor")
        answer = json.loads(line)
        return answer if isinstance(answer, dict) else {}

    def command(
        self, name: str, arguments: dict[str, object] | None = None, *, fd: int | None = None
    ) -> dict[str, object]:
        """Send a command, with a file descriptor beside it if given, and return what it returns.

        Raises:
            SandboxError: QEMU refused, or has gone.
        """
        message: dict[str, object] = {"execute": name}
        if arguments:
            message["arguments"] = arguments
        data = json.dumps(message).encode()
        beside = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            self._connection.sendmsg([data], beside)
        except OSError:
            raise SandboxError("QEMU closed its monitor") from None
        while True:
            answer = self._read()
            if "error" in answer:
                error = answer["error"]
                text = error.get("desc") if isinstance(error, dict) else error
                raise SandboxError(f"QEMU refused {name}: {text}")
            if "return" in answer:
                value = answer["return"]
                return value if isinstance(value, dict) else {}

    def capability(self, name: str) -> None:
        """Switch a migration capability on."""
        capabilities = [{"capability": name, "state": True}]
        self.command("migrate-set-capabilities", {"capabilities": capabilities})
