"""A machine whose disks are images to be repaired, with their filesystems mounted under /sysroot.

The host's own tools do the work, in the guest: its kernel mounts, its blkid and fstab say what goes where.
Nothing of an image is ever parsed or mounted by the host. Entry points: `machine`, `assemble`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from virtscope.errors import SandboxError
from virtscope.sandbox import Sandbox
from virtscope.sandbox.definition import Identity
from virtscope.sandbox.session import Session, printable

ROOT = Identity(0, 0, (), "root", "/root")
SYSROOT = "/sysroot"
MEMORY = 512 << 20
PATIENCE = 120.0

_SCRIPT = Path(__file__).with_name("rescue.sh")


def machine(images: Sequence[tuple[str, str | None]], *, writable: bool = False) -> Sandbox:
    """The sandbox with these disks, (path, format or None for raw) each."""
    from virtscope.sandbox import qemu

    sandbox = (
        Sandbox().with_user(ROOT).with_overlay().with_limits(memory=MEMORY).with_options(hostname="rescue")
    )
    for path, form in images:
        sandbox = sandbox.with_disk(path, format=form or qemu.image_format(path), read_only=not writable)
    return sandbox


def assemble(session: Session, *, run: bool = False, writable: bool = False) -> list[str]:
    """Find the filesystems in the guest and mount them; returns what was found, line by line.

    Args:
        session: of a `machine`.
        run: also what a command needs that is to run inside the image.
        writable: mount them so.

    Raises:
        SandboxError: it could not be done.
    """
    words = ["/bin/sh", "-c", _SCRIPT.read_text(), "sh", "run" if run else "shell", "0" if writable else "1"]
    result = session.run(words, identity=ROOT, cwd="/", timeout=PATIENCE)
    if result.status:
        raise SandboxError(f"the filesystems could not be mounted: {printable(result.stderr[-300:])}")
    return [printable(line) for line in result.stdout.splitlines()]


def release(session: Session) -> None:
    """Unmount what `assemble` mounted, so that everything is written back before the machine ends."""
    script = "sync; umount -R /sysroot 2>/dev/null || umount -Rl /sysroot; sync"
    session.run(["/bin/sh", "-c", script], identity=ROOT, cwd="/", timeout=PATIENCE)


def inside(argv: Sequence[str], cwd: str = "/") -> list[str]:
    """The command as it runs in the image's own tree."""
    return ["chroot", SYSROOT, "/bin/sh", "-c", 'cd "$0" && exec "$@"', cwd, *argv]
