"""What a kernel says of mounted files: usage, and for every file lstat, statx, getxattr, readlink and a hash.

Runs on the host and in lab guests alike, so it needs nothing but the standard library:

    kernel_account.py FOLDER FILE    write it as JSON
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import stat
import struct
import sys
from pathlib import Path
from typing import Any

_SYS_STATX, _AT_SYMLINK_NOFOLLOW, _STATX_BTIME = 332, 0x100, 0x800
_GETFLAGS = 0x80086601

_libc = ctypes.CDLL(None, use_errno=True)


def account_of(top: Path, *, flags: bool = False) -> dict[str, Any]:
    """What the kernel says of a mounted filesystem.

    Args:
        top: where it is mounted.
        flags: whether to ask for the flags of files and directories, too (as chattr sets them).

    Returns:
        "usage" (f_bsize, f_blocks, f_bfree, f_bavail, f_files, f_ffree) and "files", by path from the root;
        "" is the root itself.
    """
    usage = os.statvfs(top)
    start = os.fsencode(top)
    files = {"": _account(start, flags)}
    for folder, folders, names in os.walk(start):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            files[os.fsdecode(os.path.relpath(path, start))] = _account(path, flags)
    wide = [usage.f_bsize, usage.f_blocks, usage.f_bfree, usage.f_bavail, usage.f_files, usage.f_ffree]
    return {"usage": wide, "files": files}


def hashed_from(size: int) -> int:
    """Where the hash of a file of that size begins: of huge ones, only the end is hashed."""
    return size - 9999 if size > 1 << 30 else 0


def _account(path: bytes, flags: bool) -> dict[str, Any]:
    found = os.lstat(path)
    row: dict[str, Any] = {
        "inode": found.st_ino,
        "mode": found.st_mode,
        "links": found.st_nlink,
        "uid": found.st_uid,
        "gid": found.st_gid,
        "size": found.st_size,
        "allocated": found.st_blocks * 512,
        "device": [os.major(found.st_rdev), os.minor(found.st_rdev)],
        "accessed": found.st_atime_ns,
        "modified": found.st_mtime_ns,
        "changed": found.st_ctime_ns,
        "created": _created(path),
        "xattrs": {
            name: os.getxattr(path, name, follow_symlinks=False).hex()
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        },
    }
    if stat.S_ISREG(found.st_mode):
        row["hash"] = _hash(path)
    if stat.S_ISLNK(found.st_mode):
        row["target"] = os.fsdecode(os.readlink(path))
    if flags and (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        row["flags"] = flags_of(path)
    return row


def _hash(path: bytes) -> str:
    digest = hashlib.sha1()
    try:
        with open(path, "rb") as file:
            file.seek(hashed_from(os.fstat(file.fileno()).st_size))
            while data := file.read(1 << 20):
                digest.update(data)
    except OSError as error:
        return f"errno {error.errno}"
    return digest.hexdigest()


def _created(path: bytes) -> int | None:
    """When a file was made, which Python's lstat does not know."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.syscall(_SYS_STATX, -100, path, _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, buffer):
        return None
    (mask,) = struct.unpack_from("<I", buffer)
    seconds, nanoseconds = struct.unpack_from("<qI", buffer, 80)
    return seconds * 10**9 + nanoseconds if mask & _STATX_BTIME else None


def flags_of(path: bytes) -> int:
    """The flags of a file or directory, as chattr sets them; 0 where there are none to be had."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # encrypted
        return 0
    try:
        value: int = struct.unpack("<I", fcntl.ioctl(descriptor, _GETFLAGS, bytes(8))[:4])[0]
        return value
    except OSError:
        return 0
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(account_of(Path(sys.argv[1]))))
