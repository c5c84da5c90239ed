"""Which kernel a sandbox boots: those installed on the host, and which modules of theirs the guest needs.

Entry point: `choose`. A kernel is known by its image and its module folder; nothing is derived from version
numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from virtscope.errors import GuestNotFound

# What each feature of a sandbox needs from the kernel. A module that is built in has no file and is left out.
FEATURES: dict[str, tuple[str, ...]] = {
    "mmio": ("virtio_mmio",),
    "pci": ("virtio_pci",),
    "console": ("virtio_console",),
    "9p": ("9pnet_virtio", "9p"),
    "virtiofs": ("virtiofs",),
    "overlay": ("overlay",),
    "disk": ("virtio_blk",),
    # crc32c comes first: the filesystems ask for it by a name that no dependency list has.
    "filesystems": (
        "crc32c_generic",
        "libcrc32c",
        "ext4",
        "xfs",
        "btrfs",
        "vfat",
        "nls_cp437",
        "nls_ascii",
        "isofs",
        "squashfs",
    ),
    "net": ("virtio_net",),
    "ipv6": ("ipv6",),
    "display": ("virtio-gpu", "virtio_input", "evdev"),
}
OPTIONAL = frozenset(FEATURES["filesystems"])


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel installed on the host.

    Args:
        release: the name of its module folder, as `uname -r` prints it.
        image: the file that boots (bzImage or ELF).
        modules: its module folder, or None where it has none.
    """

    release: str
    image: Path
    modules: Path | None

    def identity(self) -> str:
        """Changes when the kernel or its modules are replaced."""
        from virtscope.sandbox.cache import file_identity

        dep = self.modules / "modules.dep" if self.modules else None
        return file_identity(self.image) + (file_identity(dep) if dep and dep.exists() else "")

    def provides(self, feature: str) -> bool:
        """Whether every module of a feature is there, as a file or built in."""
        index = _module_index(self)
        return all(_plain(name) in index for name in FEATURES[feature] if name not in OPTIONAL)


def installed() -> list[Kernel]:
    """Returns the kernels of this host that can be read, newest image first."""
    found: dict[str, Kernel] = {}
    for folder in ("/usr/lib/modules", "/lib/modules"):
        for image in Path(folder).glob("*/vmlinuz") if os.path.isdir(folder) else ():
            found.setdefault(image.parent.name, Kernel(image.parent.name, image, image.parent))
    for image in Path("/boot").glob("vmlinuz-*"):
        release = image.name.removeprefix("vmlinuz-")
        folders = [Path(base, release) for base in ("/usr/lib/modules", "/lib/modules")]
        modules = next((folder for folder in folders if folder.is_dir()), None)
        found.setdefault(release, Kernel(release, image, modules))
    readable = [kernel for kernel in found.values() if os.access(kernel.image, os.R_OK)]
    return sorted(readable, key=lambda kernel: kernel.image.stat().st_mtime, reverse=True)


def choose(image: str | None = None, *, transports: Iterable[str] = ("9p", "virtiofs")) -> Kernel:
    """Returns the kernel to boot: the one asked for, or the first that can mount the host's root.

    Args:
        image: a kernel image or a release name; None to choose among those installed.
        transports: ways to carry the host's root, the preferred first.

    Raises:
        GuestNotFound: no usable kernel; the message says what was looked at.
    """
    kernels = installed()
    if image is not None:
        for kernel in kernels:
            if image == kernel.release or os.path.realpath(image) == os.path.realpath(kernel.image):
                return kernel
        path = Path(image)
        if not path.is_file():
            raise GuestNotFound(f"{image}: no such kernel image, and no installed kernel of that name")
        release = path.name.removeprefix("vmlinuz-").removeprefix("vmlinux-")
        folder = next(
            (f for f in (Path("/lib/modules", release), path.parent) if (f / "modules.dep").exists()), None
        )
        return Kernel(release, path, folder)
    for transport in transports:
        for kernel in kernels:
            if kernel.provides("console") and kernel.provides(transport):
                return kernel
    if kernels:
        names = ", ".join(kernel.release for kernel in kernels)
        raise GuestNotFound(
            f"no installed kernel can mount the host's root by 9p or virtiofs; looked at {names}"
        )
    unreadable = [str(path) for path in Path("/boot").glob("vmlinuz-*")]
    if unreadable:
        raise GuestNotFound(
            f"{unreadable[0]} cannot be read by this user; make it readable or name one with --kernel"
        )
    raise GuestNotFound(
        "no kernel is installed in /boot or /usr/lib/modules; install one or name it with --kernel"
    )


def module_files(kernel: Kernel, features: Iterable[str]) -> list[Path]:
    """Returns the module files for these features in the order they must be loaded."""
    index = _module_index(kernel)
    order: list[Path] = []
    seen: set[str] = set()
    wanted = [name for feature in features for name in FEATURES[feature]]

    def add(name: str) -> None:
        # iterative, because modules.dep already lists dependencies transitively, nearest first
        path, needs = index.get(name, (None, ()))
        if path is None or name in seen:
            return
        for need in reversed(needs):
            if need not in seen and (file := index[need][0]) is not None:
                seen.add(need)
                order.append(file)
        seen.add(name)
        order.append(path)

    for name in wanted:
        add(_plain(name))
    return order


_INDEX: dict[str, dict[str, tuple[Path | None, tuple[str, ...]]]] = {}


def _plain(name: str) -> str:
    """Module names treat '-' and '_' alike."""
    return name.split("/")[-1].split(".ko")[0].replace("-", "_")


def _module_index(kernel: Kernel) -> dict[str, tuple[Path | None, tuple[str, ...]]]:
    """Module name to its file (None when built in) and the names it depends on."""
    if kernel.modules is None:
        return {}
    known = _INDEX.get(str(kernel.modules))
    if known is not None:
        return known
    index: dict[str, tuple[Path | None, tuple[str, ...]]] = {}
    with open(kernel.modules / "modules.builtin", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            index[_plain(line.strip())] = (None, ())
    with open(kernel.modules / "modules.dep", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            file, _, needs = line.partition(":")
            index[_plain(file)] = (kernel.modules / file, tuple(_plain(need) for need in needs.split()))
    _INDEX[str(kernel.modules)] = index
    return index
