"""Makes a kernel ready to boot as a sandbox: the kernel itself uncompressed, and an initramfs of init and
modules.

The archive is the kernel's "newc" cpio (Documentation/driver-api/early-userspace/buffer-format.rst),
uncompressed: unpacking costs the guest more than the host's page cache costs us. Entry point: `prepare`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from virtscope.errors import FormatError, MissingDependency
from virtscope.sandbox import cache, compiler, kernels, vmlinux


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What a machine is started with.

    Args:
        kernel: the kernel file; an ELF file when `direct`, the host's own image otherwise.
        initramfs: the archive with the guest's init and its modules.
        release: the kernel's release name.
        direct: whether the kernel is uncompressed and has a PVH entry.
    """

    kernel: Path
    initramfs: Path
    release: str
    direct: bool


def prepare(kernel: kernels.Kernel, features: Iterable[str]) -> BootFiles:
    """Returns the files to boot `kernel` with these features, built if they are not in the cache."""
    features = tuple(features)
    init = Path(compiler.guest_init())
    identity = kernel.identity()
    image = cache.cache_directory() / f"vmlinux-{cache.fingerprint(identity, 'slim')}"
    direct = True
    if not image.exists():
        compressed = image.with_name(image.name + ".none")
        if not compressed.exists():
            try:
                cache.build(image.name, lambda path: _write_kernel(kernel.image, path))
            except (FormatError, MissingDependency):
                # Booting the compressed image works as well, only slower; remembered so that it is tried
                # once.
                cache.build(compressed.name, Path.touch)
        direct = not compressed.exists()
    wanted = " ".join(name for feature in features for name in kernels.FEATURES[feature])
    name = f"initramfs-{cache.fingerprint(identity, init.name, wanted)}"
    archive = cache.build(name, lambda path: _write_archive(path, init, kernel, features))
    return BootFiles(image if direct else kernel.image, archive, kernel.release, direct)


def _write_kernel(image: Path, output: Path) -> None:
    kernel = vmlinux.extract(image.read_bytes())
    if not vmlinux.boots_directly(kernel):
        raise FormatError("vmlinux", "no PVH entry note")
    output.write_bytes(vmlinux.without_padding(kernel))


def _write_archive(output: Path, init: Path, kernel: kernels.Kernel, features: Iterable[str]) -> None:
    files = kernels.module_files(kernel, features)
    with open(output, "wb") as stream:
        entries: list[tuple[str, int, bytes]] = [
            (name, 0o040755, b"") for name in ("dev", "proc", "sys", "newroot", "over", "modules")
        ]
        entries.append(("init", 0o100755, init.read_bytes()))
        names = []
        for number, file in enumerate(files):
            name = f"{number:02}-{kernels._plain(file.name)}.ko"
            names.append(name)
            entries.append((f"modules/{name}", 0o100644, _module(file)))
        entries.append(("modules/list", 0o100644, "".join(f"{name}\n" for name in names).encode()))
        for number, (name, mode, data) in enumerate(entries):
            stream.write(cpio_entry(name, mode, data, number + 1))
        stream.write(cpio_entry("TRAILER!!!", 0, b"", 0))


def cpio_entry(name: str, mode: int, data: bytes, inode: int) -> bytes:
    """One newc entry: a header of 13 hexadecimal fields, the name, the data, each padded to four bytes."""
    encoded = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def _module(path: Path) -> bytes:
    """A module's bytes, decompressed, and without what the kernel would only skip over."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        import lzma

        data = lzma.decompress(data)
    elif path.suffix == ".gz":
        import gzip

        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise MissingDependency(
                f"{path.name} is zstd-compressed: install the Python package zstandard"
            ) from None
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return _stripped(data)


def _stripped(module: bytes) -> bytes:
    import shutil
    import subprocess
    import tempfile

    strip = shutil.which("objcopy")
    if strip is None:
        return module
    with tempfile.TemporaryDirectory(prefix="virtscope-") as folder:
        source, target = os.path.join(folder, "in.ko"), os.path.join(folder, "out.ko")
        Path(source).write_bytes(module)
        done = subprocess.run(
            [strip, "--strip-debug", "-R", ".BTF", source, target], capture_output=True, check=False
        )
        return module if done.returncode else Path(target).read_bytes()
