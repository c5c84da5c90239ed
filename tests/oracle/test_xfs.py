"""XFS read by us and by the kernel: usage, and every file's metadata and content."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from lab.cache import program
from tests.recipes import xfs
from tests.recipes.our_account import our_account
from virtscope.block import open_image
from virtscope.fs import identify, open_filesystem
from virtscope.fs import xfs as xfs_reader
from virtscope.fs.filesystem import Filesystem
from virtscope.fs.xfs.log import Log
from virtscope.fs.xfs.superblock import read_superblock


@pytest.fixture(params=[*xfs.VARIANTS, *xfs.SPECIAL])
def made(request: pytest.FixtureRequest) -> xfs.Image:
    name: str = request.param
    return xfs.image(name) if name in xfs.VARIANTS else xfs.special(name)


def opened(image: xfs.Image) -> Filesystem:
    filesystem = open_filesystem(open_image(str(image.path), "raw"))
    assert filesystem is not None
    return filesystem


def theirs(image: xfs.Image) -> dict[str, dict[str, Any]]:
    """The kernel's account without what it shows twice: access control lists in XFS's own form."""
    for row in image.files.values():
        row["xattrs"] = {
            name: value for name, value in row["xattrs"].items() if not name.startswith("trusted.SGI_ACL_")
        }
    return image.files


def usage_of(filesystem: Filesystem) -> list[int]:
    usage = filesystem.usage()
    return [
        usage.block_size,
        usage.blocks,
        usage.free_blocks,
        usage.available_blocks,
        usage.inodes,
        usage.free_inodes,
    ]


def test_usage_is_what_statfs_gives(made: xfs.Image) -> None:
    assert usage_of(opened(made)) == made.usage


def test_every_file_is_as_the_kernel_shows_it(made: xfs.Image) -> None:
    filesystem = opened(made)

    ours = our_account(filesystem)

    assert ours.keys() == theirs(made).keys()
    for path, row in theirs(made).items():
        assert ours[path] == row, path
    assert not filesystem.notes


def test_all_checksums_are_right(made: xfs.Image) -> None:
    source = open_image(str(made.path), "raw")
    filesystem = xfs_reader.open_filesystem(source, verify=True)

    for inode in filesystem.inodes():
        kind = filesystem.stat(inode).kind
        filesystem.xattrs(inode)
        if kind == "directory":
            list(filesystem.entries(inode))
            filesystem.lookup(inode, b"any name")
        elif kind == "symbolic link":
            filesystem.readlink(inode)
        else:
            list(filesystem.extents(inode))
    filesystem.usage()


def test_identity(made: xfs.Image) -> None:
    identity = identify(open_image(str(made.path), "raw"))

    assert (identity.kind, identity.uuid, identity.label) == ("xfs", xfs.UUID, xfs.LABEL)
    assert identity.size is not None
    assert 0 <= made.path.stat().st_size - identity.size < 1 << 20


def test_all_inodes_are_listed(made: xfs.Image) -> None:
    filesystem = opened(made)
    named = {row["inode"] for row in made.files.values()}
    inside = {2 + filesystem.root_inode - 1, filesystem.root_inode + 2}

    found = list(filesystem.inodes())

    assert found == sorted(set(found))
    assert set(found) - named <= inside  # the bitmap and the summary of the realtime device
    assert named <= set(found)


def test_every_name_is_found_where_it_is_listed(made: xfs.Image) -> None:
    filesystem = opened(made)
    for path, row in made.files.items():
        if path:
            parent = made.files[os.path.dirname(path)]["inode"]
            assert filesystem.lookup(parent, os.fsencode(os.path.basename(path))) == row["inode"], path
    for folder in ("directories/with-3000", "directories/with-60", "names", ""):
        if folder in made.files:
            assert filesystem.lookup(made.files[folder]["inode"], b"there is no such name") is None


def test_a_log_that_goes_round_its_ring() -> None:
    source = open_image(str(xfs.special("wrapped").path), "raw")
    extent = Log(source, read_superblock(source)).extent()

    assert not extent.is_clean
    assert extent.tail > extent.head


def test_the_image_with_sparse_chunks_of_inodes_has_some() -> None:
    """By xfs_db: chunks that are not all there (ir_holemask), and are read all the same by the test above."""
    image = xfs.special("sparse-inodes")
    trees = [
        xfs.run(
            program("xfs_db", "xfsprogs"),
            "-r",
            "-c",
            f"agi {group}",
            "-c",
            "addr root",
            "-c",
            "btdump",
            str(image.path),
        )
        for group in range(2)
    ]
    masks = [
        int(mask, 16)
        for tree in trees
        for mask in re.findall(r"^\d+:\[[0-9]+,(0x[0-9a-f]+|0),", tree, re.MULTILINE)
    ]
    assert masks
    assert any(masks)
