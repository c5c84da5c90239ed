"""Files of every kind that XFS keeps in a way of its own.

Runs on the host and in lab guests alike, so it needs nothing but the standard library:

    xfs_files.py populate FOLDER        fill a mounted filesystem
    xfs_files.py fragment FOLDER        leave it no free space in one piece, then make many files
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import socket
import stat
import struct
import sys
from pathlib import Path

_FSGETXATTR, _FSSETXATTR = 0x801C581F, 0x401C5820
_FICLONE, _FICLONERANGE = 0x40049409, 0x4020940D
_KEEP_SIZE, _PUNCH_HOLE = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


def populate(top: Path, *, shared: bool = True) -> None:
    """Fill a mounted filesystem with one of everything that it can hold."""
    _sizes(top / "sizes")
    _scattered(top / "scattered")
    if shared:
        _shared(top / "shared")
    _directories(top / "directories")
    _names(top / "names")
    _links_and_nodes(top / "nodes")
    _attributes(top / "attributes")
    _metadata(top / "metadata")


def few(top: Path) -> None:
    """Fill a mounted filesystem of small blocks with few files that still have every form."""
    for count in (3, 30, 130, 700):
        folder = top / f"with-{count}"
        folder.mkdir()
        (folder / "first").write_bytes(b"1")
        for index in range(1, count):
            os.link(folder / "first", folder / f"name-{index}")
    for count in (4, 300):
        with open(top / f"in-{count}-pieces", "wb") as file:
            for index in range(count):
                file.seek(index * 2048)
                file.write(_words(index, 100))
    for name, pairs in {
        "short": {"user.x": b"1", "trusted.y": b"2"},
        "leaf": {f"user.{index}": _words(index, 40) for index in range(10)},
        "node": {f"user.{index}": _words(index, 90) for index in range(60)},
        "remote": {"user.large": _words(1, 10_000)},
    }.items():
        (top / name).write_bytes(b"")
        for key, value in pairs.items():
            os.setxattr(top / name, key, value)
    (top / "link").symlink_to("t" * 50)
    (top / "long-link").symlink_to("t" * 1000)
    os.mknod(top / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))


def sync(top: Path) -> None:
    """Write everything of a mounted filesystem to its disk."""
    descriptor = os.open(top, os.O_RDONLY)
    _libc.syncfs(descriptor)
    os.close(descriptor)


def _words(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _sizes(folder: Path) -> None:
    folder.mkdir()
    for size in (0, 1, 100, 300, 511, 512, 513, 1023, 1024, 4095, 4096, 4097, 65_535, 300_001, 3_000_000):
        (folder / str(size)).write_bytes(_words(size, size))


def _scattered(folder: Path) -> None:
    folder.mkdir()
    block = max(os.statvfs(folder).f_bsize, 1024)
    for name, count in (("a-few", 5), ("tens", 30), ("hundreds", 700), ("thousands", 4000)):
        if block * 2 * count > 64 << 20:
            continue
        with open(folder / name, "wb") as file:
            for index in range(count):
                file.seek(index * 2 * block)
                file.write(_words(index, 100))
    with open(folder / "far", "wb") as file:
        for offset in (0, 13_000, 70_000_000, 4_200_000_123, 1 << 41):
            file.seek(offset)
            file.write(_words(offset, 5000))
            file.flush()
        file.truncate(70_000_000)
    with open(folder / "only-a-hole", "wb") as file:
        file.truncate(5_000_000)
    with open(folder / "ends-with-a-hole", "wb") as file:
        file.write(b"begin")
        file.truncate(1_000_001)
    for name, mode in (("unwritten", 0), ("beyond-its-end", _KEEP_SIZE)):
        with open(folder / name, "wb") as file:
            file.write(_words(5, 20_000))
            file.flush()
            _fallocate(file.fileno(), mode, 0, 1_000_000)
            file.seek(400_000)
            file.write(b"in the middle")
    with open(folder / "punched", "wb") as file:
        file.write(_words(6, 600_000))
        file.flush()
        _fallocate(file.fileno(), _KEEP_SIZE | _PUNCH_HOLE, 65_536, 131_072)


def _fallocate(descriptor: int, mode: int, offset: int, size: int) -> None:
    _libc.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(size))


def _shared(folder: Path) -> None:
    folder.mkdir()
    with open(folder / "original", "wb") as file:
        file.write(_words(9, 1_000_000))
    sync(folder)
    with open(folder / "original", "rb") as source:
        for name in ("whole", "changed", "part"):
            with open(folder / name, "wb") as file, contextlib.suppress(OSError):
                if name == "part":
                    request = struct.pack("<qQQQ", source.fileno(), 131_072, 262_144, 65_536)
                    fcntl.ioctl(file.fileno(), _FICLONERANGE, request)
                else:
                    fcntl.ioctl(file.fileno(), _FICLONE, source.fileno())
    with open(folder / "changed", "r+b") as file:
        for index in range(20):
            file.seek(index * 40_000)
            file.write(_words(index, 3000))


def _directories(folder: Path) -> None:
    folder.mkdir()
    for count in (0, 1, 3, 8, 20, 60, 150, 400, 3000):
        inner = folder / f"with-{count}"
        inner.mkdir()
        for index in range(count):
            path = inner / f"f{index:05}-{'x' * (index * 7 % 40)}"
            if index % 50 == 7:
                path.mkdir()
            else:
                os.link(folder / "linked", path) if index > 400 else path.write_bytes(b"%d" % index)
            if index == 0:
                (folder / "linked").unlink(missing_ok=True)
                os.link(path, folder / "linked")
        for index in range(0, count, 3):
            path = inner / f"f{index:05}-{'x' * (index * 7 % 40)}"
            if not path.is_dir():
                path.unlink()
    deep = folder / "deep"
    for _ in range(20):
        deep = deep / "d"
    deep.mkdir(parents=True)
    emptied = folder / "emptied"
    emptied.mkdir()
    for index in range(500):
        (emptied / f"gone-{index}").write_bytes(b"")
    for index in range(500):
        (emptied / f"gone-{index}").unlink()


def _names(folder: Path) -> None:
    folder.mkdir()
    for name in (
        b"n" * 255,
        b"new\nline",
        b"\x1b[31m",
        b"\xff\xfe not UTF-8",
        "größe".encode(),
        b"-rf",
        b" ",
    ):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(name)


def _links_and_nodes(folder: Path) -> None:
    folder.mkdir()
    for length in (1, 100, 156, 157, 300, 336, 337, 900, 1023):
        (folder / f"link-{length}").symlink_to("t" * length)
    (folder / "absolute").symlink_to("/sizes/100")
    os.mkfifo(folder / "fifo", 0o640)
    for name, major, minor in (("null", 1, 3), ("wide", 511, 262_143), ("new-minor", 8, 256)):
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
        "in-many-leaves": {f"user.attribute-{index:04}": _words(index, index % 200) for index in range(400)},
        "large": {"user.large": _words(2, 3000), "user.small": b"s"},
        "largest": {f"user.largest{index}": _words(index, 65_536 - index) for index in range(3)},
    }.items():
        (folder / name).write_bytes(b"content of " + name.encode())
        for key, value in pairs.items():
            os.setxattr(folder / name, key, value)
    for index in range(0, 400, 2):
        os.removexattr(folder / "in-many-leaves", f"user.attribute-{index:04}")
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
    directory = folder / "directory"
    directory.mkdir()
    os.setxattr(directory, "system.posix_acl_default", entries)
    os.setxattr(directory, "system.posix_acl_access", entries)
    (directory / "inherits").write_bytes(b"")
    for name, target in (("link", "one"), ("long-link", "t" * 700)):
        (folder / name).symlink_to(target)
        os.setxattr(folder / name, "trusted.of-a-link", b"yes" * 30, follow_symlinks=False)


def _metadata(folder: Path) -> None:
    folder.mkdir()
    for index, mode in enumerate((0o000, 0o4755, 0o2711, 0o1777, 0o644)):
        path = folder / f"mode-{mode:o}"
        path.write_bytes(b"m")
        os.chown(path, index * 40_000, index * 1_000_003)
        path.chmod(mode)
    for seconds in (-(2**31), -1, 0, 2**31 - 1, 2**31, 2**33, 16_299_260_425):
        path = folder / f"second-{seconds}"
        path.write_bytes(b"t")
        os.utime(path, ns=(seconds * 10**9 + 123_456_789, seconds * 10**9 + 999_999_999))
    for name, flags in {"immutable": 0x8, "append-only": 0x10, "several": 0x20 | 0x40 | 0x80}.items():
        path = folder / f"flags-{name}"
        path.write_bytes(b"f")
        with open(path, "rb") as file:
            wanted = bytearray(fcntl.ioctl(file.fileno(), _FSGETXATTR, bytes(28)))
            struct.pack_into("<I", wanted, 0, flags)
            fcntl.ioctl(file.fileno(), _FSSETXATTR, bytes(wanted))


def fragment(top: Path) -> None:
    """Leave no free space in one piece that is large enough for a chunk of inodes, then make many files.

    A chunk of 64 inodes of 512 bytes takes eight blocks of 4 KiB; half of one begins at a multiple of four
    blocks, which every hole of seven has inside.
    """
    block = os.statvfs(top).f_bsize
    step, hole = 16 * block, 7 * block
    with open(top / "filler", "wb") as file:
        size = os.statvfs(top).f_bavail * block
        while size > step and _libc.fallocate(file.fileno(), 0, ctypes.c_int64(0), ctypes.c_int64(size)):
            size -= 4 * step
        os.fsync(file.fileno())
        for offset in range(0, size, step):
            _fallocate(file.fileno(), _KEEP_SIZE | _PUNCH_HOLE, offset, hole)
    sync(top)
    # What was kept in reserve is free, too, and in one piece: large pieces are given away before small ones.
    with open(top / "rest", "wb") as file:
        _fallocate(file.fileno(), 0, 0, os.statvfs(top).f_bavail // 2 * block)
    sync(top)
    (top / "many").mkdir()
    with contextlib.suppress(OSError):
        for index in range(3000):
            (top / "many" / f"{index:05}").touch()


if __name__ == "__main__":
    {"populate": populate, "fragment": fragment}[sys.argv[1]](Path(sys.argv[2]))
