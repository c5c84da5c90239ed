"""From a definition to the setup operations of the guest's init: what is mounted where, in which order.

The back ends differ in how the host's root arrives (`Base`); everything after that is the same for all of
them. Entry point: `operations`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from virtscope.errors import UsageError
from virtscope.sandbox import overlay, wire
from virtscope.sandbox.definition import Definition, Mount, Network

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
CONFIG = "/run/virtscope"
LENT = "/run/virtscope-lent"


@dataclass(frozen=True, slots=True)
class Base:
    """How a back end's guest finds the host's root.

    Args:
        machine: it has a kernel of its own.
        transport: "9p" or "virtiofs" to mount the export called `tag`; "bind" when the host's root is there
            already.
        tag: the export's name.
        user_namespace: mounts are made without real privilege.
        msize: the largest 9p message.
        modules: files of kernel modules to load first, seen in the host's root.
        disks: serial numbers, in order, of disks that the guest's kernel does not find by them.
    """

    machine: bool
    transport: str
    tag: str = "root"
    user_namespace: bool = False
    msize: int = 512000
    modules: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()


def exports(definition: Definition) -> list[Mount]:
    """The host folders and files that need an export of their own: those that can be written to."""
    return [mount for mount in definition.mounts if mount.kind == "host-bind" and mount.writable]


def exported(definition: Definition) -> list[tuple[str, str, bool]]:
    """All exports of a machine: tag, path as the exporter sees it, read-only.

    Raises:
        UsageError: a single file cannot be shared for writing here.
    """
    shares = [("root", "/", True)]
    for number, mount in enumerate(exports(definition)):
        path = os.path.realpath(mount.source)
        if not os.path.isdir(path):
            path = lent(definition, mount).rpartition("/")[0]
        shares.append((f"bind{number}", path, False))
    return shares


def lent(definition: Definition, mount: Mount) -> str:
    """Where an exporter finds a single file: alone in a folder, so that nothing beside it can be reached.

    Raises:
        UsageError: the exporter is not one of our own, which is confined.
    """
    if (
        definition.backend not in ("qemu:", "uml:")
        or not definition.confine
        or "/run" not in _private(definition)
    ):
        raise UsageError(f"{mount.source}: this machine can share a folder for writing, not a single file")
    return f"{LENT}/{exports(definition).index(mount)}/file"


def needs_overlay(definition: Definition) -> bool:
    """Whether the root needs a writable layer: asked for, or something goes to a place the host does not
    have.
    """
    if definition.overlay or definition.overlay_directory:
        return True
    places = [mount.target for mount in definition.mounts] + [file.target for file in definition.includes]
    return any(not _hidden(definition, place) and not os.path.lexists(place) for place in places)


def check(definition: Definition) -> None:
    """Refuse what cannot work before anything is started.

    Raises:
        UsageError: a source that is not there, or of the wrong kind.
    """
    for mount in definition.mounts:
        if mount.kind != "ram" and not os.path.exists(mount.source):
            raise UsageError(
                f"{mount.source}: no such file or folder on the host (to be mounted on {mount.target})"
            )
    for file in definition.includes:
        if not os.path.isfile(file.source):
            raise UsageError(f"{file.source}: not a file on the host (to be included as {file.target})")
    if definition.network != Network() or definition.limits.net_rate:
        from virtscope.sandbox import network

        network.check(definition)
    for disk in definition.disks:
        if not os.path.exists(disk.path):
            raise UsageError(f"{disk.path}: no such disk image")
    for text, folder, what in (
        (definition.limits.pin_cpus, "cpu", "processor"),
        (definition.limits.numa_nodes, "node", "memory node"),
    ):
        if text and (missing := numbers(text) - _online(folder)):
            raise UsageError(f"{text}: this host has no {what} {min(missing)}")


def numbers(text: str) -> set[int]:
    """The numbers of a list like "0-1,3".

    Raises:
        UsageError: it is none.
    """
    found: set[int] = set()
    for piece in text.split(","):
        first, dash, last = piece.partition("-")
        if not (text.isascii() and first.isdecimal() and (last.isdecimal() or not dash)) or len(piece) > 9:
            raise UsageError(f"{text}: not a list of numbers (like 0-1,3)")
        begin, end = int(first), int(last or first)
        if not begin <= end < 4096:
            raise UsageError(f"{text}: not a list of numbers (like 0-1,3)")
        found.update(range(begin, end + 1))
    return found


def _online(folder: str) -> set[int]:
    """The processors or memory nodes of the host that are in use; a kernel without NUMA has one node."""
    try:
        with open(f"/sys/devices/system/{folder}/online", encoding="ascii") as stream:
            return numbers(stream.read().strip())
    except OSError:
        return {0}


def _hidden(definition: Definition, path: str) -> bool:
    return any(path == place or path.startswith(place + "/") for place in _private(definition))


def _private(definition: Definition) -> list[str]:
    home = definition.who().home
    places = [place for place in definition.private if os.path.isdir(place) and not os.path.islink(place)]
    if home != "/" and os.path.isdir(home) and not any(home == p or home.startswith(p + "/") for p in places):
        places.append(home)
    return places


def visible(definition: Definition, path: str) -> bool:
    """Whether a folder of the host is seen at the same place inside."""
    inside = os.path.realpath(path)
    if any(inside == m.target or inside.startswith(m.target.rstrip("/") + "/") for m in definition.mounts):
        return True
    return os.path.isdir(inside) and not _hidden(definition, inside)


def operations(definition: Definition, base: Base) -> list[wire.Record]:
    """Returns the setup operations, in order, for the guest's init."""
    return list(_operations(definition, base))


def _operations(definition: Definition, base: Base) -> Iterator[wire.Record]:
    who = definition.who()
    grabs: list[tuple[int, Mount]] = []
    opened: list[tuple[int, str, str, int]] = []
    root = "/newroot" if base.transport != "bind" else "/tmp/root"

    if base.machine:
        now = _now()
        yield ("?clock", now // 10**9, now % 10**9)
        yield ("?seed", os.urandom(64))
        for module in base.modules:
            yield ("module", module, "")
    if base.transport == "bind":
        if not base.machine:
            yield ("private", "/")
        # before anything is covered
        yield from _sources(definition, base, "", grabs, opened)
        if not base.machine:
            yield from overlay.sources(definition)
        yield ("mount", "stage", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        yield ("mkdir", root, 0o755)
        yield ("bind", "/", root)
        if base.machine:
            yield ("remount", root, MS_RDONLY)
        else:
            yield ("read-only", root)
        over = "/tmp/over"
    else:
        if base.transport == "virtiofs":
            yield ("mount", base.tag, root, "virtiofs", MS_RDONLY, "")
        else:
            yield ("mount", base.tag, root, "9p", MS_RDONLY, _nine_options(base, read_only=True))
        over = "/over"
    lower = root
    if needs_overlay(definition):
        kept = bool(definition.overlay_directory) and base.machine
        root = yield from overlay.operations(
            definition,
            root,
            over,
            disk=_find_disk(base, "overlay") if kept else None,
            machine=base.machine,
            unprivileged=base.user_namespace,
        )
    if base.transport != "bind":
        yield from _sources(definition, base, lower, grabs, opened)
    yield ("mark", "root")
    yield ("root", root)
    yield from _kernel_filesystems(base)
    for place in _private(definition):
        mode = {"/tmp": "1777", "/var/tmp": "1777"}.get(place, "755")
        owner = f",uid={who.uid},gid={who.gid}" if place == who.home else ""
        yield ("mount", "private", place, "tmpfs", MS_NOSUID | MS_NODEV, f"mode={mode}{owner}")
    if who.home != "/" and _hidden(definition, who.home):
        yield ("mkdir", who.home, 0o700, who.uid, who.gid)
    if _hidden(definition, "/run/x"):
        yield ("?mkdir", "/run/lock", 0o1777)
        if who.uid:
            yield ("mkdir", "/run/user", 0o755)
        yield ("?mkdir", f"/run/user/{who.uid}", 0o700, who.uid, who.gid)
        yield ("?mkdir", "/run/virtscope", 0o755)
    for slot, mount in grabs:
        yield from _target(mount)
        yield ("place", slot, mount.target)
        if not mount.writable:
            yield ("read-only", mount.target)
    for mount in definition.mounts:
        yield from _mount(definition, base, mount)
    for slot, _, target, permissions in opened:
        yield ("mkdir", os.path.dirname(target), 0o755)
        yield ("copy", slot, target, permissions, who.uid, who.gid)
    yield ("?hostname", definition.hostname)
    if definition.limits.pids and base.machine:
        # root is held by the machine's own limit only; its kernel has some threads too
        yield ("write", "/proc/sys/kernel/threads-max", definition.limits.pids + 64)
    yield from _network(definition)
    if definition.overlay_directory and base.machine:
        yield ("hold", "/")
    yield ("mark", "setup")


def _sources(
    definition: Definition,
    base: Base,
    lower: str,
    grabs: list[tuple[int, Mount]],
    opened: list[tuple[int, str, str, int]],
) -> Iterator[wire.Record]:
    """Take hold of what is to be mounted or copied, while it can be reached."""
    number = 0
    for mount in definition.mounts:
        if mount.kind == "host-bind" and (not mount.writable or not base.machine):
            yield ("grab", number, lower + os.path.realpath(mount.source))
            grabs.append((number, mount))
            number += 1
    for file in definition.includes:
        source = os.path.realpath(file.source)
        yield ("open", number, lower + source)
        opened.append((number, source, file.target, stat.S_IMODE(os.stat(source).st_mode)))
        number += 1
    if number > 50:
        raise UsageError("more than 50 mounts and included files together")
    if not base.machine:
        for at, device in enumerate(DEVICES):
            yield ("grab", 50 + at, f"/dev/{device}")


def _kernel_filesystems(base: Base) -> Iterator[wire.Record]:
    yield ("mount", "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "")
    if base.machine:
        yield ("mount", "sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "")
        yield ("?mount", "dev", "/dev", "devtmpfs", MS_NOSUID, "mode=755")
    else:
        yield ("mount", "dev", "/dev", "tmpfs", MS_NOSUID, "mode=755")
        for at, device in enumerate(DEVICES):
            yield ("file", f"/dev/{device}", 0o666, 0, 0, b"")
            yield ("place", 50 + at, f"/dev/{device}")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        yield ("?symlink", f"/proc/self/fd{target}", f"/dev/{name}")
    yield ("mkdir", "/dev/pts", 0o755)
    yield (
        "mount",
        "devpts",
        "/dev/pts",
        "devpts",
        MS_NOSUID | MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=620",
    )
    if not base.machine:
        yield ("symlink", "pts/ptmx", "/dev/ptmx")
    yield ("mkdir", "/dev/shm", 0o1777)
    yield ("mount", "shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    yield ("?up", "lo")


def _target(mount: Mount) -> Iterator[wire.Record]:
    if os.path.isdir(mount.source) or mount.kind != "host-bind":
        yield ("mkdir", mount.target, 0o755)
    elif not os.path.exists(mount.target) or mount.target.startswith(
        ("/tmp", "/home", "/run", "/root", "/var/tmp")
    ):
        yield ("mkdir", os.path.dirname(mount.target), 0o755)
        yield ("file", mount.target, 0o644, 0, 0, b"")


def _mount(definition: Definition, base: Base, mount: Mount) -> Iterator[wire.Record]:
    if mount.kind == "ram":
        who = definition.who()
        size = f"size={mount.size}," if mount.size else ""
        yield from _target(mount)
        options = f"{size}mode=755,uid={who.uid},gid={who.gid}"
        yield ("mount", "ram", mount.target, "tmpfs", MS_NOSUID | MS_NODEV, options)
    elif mount.kind == "host-image":
        yield from _target(mount)
        flags = MS_NOSUID | MS_NODEV | (0 if mount.writable else MS_RDONLY)
        serial = image_serial(definition, mount)
        yield _find_disk(base, serial)
        yield ("mount-any", f"/dev/{serial}", mount.target, flags, "ext4,xfs,btrfs,vfat,iso9660,squashfs")
        if mount.writable:
            yield ("hold", mount.target)
    elif mount.writable and base.machine:
        yield from _target(mount)
        number = exports(definition).index(mount)
        _, path, _ = exported(definition)[1 + number]
        kind, options = base.transport, ""
        if kind == "bind":
            kind, options = "hostfs", path
        elif kind == "9p":
            options = _nine_options(base, read_only=False)
        if os.path.isdir(mount.source):
            yield ("mount", f"bind{number}", mount.target, kind, MS_NOSUID | MS_NODEV, options)
        else:
            yield ("mkdir", path, 0o700)
            yield ("mount", f"bind{number}", path, kind, MS_NOSUID | MS_NODEV, options)
            yield ("bind", lent(definition, mount), mount.target)
            yield ("unmount", path)


def _find_disk(base: Base, serial: str) -> wire.Record:
    if serial in base.disks:
        return ("symlink", f"/dev/ubd{chr(ord('a') + base.disks.index(serial))}", f"/dev/{serial}")
    return ("disk", serial, f"/dev/{serial}")


def image_serial(definition: Definition, mount: Mount) -> str:
    """The serial number under which the guest finds the image of a host-image mount."""
    images = [m for m in definition.mounts if m.kind == "host-image"]
    return f"image{images.index(mount)}"


def _nine_options(base: Base, *, read_only: bool) -> str:
    # The root cannot change through this guest, so what was read once may be kept; a shared folder may be
    # written by both sides, so nothing is.
    cache = "loose" if read_only else "mmap"
    return f"trans=virtio,version=9p2000.L,msize={base.msize},cache={cache},access=any"


def _network(definition: Definition) -> Iterator[wire.Record]:
    network = definition.network
    if network.kind in ("none", "host"):
        return
    from virtscope.sandbox import network as networks

    yield from networks.operations(definition)


def _now() -> int:
    import time

    return time.time_ns()
