"""Directories: the entries of a block (`entries_of`), whatever else the block is for.

A directory is a file of blocks filled with entries, each of which says where the next one begins. The blocks
of a hash tree and the checksum at the end of a block look like entries without an inode, so a reader that
does not need the tree passes over them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from virtscope.bitmatch import pattern
from virtscope.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DirectoryEntry = pattern(
    "ext4_dir_entry_2",
    "little; inode : 32; rec_len : 16; name_len : 8; file_type : 8; name : bytes(name_len)",
)
"""An entry; the loop below reads its head with struct, as it runs for every name of every listing."""

HEAD = struct.Struct("<IHBB")
HEAD_SIZE = HEAD.size
_LARGE_BLOCK = 1 << 16
_MOST_DAMAGED_BLOCKS = 1000
_HASHES = struct.Struct("<II")
HASH_VERSION_OFFSET = 28
"""Where the root of a hash tree says which hash it uses (dx_root.info.hash_version)."""

KIND_OF_TYPE = (
    None,
    "file",
    "directory",
    "character device",
    "block device",
    "fifo",
    "socket",
    "symbolic link",
)
"""The words for file_type; the first is for filesystems that do not keep it."""


def entries_of(data: bytes, start: int, directory: int) -> Iterator[tuple[bytes, int, int, int]]:
    """The entries in a block of a directory, `.` and `..` among them, and names that no kernel would give.

    Args:
        data: the block.
        start: where in it entries begin (inline directories begin with something else).
        directory: its inode, for messages.

    Returns:
        Name, inode, file type, and the offset of the entry in the block.

    Raises:
        FormatError: an entry that reaches past the block, or holds less than its name.
    """
    unpack = HEAD.unpack_from
    end = len(data)
    position = start
    while position < end:
        if end - position < HEAD_SIZE:
            raise _wrong(directory, "the last entry is cut off", "rec_len", position)
        inode, length, name_length, kind = unpack(data, position)
        if end >= _LARGE_BLOCK - 4:
            length = _LARGE_BLOCK if length in (0, 0xFFFF) else length & 0xFFFC | (length & 3) << 16
        after = position + length
        name_at = position + HEAD_SIZE
        if length < HEAD_SIZE or length & 3 or after > end or name_at + name_length > after:
            raise _wrong(
                directory, f"an entry of {length} bytes with a name of {name_length}", "rec_len", position
            )
        if inode and name_length:
            yield data[name_at : name_at + name_length], inode, kind, position
        position = after


def entries_in(
    blocks: Iterable[tuple[bytes, int]], directory: int
) -> Iterator[tuple[bytes, int, int, int, bytes]]:
    """The entries in many blocks of a directory: as of `entries_of`, and the block.

    Where the entries of a block lead nowhere, those of the next one still begin at its beginning.

    Args:
        blocks: each with where in it entries begin.
        directory: its inode, for messages.

    Raises:
        FormatError: some block was damaged; the entries that could be read have been yielded.
    """
    problems: list[FormatError] = []
    for data, start in blocks:
        try:
            for name, inode, kind, position in entries_of(data, start, directory):
                yield name, inode, kind, position, data
        except FormatError as error:
            problems.append(error)
            if len(problems) > _MOST_DAMAGED_BLOCKS:
                break
    if problems:
        raise problems[0]


def hash_in_entry(data: bytes, position: int) -> tuple[int, int]:
    """The hashes behind the name of an entry, in directories that are both encrypted and casefolded."""
    at = position + HEAD_SIZE + data[position + 6]
    at += -at % 4
    return (0, 0) if at + 8 > len(data) else _HASHES.unpack_from(data, at)


def _wrong(directory: int, problem: str, field: str, offset: int) -> FormatError:
    return FormatError("ext4", f"a block of directory {directory}: {problem}", field=field, offset=offset)
