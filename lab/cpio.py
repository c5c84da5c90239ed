"""Writes cpio archives in the "newc" format that Linux unpacks as its initial root file system.

Specification: Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel.
"""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath


class CpioWriter:
    """Collects files, folders, links and devices; `data()` is the archive."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._names: set[str] = set()

    def folder(self, path: str, mode: int = 0o755) -> None:
        """Adds a folder, and those above it, unless already there."""
        for name in [*reversed(PurePosixPath(path).parents), PurePosixPath(path)]:
            if str(name) not in (".", "/") and str(name) not in self._names:
                self._entry(str(name), stat.S_IFDIR | mode, b"")

    def file(self, path: str, content: bytes | Path, mode: int = 0o644) -> None:
        """Adds a file with the content given, or with that of a file of the host."""
        self.folder(str(PurePosixPath(path).parent))
        self._entry(
            path, stat.S_IFREG | mode, content if isinstance(content, bytes) else content.read_bytes()
        )

    def symlink(self, path: str, target: str) -> None:
        """Adds a symbolic link."""
        self.folder(str(PurePosixPath(path).parent))
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Adds a character device."""
        self.folder(str(PurePosixPath(path).parent))
        self._entry(path, stat.S_IFCHR | mode, b"", major, minor)

    def data(self) -> bytes:
        """The whole archive, with its trailer."""
        return b"".join([*self._chunks, self._packed("TRAILER!!!", 0, 0, b"", 0, 0)])

    def __contains__(self, path: str) -> bool:
        return path in self._names

    def _entry(self, path: str, mode: int, content: bytes, major: int = 0, minor: int = 0) -> None:
        if path in self._names:
            raise ValueError(f"{path} is in the archive already")
        self._names.add(path)
        self._chunks.append(self._packed(path, len(self._names), mode, content, major, minor))

    @staticmethod
    def _packed(path: str, inode: int, mode: int, content: bytes, major: int, minor: int) -> bytes:
        name = path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        # inode, mode, uid, gid, links, mtime, size, dev major, minor, rdev major, minor, name size, check
        numbers = (inode, mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
