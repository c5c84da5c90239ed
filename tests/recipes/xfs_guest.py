"""XFS images filled, and some of them cut off in the middle of writing, by the kernel of a lab guest.

For what the host's kernel may no longer know (version 4, names without case, a realtime device), and for
disks of guests that run or were killed. Python of the host is packed into the guest to run `xfs_files` and
`kernel_account` there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import Guest
from lab.cache import made_once, program, root
from tests.recipes import kernel_account, xfs, xfs_churn, xfs_files
from tests.recipes.lvm import packed_programs

VARIANTS: dict[str, tuple[str, ...]] = {
    "v4": ("-m", "crc=0"),
    "v4-1k-no-types": ("-m", "crc=0", "-b", "size=1024", "-n", "ftype=0"),
    "v4-512": ("-m", "crc=0", "-b", "size=512", "-i", "size=256"),
    "v4-old": ("-m", "crc=0", "-i", "attr=1,projid32bit=0", "-l", "lazy-count=0,version=1", "-n", "ftype=0"),
    "v4-large-directories": ("-m", "crc=0", "-n", "size=16384", "-i", "size=1024"),
    "v4-shut-down": ("-m", "crc=0"),
    "v5-without-case": ("-n", "version=ci"),
}
"""Options of mkfs.xfs."""

_KERNEL = "6.1"
_MODULES = ("virtio_blk", "crc32c_generic", "xfs")
_PYTHON = "/usr/bin/python3"
_KEY = hashlib.sha256(
    b"".join(
        Path(path).read_bytes()
        for path in (__file__, xfs_files.__file__, xfs_churn.__file__, kernel_account.__file__)
    )
).hexdigest()[:12]


def image(name: str) -> xfs.Image:
    """An image of `VARIANTS`; all of them are made by one guest."""
    folder = made_once(root() / "xfs" / f"guest-{_KEY}", _make)
    account = json.loads((folder / f"{name}.json").read_text())
    return xfs.Image(folder / f"{name}.img", account["usage"], account["files"])


def killed() -> Path:
    """The disk of a guest that was killed while it changed files; see `account_beside`."""
    return _cut_off("killed", lambda guest: os.kill(guest.pid, signal.SIGKILL))


def copied() -> Path:
    """A copy of the disk of a guest that stood still for a moment while it changed files; see
    `account_beside`.
    """
    return _cut_off("copied", None)


def realtime() -> Path:
    """The data device of a filesystem whose files are on another one."""

    def make(target: Path) -> None:
        target.mkdir()
        disk, other = target / "disk.img", target / "realtime.img"
        for path in (disk, other):
            with open(path, "wb") as file:
                file.truncate(xfs.SIZE)
        options = ("-m", "reflink=0", "-d", "rtinherit=1", "-r", f"rtdev={other}")
        xfs.run(program("mkfs.xfs", "xfsprogs"), "-q", *options, str(disk))
        with _guest(disk, other) as guest:
            guest.run("mkdir /mnt && mount -t xfs -o rtdev=/dev/vdc /dev/vdb /mnt")
            guest.run("echo content > /mnt/file; mkdir /mnt/folder; ln -s file /mnt/link; umount /mnt")

    return made_once(root() / "xfs" / f"realtime-{_KEY}", make) / "disk.img"


@contextmanager
def _guest(*disks: Path) -> Iterator[Guest]:
    """A guest with Python in it; the disks are /dev/vdb and on."""
    archive = disks[0].with_name("python.tar")
    archive.write_bytes(packed_programs(_PYTHON, program("xfs_io", "xfsprogs")))
    with tarfile.open(archive, "a") as packed:
        version = os.path.realpath(_PYTHON).removeprefix("/usr/bin/")
        library = Path("/usr/lib") / version
        for path in sorted(library.rglob("*")):
            if path.is_file() and not {"test", "__pycache__", "site-packages"} & set(path.parts):
                packed.add(path, arcname=str(path).lstrip("/"))
        for extension in (library / "lib-dynload").glob("*.so"):
            for name, data in _libraries(str(extension)):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), 0o755
                packed.addfile(entry, io.BytesIO(data))
        for script in (xfs_files.__file__, xfs_churn.__file__, kernel_account.__file__):
            packed.add(script, arcname=Path(script).name)
    drives = []
    for disk in (archive, *disks):
        drives += ["-drive", f"file={disk},format=raw,if=virtio,cache=writeback,discard=unmap"]
    try:
        with Guest(
            _KERNEL, monitor=True, direct=True, setup="", modules=_MODULES, memory_mib=768, args=drives
        ) as guest:
            guest.run("tar x -C / -f /dev/vda && mkdir -p /tmp", timeout=200)
            yield guest
    finally:
        archive.unlink()


def _libraries(path: str) -> Iterator[tuple[str, bytes]]:
    """The libraries that a shared object loads."""
    with tarfile.open(fileobj=io.BytesIO(packed_programs(path))) as packed:
        for member in packed.getmembers():
            file = packed.extractfile(member)
            if file is not None and not member.name.endswith(".so"):
                yield member.name, file.read()


def _make(target: Path) -> None:
    target.mkdir()
    working = []
    for name, options in VARIANTS.items():
        made = xfs.new_image(target / name, *options)
        made.rename(target / f"{name}.work")
        (target / name).rmdir()
        working.append(target / f"{name}.work")
    with _guest(*working) as guest:
        guest.run("mkdir /mnt")
        for index, name in enumerate(VARIANTS):
            device = f"/dev/vd{'bcdefghijklm'[index]}"
            guest.run(f"mount -t xfs {device} /mnt", timeout=100)
            populate = f"{_PYTHON} /xfs_files.py populate /mnt"
            if name == "v4-shut-down":
                guest.run(f"{populate} && umount /mnt && mount -t xfs {device} /mnt", timeout=400)
                guest.run("cp -r /mnt/names /mnt/again && rm -r /mnt/directories/with-400 && sync")
                guest.run(
                    "cp -r /mnt/nodes /mnt/more; mv /mnt/sizes /mnt/again; xfs_io -x -c 'shutdown -f' /mnt"
                )
            else:
                guest.run(populate, timeout=400)
            guest.run("umount /mnt", timeout=100)
            xfs.run("cp", "--sparse=always", str(target / f"{name}.work"), str(target / f"{name}.img"))
            guest.run(f"mount -t xfs -o noatime {device} /mnt", timeout=100)
            guest.run(f"{_PYTHON} /kernel_account.py /mnt /account.json && umount /mnt", timeout=400)
            (target / f"{name}.json").write_text(guest.run("cat /account.json", timeout=100))
    for path in working:
        path.unlink()


def _cut_off(name: str, end: Callable[[Guest], None] | None) -> Path:
    xfs.need_mounts()

    def make(target: Path) -> None:
        work = xfs.new_image(target, "-b", "size=1024", "-m", "rmapbt=1").rename(target / "work.img")
        with _guest(work) as guest:
            guest.run("mkdir /mnt && mount -t xfs /dev/vdb /mnt")
            guest.run(f"{_PYTHON} /xfs_churn.py /mnt </dev/null >/dev/null 2>&1 &")
            guest.run("until test -e /mnt/churn-2; do sleep 1; done; sleep 3", timeout=300)
            if end:
                end(guest)
                time.sleep(1)
            else:
                with guest.paused():
                    xfs.run("cp", "--sparse=always", str(work), str(target / "disk.img"))
        if end:
            shutil.move(work, target / "disk.img")
        else:
            work.unlink()
        xfs.keep_account(target / "disk.img", target)

    folder = made_once(root() / "xfs" / f"{name}-{_KEY}", make)
    return folder / "disk.img"


def account_beside(disk: Path) -> xfs.Image:
    """What the host's kernel made of the disk of `killed` or `copied`, after its own recovery."""
    account = json.loads(disk.with_name("account.json").read_text())
    return xfs.Image(disk, account["usage"], account["files"])
