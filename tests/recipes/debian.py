"""Disks of real Debian systems, by debootstrap: on one ext4, and on LVM with XFS. Large: for benchmarks.

    mbr.qcow2    MBR with one ext4 partition, 10 GiB
    lvm.qcow2    GPT with /boot on ext4 and LVM with / on XFS, 10 GiB
    raw.img      the first one, raw and sparse

Each has a file /srv/large of 500 MB that is not sparse.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from lab import Guest
from lab.cache import made_once, program, root
from tests.recipes import lvm, partitions
from tests.recipes.ext4 import mounted, run

SUITE = "bookworm"
LARGE = 500_000_000
_SIZE = 10 << 30
_ROOT = 2 << 30
_BOOT = 64 << 20


def disks() -> Path:
    """The folder with the disks, made once (it takes minutes)."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return made_once(root() / "fixtures" / f"debian-{digest}", _make)


def _system(path: Path) -> None:
    bootstrap = program("debootstrap", "debootstrap")
    subprocess.run([bootstrap, SUITE, path, "http://deb.debian.org/debian"], check=True, capture_output=True)


def _fill(top: Path, fstab: str) -> None:
    run("cp", "-a", f"{made_once(root() / 'fixtures' / f'debian-{SUITE}', _system)}/.", str(top))
    (top / "etc/fstab").write_text(fstab)
    with open(top / "srv/large", "wb") as file:
        block = os.urandom(1 << 20)
        for _ in range(LARGE >> 20):
            file.write(block)
        file.write(block[: LARGE & 0xFFFFF])


def _sparse(path: Path, size: int) -> Path:
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def _make(target: Path) -> None:
    target.mkdir()
    plain = _sparse(target / "plain", _SIZE - (1 << 20))
    run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", str(plain))
    with mounted(plain) as top:
        _fill(top, "LABEL=root / ext4 errors=remount-ro 0 1\n")
    disk = partitions.make(target / "raw.img", "label: dos\nstart=2048, type=83, bootable\n", _SIZE)
    run("dd", f"if={plain}", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc,sparse")
    run("qemu-img", "convert", "-O", "qcow2", str(disk), str(target / "mbr.qcow2"))
    plain.unlink()

    boot = _sparse(target / "boot", _BOOT)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "boot", str(boot))
    system = _sparse(target / "root", _ROOT)
    run("mkfs.xfs", "-q", "-L", "root", str(system))
    with mounted(system) as top:
        _fill(top, "/dev/mapper/vg-root / xfs defaults 0 0\nLABEL=boot /boot ext4 defaults 0 2\n")
    table = f"label: gpt\nsize={_BOOT >> 9}, type=linux\ntype=lvm\n"
    disk = partitions.make(target / "lvm.img", table, _SIZE)
    drives = []
    for path in (disk, boot, system):
        drives += ["-drive", f"file={path},format=raw,if=virtio,cache=unsafe,discard=unmap"]
    with Guest("6.1", monitor=False, direct=True, setup="", modules=lvm.MODULES, args=drives) as guest:
        guest.run("tar x -C /", stdin=lvm.packed_programs("/sbin/lvm"))
        guest.run(
            "export DM_DISABLE_UDEV=1; mkdir -p /etc/lvm /run/lock/lvm /var/lock; "
            "echo 'devices { obtain_device_list_from_udev = 0 use_devicesfile = 0 }"
            " activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }' > /etc/lvm/lvm.conf; "
            f"lvm vgcreate vg /dev/vda2 && lvm lvcreate -y -W n -L {_ROOT >> 20}m -n root vg && "
            "dd if=/dev/vdb of=/dev/vda1 bs=1M && dd if=/dev/vdc of=/dev/vg/root bs=1M && sync",
            timeout=500,
        )
    run("qemu-img", "convert", "-O", "qcow2", str(disk), str(target / "lvm.qcow2"))
    for name in ("boot", "root", "lvm.img"):
        (target / name).unlink()
