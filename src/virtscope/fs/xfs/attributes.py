"""Extended attributes: in the inode, in one block, or in many with an index; long values in their own blocks.

    short form    behind the data fork, in the inode
    leaf          one block: an index of hashes that grows up, names and values that grow down
    node          several leaves, below blocks that say which of them has which hashes

Each attribute belongs to one of three name spaces; access control lists are attributes of root's name space,
in a form of XFS's own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.bitmatch import Record
from virtscope.errors import FormatError
from virtscope.fs.xfs.inode import FORMAT_LOCAL
from virtscope.fs.xfs.superblock import FORMAT

if TYPE_CHECKING:
    from virtscope.fs.xfs.blocks import ForkBlocks
    from virtscope.fs.xfs.inode import LoadedInode
    from virtscope.fs.xfs.superblock import SuperBlock

LARGEST_VALUE = 1 << 16
"""XFS_XATTR_SIZE_MAX."""

_FLAG_LOCAL = 0x01
_FLAG_ROOT = 0x02
_FLAG_SECURE = 0x04
_FLAG_PARENT = 0x08
_FLAG_INCOMPLETE = 0x80

_ACL_NAMES = {
    b"SGI_ACL_FILE": "system.posix_acl_access",
    b"SGI_ACL_DEFAULT": "system.posix_acl_default",
}

_LEAF_MAGIC, _NODE_MAGIC = 0xFBEE, 0xFEBE
_LEAF_MAGIC_V5, _NODE_MAGIC_V5 = 0x3BEE, 0x3EBE
_OFFSET_OWNER = 48
_LEAF_HEADER_SIZE, _LEAF_HEADER_SIZE_V5 = 32, 80
_NODE_HEADER_SIZE, _NODE_HEADER_SIZE_V5 = 16, 64
_REMOTE_HEADER_SIZE = 56
_MOST_LEVELS = 5

_BLOCK_INFO = struct.Struct(">IIH")


class LeafEntry(Record):
    """What the index of a leaf has of an attribute (struct xfs_attr_leaf_entry)."""

    layout = "big; hashval : 32; nameidx : 16; flags : 8; _ : 8"
    hashval: int
    nameidx: int
    flags: int


class RemoteName(Record):
    """The head of an attribute whose value is elsewhere (struct xfs_attr_leaf_name_remote)."""

    layout = "big; valueblk : 32; valuelen : 32; namelen : 8; name : bytes(namelen)"
    valueblk: int
    valuelen: int
    name: bytes


class LocalName(Record):
    """An attribute with its value (struct xfs_attr_leaf_name_local)."""

    layout = "big; valuelen : 16; namelen : 8; nameval : bytes(namelen); value : bytes(valuelen)"
    nameval: bytes
    value: bytes


class RemoteHeader(Record):
    """What stands in v5 before each block of a value (struct xfs_attr3_rmt_hdr)."""

    layout = """big
        rm_magic : b"XARM"; rm_offset : 32; rm_bytes : 32; rm_crc : little 32
        rm_uuid : bytes(16); rm_owner : 64; rm_blkno : 64; rm_lsn : 64
        """
    rm_offset: int
    rm_bytes: int
    rm_owner: int


class AclEntry(Record):
    """An entry of an access control list (struct xfs_acl_entry)."""

    layout = "big; ae_tag : 32; ae_id : 32; ae_perm : 16; ae_pad : 16"
    ae_tag: int
    ae_id: int
    ae_perm: int


_ACL_USER, _ACL_GROUP = 0x02, 0x08
_NO_ID = 0xFFFFFFFF
_SYSTEM_CALL_ACL_VERSION = 2


def xattrs(blocks: ForkBlocks | None, inode: LoadedInode, superblock: SuperBlock) -> dict[str, bytes]:
    """The extended attributes of an inode by their full names.

    Args:
        blocks: the blocks of its attribute fork; None when they are in the inode.
        inode: whose they are.
        superblock: the filesystem's.

    Raises:
        FormatError: they are damaged.
    """
    if not inode.attributes_start:
        return {}
    found = {}
    if inode.core.di_aformat == FORMAT_LOCAL or blocks is None:
        stored = _short_form(inode)
    else:
        stored = _of_leaves(blocks, inode, superblock)
    for flags, name, value in stored:
        if flags & (_FLAG_PARENT | _FLAG_INCOMPLETE):
            continue
        if flags & _FLAG_ROOT and name in _ACL_NAMES:
            found[_ACL_NAMES[name]] = acl_of_system_call(value, inode.number)
            continue
        space = "trusted." if flags & _FLAG_ROOT else "security." if flags & _FLAG_SECURE else "user."
        found[space + name.decode("utf-8", "surrogateescape")] = value
    return found


def acl_of_system_call(value: bytes, inode: int) -> bytes:
    """An access control list as getxattr(2) gives it (struct posix_acl_xattr_header), from XFS's own form.

    Raises:
        FormatError: it is damaged.
    """
    count = int.from_bytes(value[:4], "big")
    if len(value) < 4 or len(value) - 4 < count * AclEntry.size_bytes:
        raise FormatError(
            FORMAT, f"inode {inode}: an access control list of {count} entries is not all there"
        )
    pieces = [_SYSTEM_CALL_ACL_VERSION.to_bytes(4, "little")]
    for entry in AclEntry.iter(value, count, 4):
        has_id = entry.ae_tag in (_ACL_USER, _ACL_GROUP)
        number = entry.ae_id if has_id else _NO_ID
        pieces.append(struct.pack("<HHI", entry.ae_tag & 0xFFFF, entry.ae_perm, number))
    return b"".join(pieces)


def _short_form(inode: LoadedInode) -> Iterator[tuple[int, bytes, bytes]]:
    """Flags, name and value of each attribute in the inode (struct xfs_attr_sf_hdr)."""
    fork = inode.attribute_fork
    size, count = int.from_bytes(fork[:2], "big"), fork[2] if len(fork) > 2 else 0
    if not 4 <= size <= len(fork):
        raise _damaged(inode.number, f"{size} bytes in the inode", inode.offset + inode.attributes_start)
    place = 4
    for _ in range(count):
        head = fork[place : place + 3]
        name_end = place + 3 + (head[0] if head else 0)
        end = name_end + (head[1] if len(head) > 1 else 0)
        if len(head) < 3 or end > size:
            raise _damaged(
                inode.number, "an attribute reaches out", inode.offset + inode.attributes_start + place
            )
        yield head[2], fork[place + 3 : name_end], fork[name_end:end]
        place = end


def _of_leaves(
    blocks: ForkBlocks, inode: LoadedInode, superblock: SuperBlock
) -> Iterator[tuple[int, bytes, bytes]]:
    """Flags, name and value of each attribute in blocks: the first leaf and those it is chained to."""
    block = _first_leaf(blocks, inode, superblock)
    seen = set()
    while True:
        if block in seen:
            raise _damaged(inode.number, f"block {block} is twice in the chain of its leaves", inode.offset)
        seen.add(block)
        offset, data, magic = _block(blocks, inode, superblock, block)
        if magic != (_LEAF_MAGIC_V5 if superblock.is_v5 else _LEAF_MAGIC):
            raise _damaged(inode.number, "no leaf of attributes", offset)
        yield from _of_leaf(blocks, inode, superblock, offset, data)
        block = int.from_bytes(data[:4], "big")
        if not block:
            return


def _first_leaf(blocks: ForkBlocks, inode: LoadedInode, superblock: SuperBlock) -> int:
    """The block of the leaf with the lowest hashes."""
    block = 0
    header_size = _NODE_HEADER_SIZE_V5 if superblock.is_v5 else _NODE_HEADER_SIZE
    count_at = 56 if superblock.is_v5 else 12
    for _ in range(_MOST_LEVELS + 1):
        offset, data, magic = _block(blocks, inode, superblock, block)
        if magic not in (_NODE_MAGIC, _NODE_MAGIC_V5):
            return block
        if not int.from_bytes(data[count_at : count_at + 2], "big"):
            raise _damaged(inode.number, "an empty index of attributes", offset)
        block = int.from_bytes(data[header_size + 4 : header_size + 8], "big")
    raise _damaged(inode.number, "its index of attributes is too deep", inode.offset)


def _block(
    blocks: ForkBlocks, inode: LoadedInode, superblock: SuperBlock, block: int
) -> tuple[int, bytes, int]:
    """Offset, bytes and magic number of a block of the attribute fork."""
    offset, data = blocks.read(block << superblock.sb_blocklog, superblock.sb_blocksize)
    if superblock.is_v5 and int.from_bytes(data[_OFFSET_OWNER : _OFFSET_OWNER + 8], "big") != inode.number:
        raise _damaged(inode.number, "a block of another inode", offset)
    return offset, data, _BLOCK_INFO.unpack_from(data)[2]


def _of_leaf(
    blocks: ForkBlocks, inode: LoadedInode, superblock: SuperBlock, offset: int, data: bytes
) -> Iterator[tuple[int, bytes, bytes]]:
    """Flags, name and value of each attribute of a leaf."""
    header_size, count_at = (_LEAF_HEADER_SIZE_V5, 56) if superblock.is_v5 else (_LEAF_HEADER_SIZE, 12)
    count = int.from_bytes(data[count_at : count_at + 2], "big")
    if header_size + count * 8 > len(data):
        raise _damaged(inode.number, f"{count} attributes do not fit into a block", offset)
    for entry in LeafEntry.iter(data, count, header_size):
        if entry.flags & _FLAG_LOCAL:
            local = LocalName.match(data, entry.nameidx)
            if local is None:
                raise _damaged(inode.number, "an attribute reaches out", offset + entry.nameidx)
            yield entry.flags, local.nameval, local.value
            continue
        remote = RemoteName.match(data, entry.nameidx)
        if remote is None:
            raise _damaged(inode.number, "an attribute reaches out", offset + entry.nameidx)
        if entry.flags & _FLAG_INCOMPLETE:
            continue
        yield entry.flags, remote.name, _remote_value(blocks, inode, superblock, remote)


def _remote_value(
    blocks: ForkBlocks, inode: LoadedInode, superblock: SuperBlock, remote: RemoteName
) -> bytes:
    """A value in blocks of its own; in v5, each of them has a header."""
    size, bits = remote.valuelen, superblock.sb_blocklog
    if size > LARGEST_VALUE:
        raise _damaged(inode.number, f"an attribute of {size} bytes", inode.offset)
    if not superblock.is_v5:
        return blocks.read(remote.valueblk << bits, size)[1][:size]
    room = superblock.sb_blocksize - _REMOTE_HEADER_SIZE
    count = -(-size // room)
    offset, data = blocks.read(remote.valueblk << bits, count << bits)
    value = b""
    for index in range(count):
        header = RemoteHeader.match(data, index << bits)
        if (
            header is None
            or header.rm_owner != inode.number
            or header.rm_offset != len(value)
            or header.rm_bytes != min(room, size - len(value))
        ):
            raise _damaged(inode.number, "no block of this attribute's value", offset)
        start = (index << bits) + _REMOTE_HEADER_SIZE
        value += data[start : start + header.rm_bytes]
    return value


def _damaged(inode: int, problem: str, offset: int) -> FormatError:
    return FormatError(FORMAT, f"the attributes of inode {inode}: {problem}", offset=offset)
