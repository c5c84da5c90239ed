"""A filesystem as our readers see it, in the form in which `kernel_account` has what the kernel sees."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from tests.recipes.kernel_account import hashed_from
from virtscope.fs.filesystem import Filesystem, Stat
from virtscope.fs.tree import Tree

_PIECE = 1 << 20


def our_account(filesystem: Filesystem) -> dict[str, dict[str, Any]]:
    """Every file by its path from the root; "" is the root."""
    tree = Tree(filesystem)
    found = {"": account(filesystem, filesystem.root_inode)}
    for _, inside in tree.walk(tree.root):
        for node in inside:
            found[os.fsdecode(node.path[1:])] = account(filesystem, node.inode)
    return found


def account(filesystem: Filesystem, inode: int) -> dict[str, Any]:
    """One file: what stat, getxattr, readlink and a hash of its content say."""
    found = filesystem.stat(inode)
    row: dict[str, Any] = {
        "inode": found.inode,
        "mode": found.mode,
        "links": found.links,
        "uid": found.uid,
        "gid": found.gid,
        "size": found.size,
        "allocated": found.allocated,
        "device": list(found.device or (0, 0)),
        "accessed": found.accessed_ns,
        "modified": found.modified_ns,
        "changed": found.changed_ns,
        "created": found.created_ns,
        "xattrs": {name: value.hex() for name, value in sorted(filesystem.xattrs(inode).items())},
    }
    if found.kind == "file":
        row["hash"] = _hash(filesystem, found)
    if found.kind == "symbolic link":
        row["target"] = os.fsdecode(filesystem.readlink(inode))
    return row


def _hash(filesystem: Filesystem, found: Stat) -> str:
    begin = hashed_from(found.size)
    if begin:
        assert sum(extent.size for extent in filesystem.extents(found.inode)) == found.size
        return hashlib.sha1(filesystem.read(found.inode, begin, found.size)).hexdigest()
    digest = hashlib.sha1()
    zeros = bytes(_PIECE)
    reached = 0
    for extent in filesystem.extents(found.inode):
        assert extent.offset == reached
        reached += extent.size
        if extent.is_zero:
            for start in range(0, extent.size, _PIECE):
                digest.update(zeros[: extent.size - start])
            continue
        for start in range(0, extent.size, _PIECE):
            digest.update(
                filesystem.read(found.inode, extent.offset + start, min(_PIECE, extent.size - start))
            )
    assert reached == found.size
    return digest.hexdigest()
