"""A guest's disk as an installer leaves it: GPT, /boot on ext4, and LVM with / on XFS and /home on ext4.

disk.img, disk.qcow2    the disk, raw and compressed qcow2
account.json            by mount point, what the host's kernel says of the filesystems' files and usage
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import Guest
from lab.cache import made_once, root
from tests.recipes import kernel_account, lvm, partitions
from tests.recipes.ext4 import mounted, need_mounts, run

BOOT_UUID = "11111111-1111-4111-8111-111111111111"
ROOT_UUID = "22222222-2222-4222-8222-222222222222"
HOME_UUID = "33333333-3333-4333-8333-333333333333"

_TABLE = """label: gpt
label-id: 44444444-4444-4444-8444-444444444444
start=2048, size=131072, type=linux, uuid=55555555-5555-4555-8555-555555555555, name="boot"
start=133120, size=1230848, type=lvm, uuid=66666666-6666-4666-8666-666666666666
"""
_SIZE = 680 << 20

FSTAB = f"""# a comment
UUID={ROOT_UUID} / xfs defaults 0 1
LABEL=boot /boot ext4 ro,noatime 0 2
/dev/mapper/vg0-home\t/home ext4 defaults 0 2
tmpfs /tmp tmpfs defaults 0 0
/dev/sr0 /media/cdrom iso9660 noauto 0 0
UUID=99999999-9999-4999-8999-999999999999 /srv/my\\040data ext4 defaults 0 2
"""

_VOLUMES = r"""
export DM_DISABLE_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1
mkdir -p /etc/lvm /run/lock/lvm /var/lock
cat > /etc/lvm/lvm.conf <<END
devices { obtain_device_list_from_udev = 0  use_devicesfile = 0 }
activation { udev_sync = 0  udev_rules = 0  monitoring = 0 }
END
lvm vgcreate vg0 /dev/vda2
lvm lvcreate -y -W n -L 400m -n root vg0
lvm lvcreate -y -W n -L 120m -n home vg0
dd if=/dev/vdb of=/dev/vda1 bs=1M
dd if=/dev/vdc of=/dev/vg0/root bs=1M
dd if=/dev/vdd of=/dev/vg0/home bs=1M
lvm vgchange -an vg0
sync
"""


@dataclass(frozen=True)
class System:
    """The disk and the truth about it.

    Attributes:
        raw: the disk.
        qcow2: the same, compressed.
        files: by absolute path in the guest, what its kernel would say (see `kernel_account.account_of`).
        usage: by device, f_bsize, f_blocks, f_bfree, f_bavail, f_files, f_ffree.
    """

    raw: Path
    qcow2: Path
    files: dict[str, dict[str, Any]]
    usage: dict[str, list[int]]


def system() -> System:
    """The disk, made once."""
    need_mounts()
    recipe = b"".join(Path(str(module.__file__)).read_bytes() for module in (lvm, partitions, kernel_account))
    digest = hashlib.sha256(recipe + Path(__file__).read_bytes()).hexdigest()[:16]
    folder = made_once(root() / "fixtures" / f"system-{digest}", _make)
    account = json.loads((folder / "account.json").read_text())
    return System(folder / "disk.img", folder / "disk.qcow2", account["files"], account["usage"])


def _make(target: Path) -> None:
    target.mkdir()
    parts = {"boot": 64 << 20, "root": 400 << 20, "home": 120 << 20}
    for name, size in parts.items():
        with open(target / name, "wb") as file:
            file.truncate(size)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-U", BOOT_UUID, "-L", "boot", str(target / "boot"))
    run("mke2fs", "-q", "-F", "-t", "ext4", "-U", HOME_UUID, str(target / "home"))
    run("mkfs.xfs", "-q", "-m", f"uuid={ROOT_UUID}", "-L", "root", str(target / "root"))
    for name, fill in (("boot", _fill_boot), ("root", _fill_root), ("home", _fill_home)):
        with mounted(target / name) as top:
            fill(top)
    files: dict[str, dict[str, Any]] = {}
    usage = {}
    for name, device, point in (
        ("root", "/dev/vg0/root", ""),
        ("boot", "/dev/sda1", "/boot"),
        ("home", "/dev/vg0/home", "/home"),
    ):
        with mounted(target / name, "ro,noatime") as top:
            account = kernel_account.account_of(top)
        # A read-only mount of XFS holds nothing in reserve: df means a mount as users do it.
        shutil.copyfile(target / name, target / "copy")
        with mounted(target / "copy") as top:
            found = os.statvfs(top)
        os.unlink(target / "copy")
        fields = ("f_bsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree")
        usage[device] = [getattr(found, field) for field in fields]
        for path, row in account["files"].items():
            files[f"{point}/{path}".rstrip("/") or "/"] = row
    (target / "account.json").write_text(json.dumps({"files": files, "usage": usage}))
    disk = partitions.make(target / "disk.img", _TABLE, _SIZE)
    drives = []
    for path in (disk, *(target / name for name in parts)):
        drives += ["-drive", f"file={path},format=raw,if=virtio,cache=unsafe,discard=unmap"]
    with Guest("6.1", monitor=False, direct=True, setup="", modules=lvm.MODULES, args=drives) as guest:
        guest.run("tar x -C /", stdin=lvm.packed_programs("/sbin/lvm"))
        done = guest.execute(f"set -e\n{_VOLUMES}", timeout=300)
        if done.status:
            raise RuntimeError((done.stdout + done.stderr).decode(errors="replace")[-3000:])
    for name in parts:
        os.unlink(target / name)
    run("qemu-img", "convert", "-c", "-O", "qcow2", str(disk), str(target / "disk.qcow2"))


def _fill_boot(top: Path) -> None:
    (top / "vmlinuz-6.1.0").write_bytes(b"MZ kernel\n" * 1000)
    os.symlink("vmlinuz-6.1.0", top / "vmlinuz")


def _fill_home(top: Path) -> None:
    (top / "ann").mkdir()
    (top / "ann" / "notes.txt").write_text("".join(f"line {number}\n" for number in range(100_000)))
    os.chown(top / "ann" / "notes.txt", 1000, 1000)


def _fill_root(top: Path) -> None:
    for name in ("etc", "boot", "home", "var/log", "usr/lib", "srv", "dev", "tmp", "names", "deep/a/b/c"):
        (top / name).mkdir(parents=True)
    (top / "etc/fstab").write_text(FSTAB)
    (top / "usr/lib/os-release").write_text('NAME="Recipe Linux"\nID=recipe\n')
    os.symlink("../usr/lib/os-release", top / "etc/os-release")
    (top / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (top / "etc/empty").touch()
    (top / "var/log/syslog").write_text("".join(f"Jan  1 00:00:00 recipe line {n}\n" for n in range(50_000)))
    for odd in (
        b"new\nline",
        b"\x1b[31mred",
        b"\xff\xfe not utf-8",
        b"tab\there",
        "日本".encode(),
        b" spaces ",
    ):
        (Path(os.fsdecode(os.fsencode(top) + b"/names/" + odd))).write_bytes(odd)
    os.symlink("/etc/passwd", top / "names/absolute")
    os.symlink("../../../../../../etc/passwd", top / "names/escaping")
    os.symlink("loop", top / "names/loop")
    os.symlink("/nowhere", top / "names/dangling")
    os.link(top / "etc/passwd", top / "srv/passwd-again")
    os.mknod(top / "dev/null", 0o20666, os.makedev(1, 3))
    os.mkfifo(top / "srv/fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(top / "srv/socket"))
    (top / "usr/lib/setuid").write_bytes(b"#!/bin/true\n")
    os.chmod(top / "usr/lib/setuid", 0o4755)
    os.setxattr(top / "etc/passwd", "user.comment", b"seen \x00 and \xff")
    with open(top / "srv/sparse", "wb") as file:
        file.write(b"begin")
        file.seek(5 << 20)
        file.write(b"middle" * 1000)
        file.truncate(20 << 20)
    (top / "srv/large").write_bytes(b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(200_000)))
    subprocess.run(["setfacl", "-m", "u:1234:r", top / "etc/empty"], check=False)
    os.utime(top / "etc/empty", ns=(1_000_000_000, -86_400_000_000_000))
