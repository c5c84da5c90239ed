"""Builds the initial root file system of a lab guest: busybox, some real programs, modules, our init."""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab.cache import LabError, LabUnavailable, made_once, program, root
from lab.cpio import CpioWriter
from lab.kernels import Kernel

MODULES = ("virtio_pci", "virtio_mmio", "virtio_console", "virtio_net", "dummy", "veth", "8021q", "bridge")
"""Modules every guest loads; `e1000` (QEMU's default card) too where the kernel has it."""

OPTIONAL_MODULES = ("e1000", "tun")

HOST_PROGRAMS = {"/bin/dash": "dash", "/sbin/ip": "iproute2", "/bin/ps": "procps"}
"""Programs of the host that go into the guest with their libraries, and the Debian packages that have them.

The shell is dash because busybox's prefers its own `ip` and `ps`, whatever is in the path.
"""

_PROGRAMS = Path(__file__).with_name("programs")


def modules_with_dependencies(dependencies: str, builtin: str, wanted: Iterable[str]) -> list[str]:
    """The modules to load for `wanted`, in an order that works.

    Args:
        dependencies: The text of `modules.dep`.
        builtin: The text of `modules.builtin`; modules in it need no loading.
        wanted: Module names, with `-` or `_`.

    Returns:
        Paths as in `modules.dep`, each after those it needs.

    Raises:
        LabError: The kernel has no such module.
    """
    needs: dict[str, list[str]] = {}
    path_of: dict[str, str] = {}
    for line in dependencies.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        path_of[_module_name(path)] = path
    compiled_in = {_module_name(path) for path in builtin.split()}
    ordered: list[str] = []

    def add(path: str) -> None:
        if path in ordered:
            return
        for needed in reversed(needs.get(path, [])):
            add(needed)
        ordered.append(path)

    for name in wanted:
        plain = name.replace("-", "_")
        if plain in path_of:
            add(path_of[plain])
        elif plain not in compiled_in:
            raise LabError(f"this kernel has no module {name}")
    return ordered


def initrd(
    kernel: Kernel, setup: str = "", modules: Sequence[str] = (), files: dict[str, bytes] | None = None
) -> Path:
    """An uncompressed initramfs for the kernel, built once for each content.

    Args:
        kernel: The kernel whose modules go in.
        setup: A shell script that init runs before the guest counts as ready.
        modules: Further modules to load.
        files: Further files (absolute path -> content), mode 755.
    """
    names = [*MODULES, *modules]
    dependencies = (kernel.modules_dir / "modules.dep").read_text()
    builtin = (kernel.modules_dir / "modules.builtin").read_text()
    names += [name for name in OPTIONAL_MODULES if has_module(kernel, name)]
    paths = modules_with_dependencies(dependencies, builtin, names)
    init, actor = (compiled(name) for name in ("init", "actor"))
    tools = _host_files()
    recipe = repr((kernel.release, kernel.version, paths, setup, files, init.name, actor.name, tools))

    def build(target: Path) -> None:
        archive = CpioWriter()
        for folder in (
            "proc",
            "sys",
            "dev",
            "run",
            "tmp",
            "var",
            "actors",
            "etc",
            "root",
            "sbin",
            "usr/bin",
            "usr/sbin",
        ):
            archive.folder(folder)
        archive.symlink("var/run", "/run")
        archive.device("dev/console", 5, 1)
        archive.file("init", init, 0o755)
        archive.file("bin/actor", actor, 0o755)
        archive.file("bin/busybox", busybox(), 0o755)
        archive.symlink("bin/sh", "dash")
        for name, path in tools:
            archive.file(name.lstrip("/"), Path(path), 0o755)
        applets = subprocess.run([busybox(), "--list"], capture_output=True, text=True, check=True).stdout
        for applet in applets.split():
            if not any(f"{folder}/{applet}" in archive for folder in ("bin", "sbin", "usr/bin")):
                archive.symlink(f"bin/{applet}", "busybox")
        loaded = []
        for path in paths:
            inside = f"lib/modules/{re.sub(r'[.](xz|zst|gz)$', '', Path(path).name)}"
            archive.file(inside, plain_module(kernel.modules_dir / path))
            loaded.append("/" + inside)
        archive.file("etc/modules", "".join(path + "\n" for path in loaded).encode())
        archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nalice:x:1001:1001::/:/bin/sh\n")
        archive.file("etc/group", b"root:x:0:\nalice:x:1001:\n")
        if setup:
            archive.file("etc/setup.sh", setup.encode(), 0o755)
        for path, content in (files or {}).items():
            archive.file(path.lstrip("/"), content, 0o755)
        target.write_bytes(archive.data())

    digest = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    return made_once(root() / "initrd" / f"{kernel.name}-{digest}.cpio", build)


def has_module(kernel: Kernel, name: str) -> bool:
    """Whether the kernel has a loadable module of that name."""
    return f"/{name}.ko" in (kernel.modules_dir / "modules.dep").read_text()


def compiled(name: str) -> Path:
    """`programs/NAME.c` compiled to a static program, once for each content."""
    source = _PROGRAMS / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]

    def build(target: Path) -> None:
        options = ["-static", "-Os", "-s", "-pthread"]
        command = [program("gcc", "gcc"), *options, "-o", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabUnavailable(f"compiling {source.name} failed (is libc6-dev installed?): {done.stderr}")

    return made_once(root() / "programs" / f"{name}-{digest}", build)


def busybox() -> Path:
    """The host's static busybox."""
    path = Path(program("busybox", "busybox-static"))
    if b"/ld-linux" in path.read_bytes()[:4096]:
        raise LabUnavailable("the host's busybox is not static: apt-get install busybox-static")
    return path


def plain_module(path: Path) -> bytes:
    """A kernel module's content, decompressed."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run([program("zstd", "zstd"), "-dcq", path], capture_output=True, check=True).stdout
    return path.read_bytes()


def _module_name(path: str) -> str:
    return Path(path).name.partition(".")[0].replace("-", "_")


def _host_files() -> list[tuple[str, str]]:
    """(path in the guest, path on the host) of the host's programs and the libraries they load."""
    found: dict[str, str] = {}
    for path, package in HOST_PROGRAMS.items():
        name = Path(path).name
        host = os.path.realpath(program(name, package))
        found[path] = host
        listed = subprocess.run(["ldd", host], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+) \(0x", listed):
            found[library] = os.path.realpath(library)
    return sorted(found.items())
