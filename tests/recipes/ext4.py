"""ext2, ext3 and ext4 images made by the real mke2fs and filled through the host kernel's own mount.

`image(name)` gives one of `VARIANTS` with the kernel's account of it: what statvfs and, for every file,
lstat, getxattr, readlink and a hash say once it is mounted again, read-only. `small(name)` gives tiny ones to
damage, `crashed(name)` one that was copied while it was mounted, with the kernel's account of its recovery.
UUIDs and hash seeds are fixed; images are sparse and kept below the lab's folder, keyed by the
content of the recipes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import random
import socket
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.cache import made_once, root
from tests.recipes import kernel_account
from tests.recipes.kernel_account import account_of, flags_of

UUID = "3e6f4a3c-11b5-4c6d-9c8e-2f6b1c0de4f5"
HASH_SEED = "8d1f7b40-7d2c-4a5e-8f5b-0b9a4b1e2c3d"
LABEL = "résumé"

_SETFLAGS = 0x40086602
_GETFLAGS = 0x80086601
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE = 1, 2

_OLD = "^sparse_super,^filetype,^large_file,^resize_inode,^dir_index"

VARIANTS: dict[str, tuple[str, ...]] = {
    "ext2-1k": ("64M", "-t", "ext2", "-b", "1024", "-I", "128"),
    "ext2-4k": ("64M", "-t", "ext2", "-b", "4096"),
    "ext2-old": ("64M", "-t", "ext2", "-b", "1024", "-I", "128", "-O", _OLD),
    "ext3-1k": ("64M", "-t", "ext3", "-b", "1024", "-I", "128"),
    "ext3-2k": ("64M", "-t", "ext3", "-b", "2048"),
    "ext4-1k": ("64M", "-t", "ext4", "-b", "1024"),
    "ext4-2k": ("64M", "-t", "ext4", "-b", "2048", "-O", "metadata_csum_seed"),
    "ext4-4k": ("128M", "-t", "ext4", "-b", "4096"),
    "ext4-many-groups": ("600M", "-t", "ext4", "-b", "1024", "-g", "1024", "-N", "8000"),
    "ext4-narrow": ("64M", "-t", "ext4", "-b", "4096", "-O", "^64bit,^metadata_csum,uninit_bg,^flex_bg"),
    "ext4-block-maps": ("64M", "-t", "ext4", "-b", "1024", "-O", "^extents,^64bit"),
    "ext4-no-journal": ("64M", "-t", "ext4", "-b", "4096", "-O", "^has_journal"),
    "ext4-inline": ("64M", "-t", "ext4", "-b", "4096", "-O", "inline_data"),
    "ext4-inline-1k": ("64M", "-t", "ext4", "-b", "1024", "-I", "1024", "-O", "inline_data"),
    "ext4-bigalloc": ("128M", "-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "65536"),
    "ext4-bigalloc-1k": ("128M", "-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "8192"),
    "ext4-meta-bg": ("300M", "-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"),
    "ext4-meta-bg-32": ("300M", "-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode,^64bit"),
    "ext4-sparse-super2": ("64M", "-t", "ext4", "-b", "1024", "-O", "sparse_super2"),
    "ext4-no-types": ("64M", "-t", "ext4", "-b", "4096", "-O", "^filetype"),
    "ext4-ea-inode": ("64M", "-t", "ext4", "-b", "4096", "-O", "ea_inode,large_dir"),
    "ext4-orphan-file": ("64M", "-t", "ext4", "-b", "4096", "-O", "orphan_file"),
    "ext4-verity": ("64M", "-t", "ext4", "-b", "4096", "-O", "verity,stable_inodes,mmp", "-b", "4096"),
}
"""Size and options of mke2fs."""


SMALL: dict[str, tuple[str, ...]] = {
    "ext2": ("2M", "-t", "ext2", "-b", "1024", "-N", "128"),
    "ext4": ("4M", "-t", "ext4", "-b", "1024", "-N", "128", "-O", "inline_data,ea_inode"),
    "ext4-dirty": ("6M", "-t", "ext4", "-b", "1024", "-N", "128", "-J", "size=1"),
}
"""The same of images to damage; the last is copied while mounted, with most of it in its journal only."""

CRASHED: dict[str, tuple[tuple[str, ...], str]] = {
    "checksums-3": (("100M", "-t", "ext4", "-b", "1024"), ""),
    "no-checksums": (("100M", "-t", "ext4", "-b", "4096", "-O", "^metadata_csum,^64bit"), ""),
    "checksums-1": (("100M", "-t", "ext4", "-b", "4096", "-O", "^metadata_csum"), "journal_checksum"),
    "async-commit": (("100M", "-t", "ext4", "-b", "1024"), "journal_async_commit,data=writeback"),
    "ext3": (("100M", "-t", "ext3", "-b", "1024"), ""),
    "data-journal": (("100M", "-t", "ext4", "-b", "1024"), "data=journal"),
    "small-journal": (("100M", "-t", "ext4", "-b", "1024", "-J", "size=1"), ""),
}
"""Size and options of mke2fs, and options of mount."""


@dataclass(frozen=True)
class Image:
    """An image and what the kernel says of it.

    Attributes:
        path: of the raw image.
        usage: f_bsize, f_blocks, f_bfree, f_bavail, f_files, f_ffree.
        files: by path from the root ("" is the root itself), what `account` says.
    """

    path: Path
    usage: list[int]
    files: dict[str, dict[str, Any]]


def image(name: str) -> Image:
    """An image of `VARIANTS`; skips the test where the host cannot mount it."""
    folder = kept(name, lambda target: _make(name, target))
    return load(folder)


def small(name: str) -> Path:
    """An image of `SMALL`."""
    return kept(f"small-{name}", lambda target: _make_small(name, target)) / "disk.img"


def crashed(name: str) -> Image:
    """An image of `CRASHED`, and what the kernel says after it has recovered a copy of it."""
    return load(kept(f"crashed-{name}", lambda target: _make_crashed(name, target)))


def encrypted(unsigned: bool = False) -> Image:
    """An image with an encrypted directory, and what the kernel says without the key.

    Args:
        unsigned: whether names are hashed as on machines where bytes are unsigned.
    """
    name = "encrypted-unsigned" if unsigned else "encrypted"
    return load(kept(name, lambda target: _make_encrypted(target, unsigned)))


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of this recipe, filled by `make` once."""
    need_mounts()
    recipe = Path(__file__).read_bytes() + Path(kernel_account.__file__).read_bytes()
    key = hashlib.sha256(recipe).hexdigest()[:12]
    return made_once(root() / "ext4" / f"{name}-{key}", make)


def load(folder: Path) -> Image:
    """The image in a folder that `keep_account` has written to."""
    account = json.loads((folder / "account.json").read_text())
    return Image(folder / "disk.img", account["usage"], account["files"])


def need_mounts() -> None:
    """Skips the test unless this process may mount images."""
    if os.geteuid():
        pytest.skip("hardware: mounting images takes root")
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("hardware: mounting images takes loop devices")


def format_image(path: Path, size: str, *options: str) -> None:
    """Make a filesystem in a new sparse file."""
    run("truncate", "-s", size, str(path))
    extended = f"hash_seed={HASH_SEED}"
    run("mke2fs", "-q", "-F", "-U", UUID, "-L", LABEL, "-E", extended, *options, str(path))


@contextlib.contextmanager
def mounted(path: Path, options: str = "") -> Iterator[Path]:
    """The image's files, by the host's kernel."""
    with tempfile.TemporaryDirectory() as folder:
        run("mount", "-o", f"loop,{options}".rstrip(","), str(path), folder)
        try:
            yield Path(folder)
        finally:
            run("umount", folder)


def keep_account(path: Path, target: Path) -> None:
    """Write what the kernel says of an image; it is mounted read-only, so nothing changes."""
    with mounted(path, "ro,noatime") as top:
        (target / "account.json").write_text(json.dumps(account_of(top, flags=True)))


def run(*words: str) -> str:
    """The output of a command.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    found = subprocess.run(words, capture_output=True, text=True, errors="surrogateescape", check=False)
    if found.returncode:
        raise RuntimeError(f"{' '.join(words)}: {found.stderr or found.stdout}")
    return found.stdout


def _make(name: str, target: Path) -> None:
    target.mkdir()
    path = target / "disk.img"
    size, *options = VARIANTS[name]
    format_image(path, size, *options)
    with mounted(path) as top:
        populate(top)
    keep_account(path, target)


def _make_small(name: str, target: Path) -> None:
    target.mkdir()
    path = target / "disk.img"
    size, *options = SMALL[name]
    format_image(path, size, *options)
    with mounted(path) as top:
        (top / "many").mkdir()
        for index in range(50):
            (top / "many" / f"a-file-with-a-name-of-some-length-{index}").write_bytes(b"%d" % index)
        (top / "many" / "name").symlink_to("/many" * 30)
        (top / "many" / "short").symlink_to("..")
        with open(top / "scattered", "wb") as file:
            for index in range(60):
                file.seek(index * 3000)
                file.write(b"x")
        with contextlib.suppress(OSError):
            os.setxattr(top / "scattered", "user.large", bytes(700))
            os.setxattr(top / "scattered", "user.in-an-inode", bytes(3000))
        _inline_directories(top / "inline")
        if name.endswith("dirty"):
            _synchronize(top)
            _copy(path, target / "copy.img")
    if name.endswith("dirty"):
        (target / "copy.img").rename(path)


def fast_committed() -> Image:
    """An image with fast commits in its journal, and what the kernel says after its recovery of a copy."""
    return load(kept("fast-committed", _make_fast_committed))


def _make_fast_committed(target: Path) -> None:
    target.mkdir()
    path = target / "disk.img"
    options = ("-b", "1024", "-O", "fast_commit", "-J", "fast_commit_size=256")
    format_image(path, "100M", "-t", "ext4", *options)
    with mounted(path) as top:
        folder = top / "d"
        folder.mkdir()
        for index in range(100):
            (folder / f"old-{index}").write_bytes(_words(index, index * 100))
        for name, size in (("grows", 5000), ("scattered", 1024), ("shrinks", 100_000), ("punched", 50_000)):
            (top / name).write_bytes(_words(size, size))
        os.sync()
        _synchronize(top)
        _write(folder / "new-1", 0, _words(1, 10_000))
        _write(top / "grows", 5000, _words(2, 50_000))
        for index in range(30):
            _write(top / "scattered", index * 4096, _words(index, 1024))
        _write(top / "shrinks", 0, b"short", 3000)
        os.link(folder / "old-50", folder / "linked")
        _write(folder / "old-50", 0, b"linked")
        (folder / "old-1").unlink()
        (folder / "old-99").unlink()
        _write(folder / "new-2", 0, _words(3, 3000))
        (folder / "old-7").rename(folder / "renamed")
        _write(folder / "renamed", 0, b"renamed")
        (folder / "never-committed").write_bytes(b"lost")
        _copy(path, target / "copy.img")
    (target / "copy.img").rename(path)
    _recover(path, target)


def _write(path: Path, offset: int, data: bytes, size: int | None = None) -> None:
    """Change a file and have the change committed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    os.pwrite(descriptor, data, offset)
    if size is not None:
        os.ftruncate(descriptor, size)
    os.fsync(descriptor)
    os.close(descriptor)


def _recover(path: Path, target: Path) -> None:
    """Keep what the kernel says of an image once it has recovered a copy of it."""
    recovered = target / "recovered.img"
    _copy(path, recovered)
    with mounted(recovered):
        pass
    keep_account(recovered, target)
    recovered.unlink()


_ADD_ENCRYPTION_KEY = 0xC0506617
_SET_ENCRYPTION_POLICY = 0x800C6613
_AES_256_XTS, _AES_256_CTS, _PADDED_TO_32 = 1, 4, 3


def _make_encrypted(target: Path, unsigned: bool) -> None:
    target.mkdir()
    path = target / "disk.img"
    format_image(path, "32M", "-t", "ext4", "-b", "1024", "-O", "encrypt")
    if unsigned:
        run("debugfs", "-w", "-R", "set_super_value flags 2", str(path))
    with mounted(path) as top:
        descriptor = os.open(top, os.O_RDONLY)
        asked = bytearray(struct.pack("<II32xII32x", 2, 0, 64, 0) + _words(99, 64))
        try:
            fcntl.ioctl(descriptor, _ADD_ENCRYPTION_KEY, asked)
        except OSError as error:
            pytest.skip(f"hardware: this kernel cannot encrypt files: {error}")
        finally:
            os.close(descriptor)
        for name in ("large", "one-block"):
            (top / name).mkdir()
            descriptor = os.open(top / name, os.O_RDONLY)
            policy = struct.pack("<BBBB4x", 2, _AES_256_XTS, _AES_256_CTS, _PADDED_TO_32) + asked[8:24]
            fcntl.ioctl(descriptor, _SET_ENCRYPTION_POLICY, policy)
            os.close(descriptor)
        for index in range(100):
            (top / "large" / f"{index}-{'z' * (index * 2)}").write_bytes(b"secret" * index)
        (top / "one-block" / "directory").mkdir()
        (top / "one-block" / "directory" / "file").write_bytes(b"secret")
        (top / "one-block" / "link").symlink_to("file")
        (top / "one-block" / "long-link").symlink_to("file/" * 40)
        (top / "plain").write_bytes(b"not secret")
    keep_account(path, target)


def _make_crashed(name: str, target: Path) -> None:
    target.mkdir()
    path = target / "disk.img"
    options, how = CRASHED[name]
    format_image(path, *options)
    with mounted(path, how) as top:
        for word in ("first", "second", "third"):
            # Blocks that become free and are used for something else are what revoke records are for.
            (top / word).mkdir()
            for index in range(400):
                (top / word / f"{index}-{'y' * (index % 90)}").write_bytes(b"%d\n" % index)
            _synchronize(top)
            for index in range(0, 400, 2):
                (top / word / f"{index}-{'y' * (index % 90)}").unlink()
            if word == "second":
                run("rm", "-r", str(top / "first"))
            with open(top / f"{word}-data", "wb") as file:
                for index in range(200):
                    file.seek(index * 6000)
                    # In data journals, a block that begins like one of the journal's own is escaped.
                    file.write(bytes.fromhex("c03b3998") * 600)
            os.setxattr(top / word, "user.word", word.encode() * 30)
            _synchronize(top)
        (top / "never-synchronized").write_bytes(b"lost")
        _copy(path, target / "copy.img")
    (target / "copy.img").rename(path)
    _recover(path, target)


def _synchronize(top: Path) -> None:
    # Commits what happened so far to the journal; sync(1) would also bring it to its place.
    descriptor = os.open(top, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _copy(path: Path, target: Path) -> None:
    run("cp", "--sparse=always", str(path), str(target))


def populate(top: Path) -> None:
    """Fill a mounted filesystem with one of everything that it can hold."""
    _sizes(top / "sizes")
    _scattered(top / "scattered")
    _many(top / "many")
    _names(top / "names")
    _links_and_nodes(top / "nodes")
    _attributes(top / "attributes")
    _metadata(top / "metadata")
    _inline_directories(top / "small")


def _words(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _sizes(folder: Path) -> None:
    folder.mkdir()
    for size in (
        0,
        1,
        59,
        60,
        61,
        100,
        130,
        150,
        160,
        800,
        900,
        1000,
        1023,
        1024,
        1025,
        4095,
        4096,
        4097,
        300_001,
    ):
        (folder / str(size)).write_bytes(_words(size, size))


def _scattered(folder: Path) -> None:
    folder.mkdir()
    with open(folder / "every-second-block", "wb") as file:
        for index in range(700):
            file.seek(index * 8192)
            file.write(_words(index, 4096))
    with open(folder / "far", "wb") as file:
        # On a block map of 1 KiB blocks: direct, single, double and triple indirect.
        for offset in (0, 13_000, 300_000, 70_000_000, 150_000_123):
            with contextlib.suppress(OSError):  # ext2 without large_file may not have so large files
                file.seek(offset)
                file.write(_words(offset, 5000))
                file.flush()
    with contextlib.suppress(OSError), open(folder / "larger-than-4-gib", "wb") as file:
        file.seek(6 << 30)
        file.write(_words(7, 5000))
    with open(folder / "only-a-hole", "wb") as file:
        file.truncate(5_000_000)
    with open(folder / "ends-with-a-hole", "wb") as file:
        file.write(b"begin")
        file.truncate(1_000_001)
    with open(folder / "shrunk", "wb") as file:
        file.write(_words(3, 500_000))
        file.flush()
        os.fsync(file.fileno())
        file.truncate(123_456)
    for name, mode in (("unwritten", 0), ("beyond-its-end", _FALLOC_KEEP_SIZE)):
        with open(folder / name, "wb") as file:
            file.write(_words(5, 20_000))
            file.flush()
            _fallocate(file.fileno(), mode, 8192, 1_000_000)
            file.seek(400_000)
            file.write(b"in the middle")
    with open(folder / "punched", "wb") as file:
        file.write(_words(6, 600_000))
        file.flush()
        _fallocate(file.fileno(), _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE, 65_536, 131_072)


def _fallocate(descriptor: int, mode: int, offset: int, size: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    # Filesystems without extents refuse; then there is simply no such file.
    libc.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(size))


def _many(folder: Path) -> None:
    folder.mkdir()
    for index in range(1200):
        (folder / f"file-{index:05}-{'x' * (index % 60)}").write_bytes(b"%d\n" % index)
    for index in range(0, 1200, 3):
        (folder / f"file-{index:05}-{'x' * (index % 60)}").unlink()
    deep = folder / "deep"
    for _ in range(20):
        deep = deep / "d"
    deep.mkdir(parents=True)


def _names(folder: Path) -> None:
    folder.mkdir()
    for name in (
        b"n" * 255,
        b"new\nline",
        b"\x1b[31mred",
        b"\xff\xfe not UTF-8",
        "größe".encode(),
        b"-rf",
        b" ",
    ):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(name)


def _links_and_nodes(folder: Path) -> None:
    folder.mkdir()
    for length in (1, 58, 59, 60, 61, 100, 155, 1000):
        (folder / f"link-{length}").symlink_to("t" * length)
    (folder / "absolute").symlink_to("/sizes/100")
    (folder / "hard").write_bytes(b"hard")
    os.link(folder / "hard", folder / "hard-too")
    os.mkfifo(folder / "fifo", 0o640)
    for name, major, minor in (
        ("null", 1, 3),
        ("old-end", 255, 255),
        ("new-minor", 8, 256),
        ("new", 4095, 1048575),
    ):
        os.mknod(folder / f"character-{name}", 0o600 | stat.S_IFCHR, os.makedev(major, minor))
        os.mknod(folder / f"block-{name}", 0o660 | stat.S_IFBLK, os.makedev(major, minor))
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)
        server.bind("socket")
        os.chdir(here)


def _attributes(folder: Path) -> None:
    folder.mkdir()
    for name, pairs in {
        "one": {"user.comment": b"hello"},
        "empty": {"user.empty": b""},
        "several": {f"user.name{index}": _words(index, index * 7) for index in range(12)},
        "of-all-kinds": {
            "user.x": b"1",
            "trusted.y": b"\0\1\2",
            "security.other": b"label\0",
            "security.capability": bytes.fromhex("0100000200040000000000000000000000000000"),
        },
        "inside-and-outside": {"user.small": b"s", "user.medium": _words(1, 500)},
        "large": {"user.large": _words(2, 3000)},
        "larger": {"user.larger": _words(3, 20_000), "user.largest": _words(4, 65_536)},
    }.items():
        (folder / name).write_bytes(b"content of " + name.encode())
        for key, value in pairs.items():
            with contextlib.suppress(OSError):  # not all of them fit in every variant
                os.setxattr(folder / name, key, value)
    directory = folder / "directory"
    directory.mkdir()
    entries = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in (
            (0x01, 7, 0xFFFFFFFF),
            (0x02, 5, 1000),
            (0x02, 6, 70_000),
            (0x04, 5, 0xFFFFFFFF),
            (0x08, 4, 20),
            (0x10, 7, 0xFFFFFFFF),
            (0x20, 0, 0xFFFFFFFF),
        )
    )
    os.setxattr(directory, "system.posix_acl_default", entries)
    os.setxattr(directory, "system.posix_acl_access", entries)
    (directory / "inherits").write_bytes(b"")
    (folder / "link").symlink_to("one")
    os.setxattr(folder / "link", "trusted.of-a-link", b"yes", follow_symlinks=False)


def _metadata(folder: Path) -> None:
    folder.mkdir()
    for index, mode in enumerate((0o000, 0o4755, 0o2711, 0o1777, 0o644)):
        path = folder / f"mode-{mode:o}"
        path.write_bytes(b"m")
        os.chown(path, index * 40_000, index * 1_000_003)
        path.chmod(mode)
    for name, seconds in {
        "1901": -(2**31),
        "1969": -1,
        "1970": 0,
        "2037": 2**31 - 1,
        "2038": 2**31,
        "2106": 2**32 + 5,
        "2242": 2**33 + 2**31 - 1,
        "2446": 15_032_385_535,
    }.items():
        path = folder / f"year-{name}"
        path.write_bytes(b"t")
        os.utime(path, ns=(seconds * 10**9 + 123_456_789, seconds * 10**9 + 999_999_999))
    for name, flags in {
        "immutable": 0x10,
        "append-only": 0x20,
        "several": 0x40 | 0x80 | 0x8,
        "journaled": 0x4000,
    }.items():
        path = folder / f"flags-{name}"
        path.write_bytes(b"f")
        descriptor = os.open(path, os.O_RDONLY)
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, _SETFLAGS, struct.pack("<Q", flags | flags_of(os.fsencode(path))))
        os.close(descriptor)


def _inline_directories(folder: Path) -> None:
    folder.mkdir()
    for count in (0, 1, 3, 5, 8, 12, 20):
        inner = folder / f"with-{count}"
        inner.mkdir()
        for index in range(count):
            (inner / f"f{index}").write_bytes(b"" if index % 2 else b"%d" % index)
        for index in range(0, count, 4):
            (inner / f"f{index}").unlink()
