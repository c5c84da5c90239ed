"""The disk commands on real Debian systems, beside libguestfs, The Sleuth Kit and the kernel's own mount.

libguestfs boots an appliance with Debian's kernel of the laboratory; in software emulation where KVM does not
work, which is its worst case. It is run once where it takes many seconds. The Sleuth Kit reads raw images
only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.timing import Contestant, race, table
from lab.kernels import kernel
from tests.recipes.debian import LARGE, disks

BIN = Path(sys.executable).parent
OVERLAYS = 1000


def libguestfs(*argv: str | Path) -> dict[str, object]:
    """What a contestant of libguestfs needs: its tools by their path, and a kernel for its appliance."""
    found = kernel("6.1")
    return {
        "argv": argv,
        "environment": {
            "LIBGUESTFS_BACKEND": "direct",
            "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
            "SUPERMIN_KERNEL": str(found.vmlinuz),
            "SUPERMIN_KERNEL_VERSION": found.release,
            "SUPERMIN_MODULES": str(found.modules_dir),
        },
        "runs_at_most": 1,
    }


def peer(name: str, *argv: str | Path) -> Contestant:
    """A tool of libguestfs as a contestant."""
    return Contestant(name, **libguestfs(*argv))  # type: ignore[arg-type]


def ours(name: str, *argv: str | Path) -> Contestant:
    """One of our commands as a contestant."""
    return Contestant(name, [BIN / str(argv[0]), *argv[1:]])


def mounted_df(raw: Path) -> Contestant:
    """The kernel: attach a loop device, mount, df, let go."""
    script = (
        f"set -e; d=$(mktemp -d); mount -o ro,noload,loop,offset=1048576 {raw} $d; df $d; umount $d; rmdir $d"
    )
    return Contestant("kernel: mount, df, umount", ["sh", "-c", script])


def single_jobs(folder: Path, scratch: Path) -> None:
    """One image at a time."""
    mbr, volumes, raw = folder / "mbr.qcow2", folder / "lvm.qcow2", folder / "raw.img"

    print("### df of one image\n")
    contestants = [
        ours("virt-df, MBR + ext4", "virt-df", "-a", mbr),
        ours("virt-df, LVM + XFS", "virt-df", "-a", volumes),
        peer("libguestfs virt-df, MBR", "/usr/bin/virt-df", "-a", mbr),
        peer("libguestfs virt-df, LVM", "/usr/bin/virt-df", "-a", volumes),
        Contestant("sleuthkit fsstat, raw", ["/usr/bin/fsstat", "-o", "2048", raw]),
        mounted_df(raw),
    ]
    print(table(race(contestants), against="virt-df, MBR + ext4"), flush=True)

    print("\n### cat of /etc/os-release\n")
    contestants = [
        ours("virt-cat, MBR + ext4", "virt-cat", "-a", mbr, "/etc/os-release"),
        ours("virt-cat, LVM + XFS", "virt-cat", "-a", volumes, "/etc/os-release"),
        peer("libguestfs virt-cat, MBR", "/usr/bin/virt-cat", "-a", mbr, "/etc/os-release"),
    ]
    print(table(race(contestants), against="virt-cat, MBR + ext4"), flush=True)

    print("\n### ls -lR\n")
    contestants = [
        ours("virt-ls -lR /etc, ext4", "virt-ls", "-lR", "-a", mbr, "/etc"),
        ours("virt-ls -lR /etc, XFS", "virt-ls", "-lR", "-a", volumes, "/etc"),
        ours("virt-ls -lR /, ext4", "virt-ls", "-lR", "-a", mbr, "/"),
        ours("virt-ls -lR /, XFS", "virt-ls", "-lR", "-a", volumes, "/"),
        peer("libguestfs virt-ls -lR /etc", "/usr/bin/virt-ls", "-lR", "-a", mbr, "/etc"),
        Contestant("sleuthkit fls -r, raw, whole", ["/usr/bin/fls", "-r", "-o", "2048", raw]),
    ]
    print(table(race(contestants, runs=5), against="virt-ls -lR /etc, ext4"), flush=True)

    print(f"\n### A file of {LARGE // 1_000_000} MB copied out\n")
    out = scratch / "out"

    def empty() -> None:
        subprocess.run(["rm", "-rf", out], check=True)
        out.mkdir()

    contestants = []
    for name, image in (("ext4 in qcow2", mbr), ("XFS on LVM in qcow2", volumes), ("ext4, raw", raw)):
        argv: list[str | Path] = [BIN / "virt-copy-out", "-a", image, "/srv/large", out]
        contestants.append(Contestant(f"virt-copy-out, {name}", argv, before=empty))
    contestants.append(
        Contestant("cp of the same bytes", ["cp", scratch / "large", out / "large"], before=empty)
    )
    empty()
    subprocess.run([BIN / "virt-copy-out", "-a", raw, "/srv/large", scratch], check=True)
    timings = race(contestants, runs=5)
    print(table(timings))
    for timing in timings:
        print(f"\n{timing.name}: {LARGE / timing.wall / 1e6:.0f} MB/s")


def many_guests(folder: Path, scratch: Path) -> None:
    """df of a folder of overlays."""
    print(f"\n### df of {OVERLAYS} qcow2 overlays\n", flush=True)
    images = scratch / "overlays"
    images.mkdir()
    for number in range(OVERLAYS):
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2"]
        subprocess.run([*command, "-b", folder / "mbr.qcow2", images / f"{number:04}.qcow2"], check=True)
    contestant = ours("virt-df FOLDER", "virt-df", "--allow-backing", folder, images)
    print(table(race([contestant], runs=3)), flush=True)


def virtual_sizes(scratch: Path) -> None:
    """The same filesystem made on 1 GiB and on 1 TiB."""
    print("\n### df against the virtual size\n", flush=True)
    contestants = []
    for name, size in (("1 GiB", 1 << 30), ("1 TiB", 1 << 40)):
        for kind, make in (("ext4", ["mke2fs", "-q", "-F", "-t", "ext4"]), ("xfs", ["mkfs.xfs", "-q"])):
            path = scratch / f"{kind}-{size}.img"
            path.touch()
            os.truncate(path, size)
            subprocess.run([*make, path], check=True)
            contestants.append(ours(f"virt-df, {kind} of {name}", "virt-df", "-a", path))
    print(table(race(contestants)), flush=True)


def main() -> None:
    """Print the tables."""
    folder = disks()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        scratch = Path(name)
        single_jobs(folder, scratch)
        many_guests(folder, scratch)
        virtual_sizes(scratch)
