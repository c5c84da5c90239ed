"""Damaged and malicious XFS filesystems: our own errors or rows, in bounded time and memory."""

from __future__ import annotations

import itertools
import resource
import struct
from contextlib import suppress
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile.mutation import Change, Overlay, alarm, mutations
from tests.recipes import xfs
from virtscope.block import open_image
from virtscope.block.source import BlockSource
from virtscope.errors import FormatError, VirtscopeError
from virtscope.fs import identify, open_filesystem
from virtscope.fs.filesystem import Filesystem
from virtscope.fs.xfs.log import Log
from virtscope.fs.xfs.reader import XfsFilesystem
from virtscope.fs.xfs.superblock import read_superblock

_MOST_FILES = 400


class Recorder(BlockSource):
    """A source that notes which parts of it are read."""

    def __init__(self, parent: BlockSource) -> None:
        super().__init__(parent.name, parent.size)
        self.parent = parent
        self.regions: set[tuple[int, int]] = set()

    def _read(self, offset: int, size: int) -> bytes:
        self.regions.add((offset, size))
        return self.parent.read_at(offset, size)


def look(source: BlockSource) -> None:
    """Use all that a reader offers."""
    with suppress(VirtscopeError):
        identify(source)
    for replay in (True, False):
        with suppress(VirtscopeError):
            filesystem = open_filesystem(source, replay=replay)
            if filesystem is not None:
                _look(filesystem)


def _look(filesystem: Filesystem) -> None:
    assert all(isinstance(note, str) for note in filesystem.notes)
    with suppress(VirtscopeError):
        usage = filesystem.usage()
        assert 0 <= usage.free_blocks <= usage.blocks
        assert 0 <= usage.free_inodes <= usage.inodes
    with suppress(VirtscopeError):
        for inode in itertools.islice(filesystem.inodes(), 1000):
            assert inode >= 0
    waiting = [filesystem.root_inode]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST_FILES:
        inode = waiting.pop()
        if inode in seen:
            continue
        seen.add(inode)
        with suppress(VirtscopeError):
            waiting += [entry.inode for entry in itertools.islice(filesystem.entries(inode), 2000)]
        for use in (filesystem.stat, filesystem.readlink, filesystem.xattrs):
            with suppress(VirtscopeError):
                use(inode)
        with suppress(VirtscopeError):
            filesystem.lookup(inode, b"name-77")
        with suppress(VirtscopeError):
            reached = 0
            for extent in itertools.islice(filesystem.extents(inode), 2000):
                assert extent.offset == reached
                assert extent.size > 0
                reached += extent.size
        with suppress(VirtscopeError):
            assert len(filesystem.read(inode, 1000, 9000)) <= 9000


def metadata(source: BlockSource) -> list[tuple[int, int]]:
    """What is read when everything is looked at: the parts of an image where changes matter."""
    recorder = Recorder(source)
    look(recorder)
    return sorted(region for region in recorder.regions if region[1])


def mutated(source: BlockSource, count: int, seed: int) -> None:
    for changes in mutations(metadata(source), count, seed):
        with alarm():
            look(Overlay(source, changes))


@pytest.fixture(params=["clean", "dirty"])
def image(request: pytest.FixtureRequest) -> BlockSource:
    return open_image(str(xfs.small(request.param)), "raw")


def test_mutations(image: BlockSource) -> None:
    mutated(image, 250, seed=1)


@pytest.mark.slow
def test_ten_thousand_mutations(image: BlockSource) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mutated(image, 10_000, seed=2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # KiB


def test_truncations(image: BlockSource) -> None:
    for size in (0, 1, 300, 511, 512, 1024, 2048, 70_000, 1 << 20, image.size // 2, image.size - 1):
        with alarm():
            look(Overlay(image, [], size))


def test_zeroed_parts(image: BlockSource) -> None:
    regions = metadata(image)
    for offset, size in regions[:: max(len(regions) // 60, 1)]:
        with alarm():
            look(Overlay(image, [(offset, bytes(min(size, 1 << 20)))]))


@settings(max_examples=150, deadline=None)
@given(noise=st.binary(max_size=508))
def test_noise_behind_the_magic(noise: bytes) -> None:
    with alarm():
        look(Overlay(Zeros(1 << 20), [(0, b"XFSB" + noise)]))


class Zeros(BlockSource):
    def __init__(self, size: int) -> None:
        super().__init__("zeros", size)

    def _read(self, offset: int, size: int) -> bytes:
        return bytes(size)


def changed(image: BlockSource, *changes: Change) -> Filesystem:
    filesystem = open_filesystem(Overlay(image, changes))
    assert filesystem is not None
    return filesystem


def clean() -> BlockSource:
    return open_image(str(xfs.small("clean")), "raw")


def inode_at(image: BlockSource, name: bytes) -> tuple[int, int]:
    """An inode's number, and where it is."""
    filesystem = open_filesystem(image)
    assert isinstance(filesystem, XfsFilesystem)
    number = filesystem.lookup(filesystem.root_inode, name)
    assert number is not None
    return number, filesystem.load(number).offset


def test_a_huge_count_of_groups() -> None:
    """A disk of a tebibyte that says it has groups of 64 blocks."""
    image = clean()
    blocks = 1 << 30
    sizes: list[Change] = [
        (8, struct.pack(">Q", blocks)),
        (48, bytes(8)),
        (84, struct.pack(">II", 64, blocks // 64)),
        (124, bytes([6])),
    ]
    filesystem = open_filesystem(Overlay(Zeros(1 << 40), [(0, image.read_at(0, 512)), *sizes]))
    assert filesystem is not None
    with alarm(2), pytest.raises(FormatError, match="allocation groups"):
        filesystem.usage()


def test_a_directory_whose_blocks_are_all_one() -> None:
    image = clean()
    number, offset = inode_at(image, b"with-700")
    first = image.read_at(offset + 176, 16)
    high, low = struct.unpack(">QQ", first)
    block = (high & 511) << 43 | low >> 21
    records = b"".join(
        struct.pack(">QQ", index << 9 | block >> 43, (block << 21 | 1) % 2**64) for index in range(9)
    )
    filesystem = changed(image, (offset + 176, records), (offset + 76, struct.pack(">I", 9)))
    with alarm(2), pytest.raises(FormatError, match="directory"):
        list(filesystem.entries(number))


@pytest.mark.parametrize("size", [1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_a_file_that_says_it_is_huge(size: int) -> None:
    image = clean()
    number, offset = inode_at(image, b"in-300-pieces")
    filesystem = changed(image, (offset + 56, struct.pack(">Q", size)))
    with alarm(2):
        assert sum(extent.size for extent in filesystem.extents(number)) == size
        assert filesystem.read(number, size - 10, 100) == bytes(10)
        with suppress(FormatError):
            filesystem.readlink(number)


@pytest.mark.parametrize("kind", ["clean", "dirty"])
def test_free_blocks_that_could_only_be_in_the_log(kind: Literal["clean", "dirty"]) -> None:
    """Fewer than the filesystem has blocks, but more than those outside the log."""
    image = open_image(str(xfs.small(kind)), "raw")
    superblock = read_superblock(image)
    blocks = superblock.sb_dblocks - superblock.sb_logblocks + 1
    agf = superblock.sb_sectsize
    # The superblock's counter, and that of the first group, which counts where the first cannot be right.
    changes = [(144, struct.pack(">Q", blocks)), (agf + 52, struct.pack(">I", blocks))]
    filesystem = open_filesystem(Overlay(image, changes), replay=False)
    assert filesystem is not None
    with pytest.raises(FormatError, match="more free than there is"):
        filesystem.usage()


def test_what_needs_repair_is_said() -> None:
    image = clean()
    features = int.from_bytes(image.read_at(216, 4), "big") | 0x10
    filesystem = changed(image, (216, features.to_bytes(4, "big")))
    assert any("xfs_repair" in note for note in filesystem.notes)
    assert list(filesystem.entries(filesystem.root_inode))


def test_unknown_features_are_refused() -> None:
    image = clean()
    with pytest.raises(FormatError, match="unknown features 0x40000000"):
        changed(image, (216, (0x4000_0009).to_bytes(4, "big")))


def test_a_damaged_log_is_said() -> None:
    image = open_image(str(xfs.special("shut-down").path), "raw")
    superblock = read_superblock(image)
    tail = Log(image, superblock).extent().tail
    place = superblock.offset_of(superblock.sb_logstart) + tail * 512 + 5000

    filesystem = changed(image, (place, b"\xa5" * 64))

    assert any("log" in note and "damaged" in note for note in filesystem.notes)
    assert filesystem.stat(filesystem.root_inode).kind == "directory"
