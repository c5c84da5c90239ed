"""ext2, ext3 and ext4 read by us and by the kernel: usage, and every file's metadata and content."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.mutation import Overlay
from tests.recipes import ext4
from tests.recipes.our_account import our_account
from virtscope.block import open_image
from virtscope.block.source import BlockSource
from virtscope.errors import FormatError, UnsupportedFeature
from virtscope.fs import ext4 as ext4_module
from virtscope.fs import identify, open_filesystem
from virtscope.fs.ext4.inode import Inode, file_acl, words_of
from virtscope.fs.ext4.reader import Ext4
from virtscope.fs.filesystem import Filesystem
from virtscope.fs.tree import Tree

_PIECE = 1 << 20


@pytest.fixture(params=ext4.VARIANTS)
def made(request: pytest.FixtureRequest) -> ext4.Image:
    return ext4.image(request.param)


def opened(image: ext4.Image) -> Filesystem:
    filesystem = open_filesystem(open_image(str(image.path), "raw"))
    assert filesystem is not None
    return filesystem


def verified(source: BlockSource) -> Ext4:
    filesystem = ext4_module.open_filesystem(source, verify=True)
    assert filesystem is not None
    return filesystem


def test_usage_is_what_statfs_gives(made: ext4.Image) -> None:
    usage = opened(made).usage()

    assert [
        usage.block_size,
        usage.blocks,
        usage.free_blocks,
        usage.available_blocks,
        usage.inodes,
        usage.free_inodes,
    ] == made.usage


def test_every_file_is_as_the_kernel_shows_it(made: ext4.Image) -> None:
    filesystem = opened(made)
    theirs = {path: dict(row) for path, row in made.files.items()}
    flags = {path: row.pop("flags", None) for path, row in theirs.items()}

    ours = our_account(filesystem)

    assert ours.keys() == theirs.keys()
    for path, row in theirs.items():
        assert ours[path] == row, path
        if flags[path] is not None:
            assert filesystem.stat(row["inode"]).flags == words_of(flags[path]), path
    assert not filesystem.notes


def test_identity(made: ext4.Image) -> None:
    identity = identify(open_image(str(made.path), "raw"))
    told = ext4.run("blkid", "-p", "-o", "export", str(made.path))

    assert f"\nTYPE={identity.kind}\n" in told
    assert identity.uuid == ext4.UUID
    assert identity.label == ext4.LABEL


@pytest.mark.parametrize("unsigned", [False, True])
def test_encrypted_names_are_as_the_kernel_shows_them_without_the_key(unsigned: bool) -> None:
    image = ext4.encrypted(unsigned)
    filesystem = opened(image)
    tree = Tree(filesystem)

    ours = {os.fsdecode(node.path[1:]): node for _, inside in tree.walk(tree.root) for node in inside}

    assert ours.keys() | {""} == image.files.keys()
    for path, node in ours.items():
        found = node.stat()
        theirs = image.files[path]
        assert (found.inode, found.mode, found.size) == (theirs["inode"], theirs["mode"], theirs["size"])
        assert ("encrypted" in found.flags) == (path not in ("plain", "lost+found"))
        assert tree.resolve(node.path, follow=False).inode == found.inode
        if found.kind == "symbolic link":
            assert os.fsdecode(filesystem.readlink(node.inode)) == theirs["target"]
        if found.kind == "file" and path != "plain" and found.size:
            with pytest.raises(UnsupportedFeature, match="is encrypted"):
                node.open().read()


def test_every_checksum_of_sound_metadata_is_right(made: ext4.Image) -> None:
    filesystem = verified(open_image(str(made.path), "raw"))
    tree = Tree(filesystem)

    for _, inside in tree.walk(tree.root):
        for node in inside:
            filesystem.xattrs(node.inode)
            list(filesystem.extents(node.inode))
    assert {row["inode"] for row in made.files.values()} <= set(filesystem.inodes())


@pytest.mark.parametrize("name", ["ext4-1k", "ext4-2k", "ext4-narrow"])
def test_a_flipped_bit_is_noticed_when_verifying(name: str) -> None:
    image = ext4.image(name)
    source = open_image(str(image.path), "raw")
    sound = verified(source)
    geometry = sound.geometry
    inode = image.files["attributes/inside-and-outside"]["inode"]
    directory = image.files["names"]["inode"]
    scattered = image.files["scattered/every-second-block"]["inode"]
    data, start = sound._locate(inode)
    table = sound.groups.group((inode - 1) // geometry.inodes_per_group).inode_table << geometry.block_bits
    places: dict[int, Callable[[Ext4], object]] = {
        1024 + 0x78: lambda filesystem: None,
        geometry.descriptor_block(0) << geometry.block_bits: lambda filesystem: filesystem.stat(2),
    }
    if name != "ext4-narrow":
        index = (inode - 1) % geometry.inodes_per_group * geometry.inode_size
        places[table + index + 8] = lambda filesystem: filesystem.stat(inode)
        first = next(sound.extents(directory)).disk_offset
        assert first is not None
        places[first + 100] = lambda filesystem: list(filesystem.entries(directory))
        attributes = file_acl(Inode.parse(data, start)) << geometry.block_bits
        places[attributes + 200] = lambda filesystem: filesystem.xattrs(inode)
        node = extent_node(sound, scattered) << geometry.block_bits
        places[node + 20] = lambda filesystem: list(filesystem.extents(scattered))
    else:
        del places[1024 + 0x78]  # only group descriptors have one
    for place, ask in places.items():
        flipped = bytes([source.read_at(place, 1)[0] ^ 0x40])
        with pytest.raises(FormatError, match="checksum"):
            ask(verified(Overlay(source, [(place, flipped)])))


def extent_node(filesystem: Ext4, inode: int) -> int:
    """The first block of the extent tree of a file that has one."""
    raw = Inode.parse(*filesystem._locate(inode))
    low, high = struct.unpack_from("<IH", raw.i_block, 16)
    return int(low | high << 32)


@pytest.mark.parametrize("block_size", [8192, 65536])
def test_blocks_larger_than_a_page(tmp_path: Path, block_size: int) -> None:
    # No kernel of today mounts these here, so mke2fs fills the image.
    content = tmp_path / "content"
    content.mkdir()
    for index in range(900):
        (content / f"file-{index:04}-{'l' * 60}").write_bytes(b"%d\n" % index * (index % 7))
    (content / "link").symlink_to("t" * 100)
    (content / "data").write_bytes(os.urandom(300_000))
    disk = tmp_path / "disk.img"
    ext4.format_image(disk, "300M", "-t", "ext4", "-b", str(block_size), "-d", str(content))

    filesystem = verified(open_image(str(disk), "raw"))
    tree = Tree(filesystem)
    ours = {os.fsdecode(node.name): node for node in tree.children(tree.root)}

    assert ours.keys() == {*os.listdir(content), "lost+found"}
    for path in content.iterdir():
        if path.is_symlink():
            assert os.fsdecode(filesystem.readlink(ours[path.name].inode)) == os.readlink(path)
        else:
            assert ours[path.name].open().read() == path.read_bytes()
    told = ext4.run("dumpe2fs", "-h", str(disk))
    usage = filesystem.usage()
    assert f"Free blocks:              {usage.free_blocks}\n" in told
    assert f"Free inodes:              {usage.free_inodes}\n" in told


def test_a_journal_on_another_device_is_told_and_noted(tmp_path: Path) -> None:
    journal, disk = tmp_path / "journal.img", tmp_path / "disk.img"
    ext4.format_image(journal, "16M", "-O", "journal_dev", "-b", "1024")
    ext4.format_image(disk, "16M", "-t", "ext4", "-b", "1024", "-O", "^has_journal")
    source = open_image(str(disk), "raw")
    features = source.read_at(1024 + 92, 8)
    compat, incompat = struct.unpack("<II", features)
    needs_recovery = struct.pack("<II", compat | 0x4, incompat | 0x4)
    uuid = bytes(range(16))

    told = identify(open_image(str(journal), "raw"))
    filesystem = open_filesystem(Overlay(source, [(1024 + 92, needs_recovery), (1024 + 208, uuid)]))

    assert (told.kind, told.uuid, told.label) == ("jbd", ext4.UUID, ext4.LABEL)
    assert open_filesystem(open_image(str(journal), "raw")) is None
    assert filesystem is not None
    assert any("on another device" in note and uuid.hex() in note for note in filesystem.notes)
    assert filesystem.stat(filesystem.root_inode).links == 3


def test_usage_of_a_tebibyte(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    ext4.format_image(disk, "1T", "-t", "ext4", "-b", "4096", "-E", "lazy_journal_init=1,nodiscard")
    filesystem = open_filesystem(open_image(str(disk), "raw"))
    assert filesystem is not None

    usage = filesystem.usage()

    with ext4.mounted(disk, "ro") as top:
        theirs = os.statvfs(top)
    assert (usage.blocks, usage.free_blocks, usage.available_blocks) == (
        theirs.f_blocks,
        theirs.f_bfree,
        theirs.f_bavail,
    )
