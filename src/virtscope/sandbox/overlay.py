"""The writable layer over the host's root: in memory, on an image of its own, or in a folder of the host.

A machine sees the root as one filesystem and puts one layer over it. A container sees the host's mounts, and
an overlay does not look into the mounts below it: each gets a layer of its own. Entry points: `operations`,
`take`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator

from virtscope.errors import SandboxError
from virtscope.sandbox import wire
from virtscope.sandbox.definition import Definition, Identity

MS_NOSUID, MS_NODEV = 2, 4
SLOT = 60
LAYERS = "layers"
MOST_ENTRIES = 1000
LARGEST_COPY = 1 << 20
MOST_COPIED = 16 << 20
# Places that the sandbox gets anew, or that are no files.
ELSEWHERE = ("/proc", "/sys", "/dev", "/run", "/tmp")


def take(folder: str, owner: Identity) -> int:
    """Prepare the folder that keeps a container's layers; returns a descriptor that holds it for one sandbox.

    Nobody else may look into it: what is written there can have any mode that the sandbox chose.

    Raises:
        SandboxError: it cannot be made, or another sandbox has it.
    """
    import fcntl

    layers = os.path.join(folder, LAYERS)
    try:
        os.makedirs(folder, exist_ok=True)
        os.makedirs(layers, mode=0o700, exist_ok=True)
        held = os.open(layers, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise SandboxError(f"{error.filename}: {error.strerror}") from None
    try:
        os.fchmod(held, 0o700)
        if os.geteuid() == 0:
            os.fchown(held, owner.uid, owner.gid)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise SandboxError(f"{folder}: another sandbox keeps its changes there") from None
    except OSError as error:
        os.close(held)
        raise SandboxError(f"{layers}: {error.strerror}") from None
    return held


def sources(definition: Definition) -> Iterator[wire.Record]:
    """Take hold of a container's folder for the layers, while it can be reached."""
    if definition.overlay_directory:
        yield ("grab", SLOT, os.path.join(os.path.realpath(definition.overlay_directory), LAYERS))


def operations(
    definition: Definition,
    root: str,
    over: str,
    *,
    disk: wire.Record | None,
    machine: bool,
    unprivileged: bool,
) -> Generator[wire.Record, None, str]:
    """Yields the setup operations; returns where the writable root is.

    Args:
        definition: the sandbox.
        root: where the read-only root is.
        over: a place for the layers.
        disk: finds the image for the layers, as /dev/overlay.
        machine: it has a kernel of its own, and sees no mounts of the host's.
        unprivileged: mounts are made in a user namespace.
    """
    yield ("mkdir", over, 0o755)
    store = over
    if disk is not None:
        yield ("mount", "sysfs", "/sys", "sysfs", 0, "")
        yield disk
        yield ("mount", "/dev/overlay", over, "ext4", 0, "")
    else:
        yield ("mount", "overlay", over, "tmpfs", 0, "mode=755")
        if definition.overlay_directory:
            store = f"{over}/kept"
            yield ("mkdir", store, 0o700)
            yield ("place", SLOT, store)
    merged = f"{over}/merged"
    yield ("mkdir", merged, 0o755)
    if unprivileged:
        yield ("bind", merged, merged)
        yield from _folder("/", root, merged, store, host_mounts())
        return merged
    for name in ("upper", "work"):
        yield ("mkdir", f"{store}/{name}", 0o755)
    yield ("mount", "overlay", merged, "overlay", 0, _layers(root, store))
    for place in [] if machine else [place for place in host_mounts() if not _elsewhere(place)]:
        yield ("bind", root + place, merged + place)
        if os.path.isdir(place):
            yield from _layer(place, root, merged, store, "")
    return merged


def _folder(path: str, root: str, merged: str, store: str, mounts: list[str]) -> Iterator[wire.Record]:
    """Make one folder writable.

    Without real privilege a tree with other mounts in it cannot be the lower layer of an overlay. Such a
    folder is made anew, of its entries; the smaller files in it are copies, others stay read-only.
    """
    inside = path.rstrip("/") + "/"
    place = merged + path.rstrip("/")
    entries = _entries(path) if any(mount.startswith(inside) for mount in mounts) else None
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:  # gone since it was listed
        return
    if path != "/":
        yield ("mkdir", place, mode)
    if _elsewhere(path):
        yield ("bind", root + path, place)
    elif entries is None:
        if path in mounts or mode & 0o005 != 0o005 or not _can_be_said(path):
            # what shows if there can be no layer over it
            yield ("bind", root + path, place)
        yield from _layer(path, root, merged, store, ",userxattr")
    else:
        room = MOST_COPIED
        for entry in entries:
            if entry.is_symlink():
                yield ("symlink", os.readlink(entry.path), merged + entry.path)
            elif entry.is_dir():
                yield from _folder(entry.path, root, merged, store, mounts)
            else:
                size = _size_to_copy(entry) if entry.path not in mounts else None
                copied = size is not None and size <= min(room, LARGEST_COPY)
                room -= size if size is not None and copied else 0
                yield from _file(entry, root, merged, copied=copied)


def _size_to_copy(entry: os.DirEntry[str]) -> int | None:
    """The size of a file that everybody may read; None for any other."""
    try:
        known = entry.stat(follow_symlinks=False)
    except OSError:
        return None
    return known.st_size if stat.S_ISREG(known.st_mode) and known.st_mode & 0o004 else None


def _file(entry: os.DirEntry[str], root: str, merged: str, *, copied: bool) -> Iterator[wire.Record]:
    if copied:
        known = entry.stat(follow_symlinks=False)
        mode = stat.S_IMODE(known.st_mode) & 0o777
        yield ("open", SLOT + 1, root + entry.path)
        yield ("copy", SLOT + 1, merged + entry.path, mode, known.st_uid, known.st_gid)
    else:
        yield ("file", merged + entry.path, 0o644, 0, 0, b"")
        yield ("?bind", root + entry.path, merged + entry.path)


def _entries(path: str) -> list[os.DirEntry[str]] | None:
    """What is in a folder, if that is not too much to be mounted piece by piece."""
    try:
        with os.scandir(path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        return None
    return entries if len(entries) <= MOST_ENTRIES else None


def _elsewhere(path: str) -> bool:
    return any(path == place or path.startswith(place + "/") for place in ELSEWHERE)


def _can_be_said(path: str) -> bool:
    """Whether overlay's options can name this path."""
    return not set(path) & set(",:\\")


def _layer(path: str, root: str, merged: str, store: str, more: str) -> Iterator[wire.Record]:
    """A layer of its own for a folder; if the filesystem cannot carry one it stays as it is."""
    if not _can_be_said(path):
        return
    # Flat names: a folder of the host may get or lose a mount below it before the layers are used again.
    name = path.strip("/").replace("%", "%25").replace("/", "%2F")
    # What is seen of the folder itself is the upper one's.
    yield ("mkdir", f"{store}/uppers/{name}", stat.S_IMODE(os.stat(path).st_mode))
    yield ("mkdir", f"{store}/works/{name}", 0o755)
    options = f"lowerdir={root}{path},upperdir={store}/uppers/{name},workdir={store}/works/{name}{more}"
    yield ("?mount", "overlay", merged + path, "overlay", 0, options)


def _layers(root: str, store: str) -> str:
    return f"lowerdir={root},upperdir={store}/upper,workdir={store}/work"


def host_mounts() -> list[str]:
    """The host's other mounts, outermost first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split(" ")
            place = fields[4].encode().decode("unicode_escape") if "\\" in fields[4] else fields[4]
            if place != "/" and fields[fields.index("-") + 1] not in ("autofs", "cgroup", "cgroup2"):
                found.append(place)
    return found
