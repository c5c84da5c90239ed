"""XFS images made by the real mkfs.xfs and filled through a kernel's own mount.

`image(name)` gives one of `VARIANTS` with the kernel's account of it (see `kernel_account`). UUIDs are fixed;
images are sparse and kept below the lab's folder, keyed by the content of the recipes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.cache import made_once, program, root
from tests.recipes import kernel_account, xfs_files
from tests.recipes.kernel_account import account_of

UUID = "5f2c1d7e-93a4-4c1b-8a60-1b7d5e2f9c34"
LABEL = "größe"

_FIRST_UUID = "0b9e6c52-2f4d-4f0e-9f6e-7a1c3d5b8e20"

VARIANTS: dict[str, tuple[str, ...]] = {
    "v5": (),
    "v5-1k": ("-b", "size=1024"),
    "v5-2k-large-inodes": ("-b", "size=2048", "-i", "size=1024"),
    "v5-large-directories": ("-n", "size=65536"),
    "v5-1k-large-directories": ("-b", "size=1024", "-n", "size=8192"),
    "v5-rmapbt": ("-m", "rmapbt=1,reflink=1"),
    "v5-plain": ("-m", "crc=1,finobt=0,rmapbt=0,reflink=0,bigtime=0,inobtcount=0", "-i", "sparse=0"),
    "v5-uncounted": ("-m", "inobtcount=0,bigtime=0,rmapbt=1"),
    "v5-large-counts": ("-i", "nrext64=1"),
    "v5-many-groups": ("-d", "agcount=20,size=2g", "-m", "rmapbt=1"),
    "v5-4k-sectors": ("-s", "size=4096", "-i", "maxpct=3,size=2048"),
    "v5-striped": ("-d", "su=64k,sw=4,size=2g", "-l", "su=64k"),
    "v5-16k": ("-b", "size=16384", "-i", "maxpct=0"),
}
"""Options of mkfs.xfs, for kernels that know version 5."""

SIZE = 512 << 20

_KEY = hashlib.sha256(
    b"".join(Path(path).read_bytes() for path in (__file__, xfs_files.__file__, kernel_account.__file__))
).hexdigest()[:12]


@dataclass(frozen=True)
class Image:
    """An image and what the kernel says of it.

    Attributes:
        path: of the raw image.
        usage: f_bsize, f_blocks, f_bfree, f_bavail, f_files, f_ffree.
        files: by path from the root ("" is the root itself), what `kernel_account.account_of` says.
    """

    path: Path
    usage: list[int]
    files: dict[str, dict[str, Any]]


def image(name: str) -> Image:
    """An image of `VARIANTS`; skips the test where the host cannot mount it."""

    def make(target: Path) -> None:
        path = new_image(target, *VARIANTS[name])
        with mounted(path) as top:
            xfs_files.populate(top)
        keep_account(path, target)

    return kept(name, make)


def kept(name: str, make: Callable[[Path], None]) -> Image:
    """The image that `make` made in a folder, once."""
    need_mounts()
    folder = made_once(root() / "xfs" / f"{name}-{_KEY}", make)
    account = json.loads((folder / "account.json").read_text())
    return Image(folder / "disk.img", account["usage"], account["files"])


def special(name: str) -> Image:
    """An image of `SPECIAL`."""
    return kept(name, lambda target: SPECIAL[name](target))


def _sparse_inodes(target: Path) -> None:
    path = new_image(target, "-d", "agcount=2")
    with mounted(path) as top:
        xfs_files.fragment(top)
    keep_account(path, target)


def _full(target: Path) -> None:
    path = new_image(target, "-m", "rmapbt=1")
    with mounted(path) as top, contextlib.suppress(OSError), open(top / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    keep_account(path, target)


def _grown(target: Path) -> None:
    path = new_image(target)
    with open(path, "r+b") as file:
        file.truncate(3 * SIZE // 2 + 12_345_678)
    with mounted(path) as top:
        run(program("xfs_growfs", "xfsprogs"), str(top))
        xfs_files.populate(top)
    keep_account(path, target)


def _renamed(target: Path) -> None:
    path = new_image(target, "-m", f"uuid={_FIRST_UUID}")
    with mounted(path) as top:
        xfs_files.populate(top)
    run(program("xfs_admin", "xfsprogs"), "-U", UUID, str(path))
    keep_account(path, target)


def _shut_down(*options: str) -> Callable[[Path], None]:
    """A filesystem that ended at once, with changes in its log."""

    def make(target: Path) -> None:
        path = new_image(target, *options)
        with mounted(path) as top:
            (top / "before").mkdir()
            xfs_files.populate(top / "before")
        with mounted(path) as top:
            # Without shared blocks: what is kept for copying them is free again after a mount.
            xfs_files.populate(top, shared=False)
            xfs_files.sync(top)
            (top / "names" / "new").write_bytes(b"new")
            run("rm", "-rf", str(top / "before" / "directories"), str(top / "directories" / "with-3000"))
            run("cp", "-r", str(top / "names"), str(top / "again"))
            _settle(top)
            run(program("xfs_io", "xfsprogs"), "-x", "-c", "shutdown -f", str(top))
        keep_account(path, target)

    return make


_INTERNAL_INODES = 2
"""Of the realtime bitmap and its summary, which are there always and have no names."""

_SETTLED_WITHIN_SECONDS = 300


def _settle(top: Path) -> None:
    """Wait until the inodes of files that were removed are free: the kernel does that in the background, and
    its recovery does what was left to do.
    """
    start = os.fsencode(top)
    named = {os.lstat(start).st_ino}
    for folder, folders, names in os.walk(start):
        named |= {os.lstat(os.path.join(folder, name)).st_ino for name in (*folders, *names)}
    deadline = time.monotonic() + _SETTLED_WITHIN_SECONDS
    while (found := os.statvfs(top)).f_files - found.f_ffree != len(named) + _INTERNAL_INODES:
        if time.monotonic() > deadline:
            used = found.f_files - found.f_ffree
            raise RuntimeError(f"{used} inodes are in use, {len(named)} of them have a name")
        time.sleep(0.05)


def _wrapped(target: Path) -> None:
    """A log whose newest part is at the beginning of its ring, the oldest that matters at the end."""
    path = new_image(target)
    with mounted(path) as top:
        xfs_files.populate(top, shared=False)
        files = [
            top / "directories" / "with-3000" / name for name in os.listdir(top / "directories/with-3000")
        ]
        device = os.path.basename(run("findmnt", "-n", "-o", "SOURCE", str(top)).strip())
        log = Path(f"/sys/fs/xfs/{device}/log")
        for index in range(1000):
            for file in files:
                os.utime(file, (index, index))
            xfs_files.sync(top)
            head, tail = ((log / f"log_{end}_lsn").read_text().split(":")[0] for end in ("head", "tail"))
            if head != tail:
                break
        _settle(top)
        run(program("xfs_io", "xfsprogs"), "-x", "-c", "shutdown -f", str(top))
    keep_account(path, target)


def small(name: str) -> Path:
    """A small image for changing bytes of it: "clean", or "dirty" with changes in its log."""

    def make(target: Path) -> None:
        path = new_image(target, "-b", "size=1024", "-d", "agcount=4")
        with mounted(path) as top:
            xfs_files.few(top)
            if name == "dirty":
                run(program("xfs_io", "xfsprogs"), "-x", "-c", "shutdown -f", str(top))
        (target / "account.json").write_text('{"usage": [], "files": {}}')

    return kept(f"small-{name}", make).path


SPECIAL: dict[str, Callable[[Path], None]] = {
    "sparse-inodes": _sparse_inodes,
    "full": _full,
    "grown": _grown,
    "renamed": _renamed,
    "shut-down": _shut_down("-m", "rmapbt=1"),
    "shut-down-1k": _shut_down("-b", "size=1024", "-n", "size=4096", "-d", "agcount=7"),
    "shut-down-plain": _shut_down("-m", "finobt=0,rmapbt=0,reflink=0,bigtime=0,inobtcount=0"),
    "wrapped": _wrapped,
    "shut-down-striped": _shut_down("-l", "su=256k", "-i", "nrext64=1"),
}
"""Images with a history."""


def need_mounts() -> None:
    """Skips the test unless this process may mount XFS."""
    if os.geteuid():
        pytest.skip("hardware: mounting images takes root")
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("hardware: mounting images takes loop devices")
    if (
        "\txfs\n" not in Path("/proc/filesystems").read_text()
        and subprocess.run(["modprobe", "xfs"], capture_output=True, check=False).returncode
    ):
        pytest.skip("hardware: this kernel has no XFS")


def new_image(folder: Path, *options: str, size: int = SIZE) -> Path:
    """A new filesystem in `folder`, which is made."""
    folder.mkdir()
    path = folder / "disk.img"
    with open(path, "wb") as file:
        file.truncate(2 << 30 if any("size=2g" in option for option in options) else size)
    uuid = () if any("uuid=" in option for option in options) else ("-m", f"uuid={UUID}")
    run(program("mkfs.xfs", "xfsprogs"), "-q", "-L", LABEL, *uuid, *options, str(path))
    return path


@contextlib.contextmanager
def mounted(path: Path, options: str = "") -> Iterator[Path]:
    """The image's files, by the host's kernel."""
    with tempfile.TemporaryDirectory() as folder:
        run("mount", "-t", "xfs", "-o", f"loop,nouuid,{options}".rstrip(","), str(path), folder)
        try:
            yield Path(folder)
        finally:
            run("umount", folder)


def keep_account(path: Path, target: Path) -> None:
    """Write what the kernel says of an image when it is mounted; on a copy, as mounting changes it."""
    copy = target / "copy.img"
    run("cp", "--sparse=always", str(path), str(copy))
    with mounted(copy, "noatime") as top:
        (target / "account.json").write_text(json.dumps(account_of(top)))
    copy.unlink()


def run(*words: str) -> str:
    """The output of a command.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    found = subprocess.run(words, capture_output=True, text=True, errors="surrogateescape", check=False)
    if found.returncode:
        raise RuntimeError(f"{' '.join(words)}: {found.stderr or found.stdout}")
    return found.stdout
