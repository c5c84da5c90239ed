"""Extended attributes: in the space behind an inode, and in a block of their own.

Both hold a list of entries that grows up and their values that grow down; values that are too large for
either are files of their own (ea_inode). See the kernel's fs/ext4/xattr.h.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from virtscope.bitmatch import MatchError, Record, pattern
from virtscope.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IN_INODE_MAGIC = struct.pack("<I", 0xEA020000)
IN_INODE_HEADER_SIZE = 4
LARGEST_VALUE = 1 << 16
"""XATTR_SIZE_MAX: no system call gives more."""

PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
    7: "system.",
    8: "system.richacl",
    10: "gnu.",
}
"""What e_name_index stands for. Number 9, the context of encryption, is never shown."""

SYSTEM = 7
_ACLS = (2, 3)

XattrBlockHeader = pattern(
    "ext4_xattr_header",
    """little
    h_magic : 32 = 0xEA020000; h_refcount : 32; h_blocks : 32 = 1; h_hash : 32; h_checksum : 32
    h_reserved : 32[3]
    """,
)


class XattrEntry(Record):
    """The head of an entry (struct ext4_xattr_entry); the name follows."""

    layout = """little
        e_name_len : 8; e_name_index : 8; e_value_offs : 16; e_value_inum : 32; e_value_size : 32
        e_hash : 32
        """
    e_name_len: int
    e_name_index: int
    e_value_offs: int
    e_value_inum: int
    e_value_size: int


_ENTRY_SIZE = 16


class Attribute(NamedTuple):
    """An attribute as it is stored.

    Attributes:
        name_index: e_name_index.
        name: without its prefix.
        value: its bytes; when they are in an inode of their own, empty.
        value_inode: that inode, else 0.
        size: of the value.
    """

    name_index: int
    name: bytes
    value: bytes
    value_inode: int
    size: int


def attributes_in_inode(space: bytes, inode: int) -> Iterator[Attribute]:
    """The attributes in what follows the fields of an inode; none if there are none.

    Raises:
        FormatError: an entry or a value that is not inside.
    """
    if space[:4] == IN_INODE_MAGIC:
        yield from _attributes(space, IN_INODE_HEADER_SIZE, IN_INODE_HEADER_SIZE, inode)


def attributes_in_block(block: bytes, inode: int) -> Iterator[Attribute]:
    """The attributes in a block of their own.

    Raises:
        FormatError: it is no such block, or an entry or a value is not inside.
    """
    try:
        XattrBlockHeader.parse(block)
    except MatchError as error:
        raise FormatError(
            "ext4",
            f"attribute block of inode {inode}: expected {error.expected}, found {error.got}",
            field=error.field,
        ) from None
    yield from _attributes(block, XattrBlockHeader.size_bytes, 0, inode)


def _attributes(data: bytes, position: int, base: int, inode: int) -> Iterator[Attribute]:
    end = len(data)
    while position + 4 <= end and data[position : position + 4] != b"\0\0\0\0":
        name_at = position + _ENTRY_SIZE
        if name_at > end:
            raise _wrong(inode, "an entry is cut off", "e_name_len")
        entry = XattrEntry.parse(data, position)
        after = name_at + (entry.e_name_len + 3 & ~3)
        if after > end:
            raise _wrong(inode, "a name is cut off", "e_name_len")
        name = data[name_at : name_at + entry.e_name_len]
        size = entry.e_value_size
        value = b""
        if size > LARGEST_VALUE:
            raise _wrong(inode, f"a value of {size} bytes", "e_value_size")
        if not entry.e_value_inum:
            start = base + entry.e_value_offs
            value = data[start : start + size]
            if len(value) != size:
                raise _wrong(inode, "a value is cut off", "e_value_offs")
        yield Attribute(entry.e_name_index, name, value, entry.e_value_inum, size)
        position = after


def shown(
    attributes: Iterator[Attribute], value_of: Callable[[Attribute], bytes], inode: int
) -> Iterator[tuple[str, bytes]]:
    """Full names and values as getxattr(2) gives them; what is the filesystem's own business is left out."""
    for attribute in attributes:
        prefix = PREFIXES.get(attribute.name_index)
        if prefix is None or (attribute.name_index == SYSTEM and attribute.name == b"data"):
            continue
        value = value_of(attribute) if attribute.value_inode else attribute.value
        if attribute.name_index in _ACLS:
            yield prefix, acl_of_system_call(value, inode)
        else:
            yield prefix + attribute.name.decode("utf-8", "surrogateescape"), value


_ACL_VERSION = 1
_ACL_SHORT, _ACL_LONG = 4, 8
_SYSTEM_CALL_ACL_VERSION = 2
_ACL_USER, _ACL_GROUP = 0x02, 0x08
_ACL_TAGS = (0x01, _ACL_USER, 0x04, _ACL_GROUP, 0x10, 0x20)
_NO_ID = 0xFFFFFFFF


def acl_of_system_call(value: bytes, inode: int) -> bytes:
    """An access control list in the form of the system call (posix_acl_xattr_header) from ext4's own.

    ext4 leaves the ID out of entries that need none, and calls its form version 1 where the other is 2.

    Raises:
        FormatError: it is no such list.
    """
    if len(value) < 4 or int.from_bytes(value[:4], "little") != _ACL_VERSION:
        raise _wrong(inode, "an access control list of another version", "a_version")
    pieces = [_SYSTEM_CALL_ACL_VERSION.to_bytes(4, "little")]
    position = 4
    while position < len(value):
        if position + _ACL_SHORT > len(value):
            raise _wrong(inode, "an access control list is cut off", "e_tag")
        tag, permissions = struct.unpack_from("<HH", value, position)
        if tag not in _ACL_TAGS:
            raise _wrong(inode, f"an access control list for {tag:#x}", "e_tag")
        identifier = _NO_ID
        if tag in (_ACL_USER, _ACL_GROUP):
            if position + _ACL_LONG > len(value):
                raise _wrong(inode, "an access control list is cut off", "e_id")
            identifier = int.from_bytes(value[position + 4 : position + 8], "little")
            position += _ACL_LONG
        else:
            position += _ACL_SHORT
        pieces.append(struct.pack("<HHI", tag, permissions, identifier))
    return b"".join(pieces)


def _wrong(inode: int, problem: str, field: str) -> FormatError:
    return FormatError("ext4", f"attributes of inode {inode}: {problem}", field=field)
