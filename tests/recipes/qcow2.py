"""qcow2 and qcow images made by qemu-img: `chain()` and the images of `FORMATS` converted from its top.

The disk is 80 MiB: data, zeros and holes in a base of 64 MiB, and more of each in an overlay of it, at
offsets that are no multiples of clusters.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from lab.cache import made_once, program, root

BASE = (
    "write -P 1 0 1M",
    "write -P 2 3M 70k",
    "write -z 5M 1M",
    "write -P 9 32M 1k",
    "write -P 3 63M 1M",
)
OVERLAY = ("write -P 5 512k 1M", "write -z 3M 64k", "discard 63M 64k", "write -P 6 79M 1M")
EXTENDED = ("write -P 7 1M 4k", "write -z 1060k 8k", "write -P 8 70M 1M", "write -P 4 33000k 3k")

FORMATS = {
    # name: options of qemu-img convert
    "v3": ("-O", "qcow2"),
    "v2": ("-O", "qcow2", "-o", "compat=0.10"),
    "zlib": ("-c", "-O", "qcow2"),
    "zstd": ("-c", "-O", "qcow2", "-o", "compression_type=zstd"),
    "zlib-512": ("-c", "-O", "qcow2", "-o", "cluster_size=512"),
    "zstd-2M": ("-c", "-O", "qcow2", "-o", "compression_type=zstd,cluster_size=2M"),
    "clusters-512": ("-O", "qcow2", "-o", "cluster_size=512"),
    "clusters-2M": ("-O", "qcow2", "-o", "cluster_size=2M"),
    "subclusters": ("-O", "qcow2", "-o", "extended_l2=on,cluster_size=128k"),
    "subclusters-zlib": ("-c", "-O", "qcow2", "-o", "extended_l2=on,cluster_size=64k"),
    "lazy": ("-O", "qcow2", "-o", "lazy_refcounts=on"),
    "refcounts-1": ("-O", "qcow2", "-o", "refcount_bits=1"),
    "metadata": ("-O", "qcow2", "-o", "preallocation=metadata"),
    "falloc": ("-O", "qcow2", "-o", "preallocation=falloc"),
    "full": ("-O", "qcow2", "-o", "preallocation=full"),
    "data-file": ("-O", "qcow2", "-o", "data_file=data-file.bin"),
    "data-file-raw": ("-O", "qcow2", "-o", "data_file=data-file-raw.bin,data_file_raw=on"),
    "qcow": ("-O", "qcow"),
    "qcow-zlib": ("-c", "-O", "qcow"),
}


def images() -> Path:
    """A folder with base.qcow2, overlay.qcow2 on it, extended.qcow2 on that, and NAME.img for every format.

    Beside each of the chain is NAME.raw with the same bytes, as QEMU reads them; the others are as
    overlay.raw.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return made_once(root() / "fixtures" / f"qcow2-{digest}", _make)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """What a command of the host says on standard output."""
    done = subprocess.run(
        [program(str(command[0]), "qemu-utils"), *map(str, command[1:])],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def write(image: Path, *commands: str) -> None:
    """Run qemu-io commands on an image."""
    run("qemu-io", *(part for command in commands for part in ("-c", command)), image)


def as_raw(image: Path, raw: Path, *options: str) -> None:
    """Convert an image to raw with qemu-img."""
    run("qemu-img", "convert", *options, "-O", "raw", image, raw)


def _make(folder: Path) -> None:
    folder.mkdir()
    run("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "64M", cwd=folder)
    write(folder / "base.qcow2", *BASE)
    for name, below, commands, layout in (
        ("overlay", "base", OVERLAY, "lazy_refcounts=on"),
        ("extended", "overlay", EXTENDED, "extended_l2=on,cluster_size=128k"),
    ):
        backing = ("-b", f"{below}.qcow2", "-F", "qcow2", "-o", layout)
        run("qemu-img", "create", "-q", "-f", "qcow2", *backing, f"{name}.qcow2", "80M", cwd=folder)
        write(folder / f"{name}.qcow2", *commands)
    for name in ("base", "overlay", "extended"):
        as_raw(folder / f"{name}.qcow2", folder / f"{name}.raw")
    for name, options in FORMATS.items():
        if name == "qcow-zlib":
            # QEMU 7.2 writes it in full and then ends with status 1 and no message; what it wrote is
            # compared.
            command = [program("qemu-img", "qemu-utils"), "convert", *options, "overlay.qcow2", f"{name}.img"]
            subprocess.run(command, cwd=folder, check=False)
            run("qemu-img", "compare", "-q", "overlay.qcow2", f"{name}.img", cwd=folder)
        else:
            run("qemu-img", "convert", *options, "overlay.qcow2", f"{name}.img", cwd=folder)
