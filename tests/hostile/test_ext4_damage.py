"""Damaged and malicious ext2, ext3 and ext4: our own errors or results, in bounded time and memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile.mutation import Change, Overlay, alarm, mutations
from tests.recipes import ext4
from virtscope.block import open_image
from virtscope.block.source import BlockSource
from virtscope.errors import FormatError, VirtscopeError
from virtscope.fs import identify, open_filesystem
from virtscope.fs.ext4 import fastcommit
from virtscope.fs.ext4.blockmap import block_map_runs
from virtscope.fs.ext4.directory import entries_in, entries_of
from virtscope.fs.ext4.extents import extent_runs
from virtscope.fs.ext4.fastcommit import Tag
from virtscope.fs.ext4.reader import Ext4
from virtscope.fs.ext4.recovered import RecoveredExt4
from virtscope.fs.ext4.superblock import read_superblock
from virtscope.fs.ext4.xattrs import attributes_in_block, attributes_in_inode
from virtscope.fs.filesystem import Filesystem
from virtscope.fs.tree import Tree

_MOST_FILES = 400
_NUMBERS = (0, 1, 2, 5, 11, 12, 13, 40, 127, 128, 1 << 31)


class Repeated(BlockSource):
    """A disk of any size that is one block again and again."""

    def __init__(self, block: bytes, size: int) -> None:
        super().__init__("repeated", size)
        self._content = block

    def _read(self, offset: int, size: int) -> bytes:
        start = offset % len(self._content)
        return (self._content * (size // len(self._content) + 2))[start : start + size]


def look(source: BlockSource) -> None:
    """Ask everything a reader can be asked, of every file that can still be found."""
    with suppress(VirtscopeError):
        identify(source)
    with suppress(VirtscopeError):
        filesystem = open_filesystem(source)
        if filesystem is not None:
            _look_around(filesystem)
            assert all("\n" not in note for note in filesystem.notes)


def _look_around(filesystem: Filesystem) -> None:
    with suppress(VirtscopeError):
        usage = filesystem.usage()
        assert min(usage.free_blocks, usage.available_blocks, usage.free_inodes) >= 0
    with suppress(VirtscopeError):
        for _ in itertools.islice(filesystem.inodes(), _MOST_FILES):
            pass
    waiting, seen = [filesystem.root_inode], set[int]()
    while waiting and len(seen) < _MOST_FILES:
        inode = waiting.pop()
        if inode in seen:
            continue
        seen.add(inode)
        with suppress(VirtscopeError):
            found = filesystem.stat(inode)
            attempts: list[Callable[[], object]] = [lambda: filesystem.xattrs(inode)]  # noqa: B023
            if found.kind == "directory":
                attempts.append(lambda: waiting.extend(entry.inode for entry in filesystem.entries(inode)))  # noqa: B023
                attempts.append(lambda: filesystem.lookup(inode, b"name"))  # noqa: B023
            if found.kind == "symbolic link":
                attempts.append(lambda: filesystem.readlink(inode))  # noqa: B023
            if found.kind == "file":
                attempts.append(lambda: _read_some(filesystem, inode, found.size))  # noqa: B023
            for attempt in attempts:
                with suppress(VirtscopeError):
                    attempt()


def _read_some(filesystem: Filesystem, inode: int, size: int) -> None:
    with suppress(VirtscopeError):
        reached = 0
        for extent in filesystem.extents(inode):
            assert extent.offset == reached
            assert extent.size > 0
            reached += extent.size
        assert reached == size
    for offset in (0, size // 2, max(size - 5000, 0), size):
        with suppress(VirtscopeError):
            assert len(filesystem.read(inode, offset, 5000)) == min(5000, size - offset)


def metadata(source: BlockSource) -> list[tuple[int, int]]:
    """Where the tables, directories, trees and attributes of a filesystem are."""
    filesystem = open_filesystem(source)
    assert isinstance(filesystem, Ext4)
    bits = filesystem.geometry.block_bits
    regions = [(1024, 1024)] * 3
    regions.append((filesystem.geometry.descriptor_block(0) << bits, 64 * filesystem.geometry.groups))
    read: set[tuple[int, int]] = set()

    class Recorder(BlockSource):
        def _read(self, offset: int, size: int) -> bytes:
            read.add((offset, size))
            return source.read_at(offset, size)

    look(Recorder("recorder", source.size))
    table = filesystem.groups.group(0).inode_table << bits
    regions += [(table, 40 * filesystem.geometry.inode_size)] * 3
    regions += sorted(place for place in read if place[1] <= 1 << bits)
    return regions


@pytest.fixture(scope="module", params=ext4.SMALL)
def small(request: pytest.FixtureRequest) -> BlockSource:
    return open_image(str(ext4.small(request.param)), "raw")


def test_mutations(small: BlockSource) -> None:
    regions = metadata(small)
    for changes in mutations(regions, 120):
        with alarm(5):
            look(Overlay(small, changes))


@pytest.mark.slow
def test_ten_thousand_mutations(small: BlockSource) -> None:
    regions = metadata(small)
    for changes in mutations(regions, 10_000, seed=2):
        with alarm(5):
            look(Overlay(small, changes))


def renamed(folder: list[tuple[bytes, int]], name: bytes, other: bytes) -> list[Change]:
    """What makes an entry have another name of the same length."""
    return [(place + data.index(name), other) for data, place in folder if name in data]


def directory_of_names() -> tuple[BlockSource, Filesystem, int, list[tuple[bytes, int]]]:
    """An image, its filesystem, a directory of several blocks in it, and those blocks with their places."""
    image = open_image(str(ext4.small("ext4")), "raw")
    filesystem = open_filesystem(image)
    assert isinstance(filesystem, Ext4)
    inode = filesystem.lookup(filesystem.root_inode, b"many")
    assert inode is not None
    size = filesystem.geometry.block_size
    places = [
        extent.disk_offset + start
        for extent in filesystem.extents(inode)
        if extent.disk_offset is not None
        for start in range(0, extent.size, size)
    ]
    return image, filesystem, inode, [(image.read_at(place, size), place) for place in places]


@pytest.mark.parametrize("byte", [b"/", b"\0"])
def test_a_name_that_cannot_be_costs_no_other(byte: bytes) -> None:
    image, filesystem, inode, blocks = directory_of_names()
    names = [entry.name for entry in filesystem.entries(inode)]
    wrong = names[len(names) // 2]
    changed = open_filesystem(Overlay(image, renamed(blocks, wrong, wrong[:1] + byte + wrong[2:])))
    assert changed is not None
    tree = Tree(changed)
    problems: list[str] = []

    seen = [node.name for node in tree.children(tree.resolve(b"/many"), problem=problems.append)]

    assert seen == [name for name in names if name != wrong]
    [problem] = problems
    assert problem.startswith("/many has an entry with the impossible name ")
    assert problem.endswith(", which was left out")
    for name in seen:
        assert changed.lookup(inode, name) is not None


def test_a_block_of_names_that_leads_nowhere_costs_no_other_block() -> None:
    image, filesystem, inode, blocks = directory_of_names()
    assert len(blocks) > 3
    data, place = blocks[2]
    lost = {name for name, _, _, _ in entries_of(data, 0, inode)}
    changed = open_filesystem(Overlay(image, [(place + 4, b"\1\0")]))  # an entry of one byte
    assert changed is not None
    tree = Tree(changed)
    problems: list[str] = []

    seen = {node.name for node in tree.children(tree.resolve(b"/many"), problem=problems.append)}

    assert lost
    assert seen == {entry.name for entry in filesystem.entries(inode)} - lost
    [problem] = problems
    assert f"a block of directory {inode}: an entry of 1 bytes" in problem
    # Whether a name that was not found is in the damaged block is not known.
    for name in lost:
        with pytest.raises(FormatError):
            changed.lookup(inode, name)


def test_names_of_fast_commits_are_listed_in_a_damaged_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem = open_filesystem(open_image(str(ext4.fast_committed().path), "raw"))
    assert isinstance(filesystem, RecoveredExt4)
    inode = filesystem.lookup(filesystem.root_inode, b"d")
    assert inode is not None
    whole = filesystem._directory_blocks
    monkeypatch.setattr(
        filesystem,
        "_directory_blocks",
        lambda *which: ((b"\1\0\0\0\1\0\1\1" + data[8:], start) for data, start in whole(*which)),
    )
    entries = filesystem.entries(inode)
    seen = set()

    with pytest.raises(FormatError, match="an entry of 1 bytes"):  # noqa: PT012
        for entry in entries:
            seen.add(entry.name)

    assert seen >= {b"new-1", b"new-2", b"renamed", b"linked"}


def test_a_directory_of_nothing_but_damage_ends_soon() -> None:
    """Four million blocks: as large as a directory can be."""
    blocks = ((b"\1\0\0\0\1\0\1\1a".ljust(1024, b"\0"), 0) for _ in range(4 << 20))
    with alarm(5), pytest.raises(FormatError, match="an entry of 1 bytes"):
        list(entries_in(blocks, 2))
    assert next(blocks)  # it did not read them all


def test_truncation(small: BlockSource) -> None:
    for size in (0, 1, 1023, 1024, 1080, 1500, 2048, 4096, 20_000, 100_000, small.size // 2, small.size - 1):
        with alarm(5):
            look(Overlay(small, [], size))


def test_zeroed_parts(small: BlockSource) -> None:
    for offset, size in set(metadata(small)):
        with alarm(5):
            look(Overlay(small, [(offset, bytes(size))]))


@settings(max_examples=150, deadline=None)
@given(tree=st.binary(min_size=60, max_size=60), node=st.binary(min_size=1024, max_size=1024))
def test_extent_trees_of_noise(tree: bytes, node: bytes) -> None:
    head = b"\x0a\xf3\4\0\4\0" + tree[6:]
    with alarm(5), suppress(FormatError):
        for _ in extent_runs(head, lambda block: b"\x0a\xf3\x50\0\x50\0" + node[6:], 1 << 40, 12):
            pass


@settings(max_examples=50, deadline=None)
@given(numbers=st.binary(min_size=60, max_size=60), node=st.binary(min_size=1024, max_size=1024))
def test_block_maps_of_noise(numbers: bytes, node: bytes) -> None:
    with alarm(5), suppress(FormatError):
        for _ in block_map_runs(
            numbers, lambda block: node, block_bits=10, blocks=1 << 50, blocks_count=1 << 32, inode=12
        ):
            pass


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_attributes_of_noise(data: bytes) -> None:
    header = b"\0\0\2\xea" + bytes(4) + b"\1\0\0\0" + bytes(20)
    with suppress(FormatError):
        assert all(len(found.value) <= 300 for found in attributes_in_inode(b"\0\0\2\xea" + data, 12))
    with suppress(FormatError):
        assert all(len(found.value) <= 400 for found in attributes_in_block(header + data, 12))


def test_a_tree_that_contains_itself() -> None:
    # An inner node at block 100 whose only child is block 100.
    node = bytes.fromhex("0af30100040001000000000000000000640000000000000000000000").ljust(1024, b"\0")
    root = bytes.fromhex("0af3010004000200000000000000000064000000000000000000").ljust(60, b"\0")
    with alarm(5), pytest.raises(FormatError, match=r"should be at level|is in it twice"):
        list(extent_runs(root, lambda block: node, 1 << 20, 12))


def test_blocks_of_numbers_that_contain_themselves() -> None:
    node = b"".join(number.to_bytes(4, "little") for number in [77] * 256)
    numbers = (b"\0" * 48) + (77).to_bytes(4, "little") * 3
    with alarm(5), pytest.raises(FormatError, match="is in it twice"):
        list(
            block_map_runs(
                numbers, lambda block: node, block_bits=10, blocks=1 << 40, blocks_count=1 << 20, inode=12
            )
        )


def test_a_superblock_again_and_again(small: BlockSource) -> None:
    # Everything there is looks like a superblock, and the disk seems to have no end.
    with alarm(20):
        look(Repeated(small.read_at(1024, 1024), 1 << 60))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            Tag,
            st.integers(fastcommit.ADD_RANGE, fastcommit.INODE),
            st.builds(
                lambda numbers, rest: b"".join(number.to_bytes(4, "little") for number in numbers) + rest,
                st.lists(st.sampled_from(_NUMBERS), min_size=4, max_size=4),
                st.binary(min_size=128, max_size=300),
            ),
        ),
        max_size=20,
    )
)
def test_fast_commits_of_noise(tags: list[Tag]) -> None:
    source = open_image(str(ext4.small("ext4")), "raw")
    with alarm(5):
        filesystem = RecoveredExt4(source, read_superblock(source), False, tags)
        _look_around(filesystem)
