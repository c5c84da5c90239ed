"""Kernels of Debian's archive by short names: `kernel("6.1")`, `kernel("6.12-rt")`, `kernel("sid")`.

The table `NAMES` is the whole list. Besides it, `PACKAGE@SUITE` names any kernel package,
such as `linux-image-6.1.0-47-amd64@bookworm`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab.cache import LabError, LabUnavailable, made_once, program, root
from lab.debian import Suite
from lab.vmlinux import extract

NAMES: dict[str, tuple[str, str]] = {
    "5.10": ("bullseye", "linux-image-amd64"),
    "5.10-cloud": ("bullseye", "linux-image-cloud-amd64"),
    "6.1-bpo11": ("bullseye", "linux-image-6.1-amd64"),
    "6.1": ("bookworm", "linux-image-amd64"),
    "6.1-cloud": ("bookworm", "linux-image-cloud-amd64"),
    "6.1-rt": ("bookworm", "linux-image-rt-amd64"),
    "6.12-bpo12": ("bookworm-backports", "linux-image-amd64"),
    "6.12": ("trixie", "linux-image-amd64"),
    "6.12-cloud": ("trixie", "linux-image-cloud-amd64"),
    "6.12-rt": ("trixie", "linux-image-rt-amd64"),
    "7.x-bpo13": ("trixie-backports", "linux-image-amd64"),
    "7.x-next": ("trixie-backports", r"linux-binary-unsigned-[0-9.]+\+deb13-amd64"),
    "7.x": ("sid", "linux-image-amd64"),
    "7.x-cloud": ("sid", "linux-image-cloud-amd64"),
    "7.x-rt": ("sid", "linux-image-rt-amd64"),
}
"""Short name -> (suite, package). A package with a `[` is a pattern: the newest that matches."""

ALIASES = {
    "bullseye": "5.10",
    "bookworm": "6.1",
    "bookworm-backports": "6.12-bpo12",
    "trixie": "6.12",
    "trixie-backports": "7.x-bpo13",
    "sid": "7.x",
}

DEFAULT = ("6.1", "6.12")
"""The kernels of a default test run."""

MATRIX = ("5.10", "6.1", "6.1-cloud", "6.1-rt", "6.12", "7.x-bpo13", "7.x-next", "7.x")
"""The kernels of the full matrix."""

# Where packages keep them: Debian moved both over the years.
_IMAGES = ("boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinuz.unsigned")
_MODULES = ("lib/modules/*/kernel", "usr/lib/modules/*/kernel")


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel.

    Attributes:
        name: The lab's short name.
        release: What `uname -r` says.
        vmlinuz: The boot image (a bzImage).
        modules_dir: The folder with `modules.dep` and the modules below it.
        package: The Debian package the image came from.
        version: That package's version.
        suite: The Debian suite.
    """

    name: str
    release: str
    vmlinuz: Path
    modules_dir: Path
    package: str
    version: str
    suite: str


def kernel(name: str) -> Kernel:
    """The kernel of that name, fetched when it is not there yet.

    Raises:
        LabUnavailable: It cannot be had.
        LabError: No such name.
    """
    name = ALIASES.get(name, name)
    record = made_once(_record(name), lambda path: _fetch(name, path))
    fields = json.loads(record.read_text())
    vmlinuz, modules_dir = Path(fields.pop("vmlinuz")), Path(fields.pop("modules_dir"))
    if not vmlinuz.exists():
        record.unlink(missing_ok=True)
        return kernel(name)
    return Kernel(vmlinuz=vmlinuz, modules_dir=modules_dir, **fields)


def refresh(name: str) -> Kernel:
    """Like `kernel`, but looks for a newer one in the archive first."""
    name = ALIASES.get(name, name)
    Suite(_suite_and_package(name)[0]).refresh()
    _record(name).unlink(missing_ok=True)
    return kernel(name)


def vmlinux(found: Kernel) -> Path:
    """The uncompressed kernel image (no symbols) of the kernel's vmlinuz, extracted once."""

    def make(path: Path) -> None:
        path.write_bytes(extract(found.vmlinuz.read_bytes()))

    return made_once(root() / "vmlinux" / f"{found.release}-{found.version}", make)


def debug_vmlinux(found: Kernel) -> Path:
    """vmlinux with DWARF, from the kernel's debug package: large, so only where a benchmark needs it."""
    package = f"linux-image-{found.release}-dbg"
    folder = Suite(found.suite).unpacked(package, only=("./usr/lib/debug/*vmlinux*",))
    for path in folder.rglob("vmlinux*"):
        if path.is_file() and not path.is_symlink():
            return path
    raise LabError(f"no vmlinux in Debian's {package}")


def _record(name: str) -> Path:
    return root() / "kernels" / f"{name.replace('/', '_')}.json"


def _suite_and_package(name: str) -> tuple[str, str]:
    if "@" in name:
        package, _, suite = name.partition("@")
        return suite, package
    if name not in NAMES:
        raise LabError(
            f"no kernel named {name}: it is one of {', '.join([*NAMES, *ALIASES])}, or PACKAGE@SUITE"
        )
    return NAMES[name]


def _fetch(name: str, record: Path) -> None:
    suite_name, package = _suite_and_package(name)
    suite = Suite(suite_name)
    try:
        fields = _unpack(suite, package)
    except LabUnavailable:
        # The archive drops a version when a newer one is there: the lists may be older than that.
        if not suite.refresh_if_old():
            raise
        fields = _unpack(suite, package)
    record.write_text(json.dumps({"name": name, **fields}, indent=1))


def _unpack(suite: Suite, package: str) -> dict[str, str]:
    """The fields of `Kernel`, except its name, of a kernel that is unpacked now."""
    if "[" in package:
        package = suite.newest(package)
    folders = [suite.unpacked(part) for part in suite.kernel_packages(package)]
    images = [path for pattern in _IMAGES for folder in folders for path in folder.glob(pattern)]
    modules = [path.parent for pattern in _MODULES for folder in folders for path in folder.glob(pattern)]
    if not images or not modules:
        raise LabUnavailable(f"no kernel with modules in Debian {suite.name}'s {package}")
    release = modules[0].name
    _complete(modules[0], folders)
    # The unpacked folder is named PACKAGE_VERSION.
    image_package, _, version = images[0].relative_to(root() / "packages").parts[0].partition("_")
    return {
        "release": release,
        "vmlinuz": str(images[0]),
        "modules_dir": str(modules[0]),
        "package": image_package,
        "version": version.replace("%3a", ":"),
        "suite": suite.name,
    }


def _complete(modules: Path, folders: list[Path]) -> None:
    """Adds the lists of modules that are in another package, or that installing would make."""
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        for folder in folders:
            for path in folder.glob(f"usr/lib/modules/{modules.name}/{name}"):
                if not (modules / name).exists():
                    shutil.copy(path, modules / name)
    if (modules / "modules.dep").exists():
        return
    # depmod wants the layout BASE/lib/modules/RELEASE.
    with tempfile.TemporaryDirectory() as base:
        (Path(base) / "lib/modules").mkdir(parents=True)
        (Path(base) / "lib/modules" / modules.name).symlink_to(modules)
        depmod = program("depmod", "kmod")
        subprocess.run([depmod, "-b", base, modules.name], check=True, capture_output=True)
