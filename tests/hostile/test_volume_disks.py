"""Damaged and malicious partition tables and volume groups: our own errors or rows, in bounded time."""

from __future__ import annotations

import itertools
import resource
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import lab_needed
from tests.hostile.mutation import Change, Overlay, alarm, mutations
from tests.recipes import lvm
from tests.recipes.partitions import DOS, GPT, make
from virtscope.block import open_image
from virtscope.block.source import BlockSource
from virtscope.errors import FormatError, VirtscopeError
from virtscope.storage import Storage
from virtscope.volume import lvm_text
from virtscope.volume.lvm import MdaHeader, RawLocn, _crc
from virtscope.volume.snapshot import Snapshot
from virtscope.volume.thin import ThinPool, ThinVolume

LVM_METADATA = 4096


class Bytes(BlockSource):
    """Some bytes, followed by zeros."""

    def __init__(self, data: bytes, size: int = 0) -> None:
        super().__init__("bytes", max(size, len(data)))
        self.data = data

    def _read(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size].ljust(size, b"\0")


def look(*disks: BlockSource) -> None:
    """Walk the disks and read a little of every device."""
    storage = Storage(disks)
    for device in storage.devices:
        with suppress(VirtscopeError):
            source = storage.source(device)
            for offset in (0, 65_000, source.size // 2, source.size - 4096):
                with suppress(VirtscopeError):
                    assert len(source.read_at(offset, 4096)) == 4096
            with suppress(VirtscopeError):
                for _ in itertools.islice(source.extents(), 200):
                    pass
    assert all(note.isprintable() for note in storage.notes)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BlockSource]:
    folder = tmp_path_factory.mktemp("tables")
    made = {"dos": DOS, "gpt": GPT}
    return {name: open_image(str(make(folder / name, script))) for name, script in made.items()}


REGIONS = {
    "dos": [(440, 72), (440, 72), *((sector * 512 + 440, 72) for sector in (22528, 26624, 34096))],
    "gpt": [(440, 72), (512, 92), (512, 92), (1024, 512), ((100 << 20) - 512, 92)],
}


@pytest.mark.parametrize("name", REGIONS)
def test_partition_tables(tables: dict[str, BlockSource], name: str) -> None:
    for changes in mutations(REGIONS[name], 400):
        with alarm():
            look(Overlay(tables[name], changes))
    for size in (0, 1, 511, 512, 1000, 1024, 4096, 1 << 20):
        look(Overlay(tables[name], [], size))


@pytest.mark.slow
@pytest.mark.parametrize("name", REGIONS)
def test_ten_thousand_partition_tables(tables: dict[str, BlockSource], name: str) -> None:
    for changes in mutations(REGIONS[name], 10_000, seed=2):
        with alarm():
            look(Overlay(tables[name], changes))


@settings(max_examples=200, deadline=None)
@given(
    sector=st.binary(max_size=440), entries=st.binary(min_size=64, max_size=64), rest=st.binary(max_size=2048)
)
def test_any_first_sector(sector: bytes, entries: bytes, rest: bytes) -> None:
    look(Bytes(sector.ljust(446, b"\0") + entries + b"\x55\xaa" + rest, 1 << 20))


def test_a_gpt_cannot_ask_for_much(tables: dict[str, BlockSource]) -> None:
    import zlib

    header = bytearray(tables["gpt"].read_at(512, 92))
    struct.pack_into("<II", header, 80, 0xFFFF_FFFF, 0xFFFF_FFF8)
    struct.pack_into("<I", header, 16, 0)
    struct.pack_into("<I", header, 16, zlib.crc32(header))
    disk = Overlay(tables["gpt"], [(512, bytes(header))])
    storage = Storage([disk])
    assert "copy at the end" in storage.notes[0]


@pytest.fixture(scope="module")
def groups() -> dict[str, list[BlockSource]]:
    with lab_needed():
        made: dict[str, Path] = {"plain": lvm.plain(), "thin": lvm.thin(), "cached": lvm.cached()}
    return {name: [open_image(str(path)) for path in lvm.disks(folder)] for name, folder in made.items()}


def metadata(disk: BlockSource) -> tuple[int, int]:
    """Offset and size of the current metadata text of a physical volume."""
    where = MdaHeader.parse(disk.read_at(LVM_METADATA, 512)).raw_locns[0]
    return LVM_METADATA + where.offset, where.size


def with_text(disk: BlockSource, text: bytes) -> Overlay:
    """A physical volume with another metadata text, all checksums in order."""
    offset, _ = metadata(disk)
    header = bytearray(disk.read_at(LVM_METADATA, 512))
    where = RawLocn.parse(bytes(header), 40)
    header[40:64] = RawLocn.build(where, size=len(text), checksum=_crc(text))
    header[0:4] = _crc(bytes(header[4:])).to_bytes(4, "little")
    return Overlay(disk, [(LVM_METADATA, bytes(header)), (offset, text)])


def mutated_text(text: bytes, changes: list[Change]) -> bytes:
    data = bytearray(text)
    for place, changed in changes:
        data[place : place + len(changed)] = changed
    return bytes(data)


def tokens(text: bytes, count: int, seed: int) -> list[bytes]:
    """Texts in which numbers and names were exchanged for others, which gets deeper than flipped bytes."""
    import random
    import re

    source = random.Random(seed)
    words = [found.span() for found in re.finditer(rb'"[^"]*"|\b\d+\b', text)]
    others = [text[start:stop] for start, stop in words]
    others += [
        b"0",
        b"-1",
        b"99999999999999999999",
        b"18446744073709551615",
        b"[]",
        b'""',
        b'"pv0"',
        b"4294967296",
    ]
    made = []
    for _ in range(count):
        data = text
        for start, stop in sorted(source.sample(words, source.choice((1, 1, 2, 5))), reverse=True):
            data = data[:start] + source.choice(others) + data[stop:]
        made.append(data)
    return made


def lvm_headers(groups: dict[str, list[BlockSource]], count: int, seed: int) -> None:
    disks = groups["thin"]
    for changes in mutations([(0, 2048), (512, 200), (4096, 512), (4096, 64)], count, seed):
        with alarm():
            look(Overlay(disks[0], changes))


def lvm_texts(groups: dict[str, list[BlockSource]], name: str, count: int, seed: int) -> None:
    disks = groups[name]
    offset, size = metadata(disks[0])
    text = disks[0].read_at(offset, size)
    for changes in mutations([(0, size - 1)], count // 2, seed):
        with alarm():
            look(with_text(disks[0], mutated_text(text, changes)), *disks[1:])
    for changed in tokens(text, count // 2, seed):
        with alarm():
            look(with_text(disks[0], changed.replace(b"seqno = ", b"seqno = 9", 1)), *disks[1:])


def test_lvm_headers(groups: dict[str, list[BlockSource]]) -> None:
    lvm_headers(groups, 300, 1)


@pytest.mark.parametrize("name", ["plain", "thin", "cached"])
def test_lvm_texts(groups: dict[str, list[BlockSource]], name: str) -> None:
    lvm_texts(groups, name, 100, 1)


@pytest.mark.slow
def test_ten_thousand_lvm_headers(groups: dict[str, list[BlockSource]]) -> None:
    lvm_headers(groups, 10_000, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "thin", "cached"])
def test_ten_thousand_lvm_texts(groups: dict[str, list[BlockSource]], name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lvm_texts(groups, name, 10_000, 2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10  # KiB


def pools(groups: dict[str, list[BlockSource]]) -> tuple[BlockSource, BlockSource]:
    """Metadata and data of a thin pool."""
    storage = Storage(groups["thin"])
    group = storage.volume_groups[0]
    return group._content("pool_tmeta"), group._content("pool_tdata")


def thin_metadata(groups: dict[str, list[BlockSource]], count: int, seed: int) -> None:
    meta, data = pools(groups)
    used = [place for place in range(0, 1 << 20, 4096) if meta.read_at(place, 4096).strip(b"\0")]
    regions = [(0, 512), *((place, 64) for place in used), *((place, 4096) for place in used)]
    for changes in mutations(regions, count, seed):
        with alarm(), suppress(VirtscopeError):
            pool = ThinPool("pool", Overlay(meta, changes), data)
            for device in (1, 2, 3):
                with suppress(VirtscopeError):
                    volume = ThinVolume("volume", 1 << 30, pool, device)
                    assert len(volume.read_at(0, 1 << 20)) == 1 << 20
                with suppress(VirtscopeError):
                    for _ in itertools.islice(volume.extents(), 500):
                        pass


def test_thin_metadata(groups: dict[str, list[BlockSource]]) -> None:
    thin_metadata(groups, 200, 1)


@pytest.mark.slow
def test_ten_thousand_thin_metadata(groups: dict[str, list[BlockSource]]) -> None:
    thin_metadata(groups, 10_000, 2)


def snapshot_stores(groups: dict[str, list[BlockSource]], count: int, seed: int) -> None:
    group = Storage(groups["plain"]).volume_groups[0]
    origin, store = group._content("linear"), group._content("before")
    for changes in mutations([(0, 16), (16384, 2048)], count, seed):
        with alarm(), suppress(VirtscopeError):
            snapshot = Snapshot("snapshot", origin, Overlay(store, changes))
            with suppress(VirtscopeError):
                assert len(snapshot.read_at(0, 1 << 20)) == 1 << 20
            with suppress(VirtscopeError):
                assert sum(size for _, size, _ in snapshot.extents()) == snapshot.size


def test_snapshot_stores(groups: dict[str, list[BlockSource]]) -> None:
    snapshot_stores(groups, 300, 1)


@pytest.mark.slow
def test_ten_thousand_snapshot_stores(groups: dict[str, list[BlockSource]]) -> None:
    snapshot_stores(groups, 10_000, 2)


def node(number: int, flags: int, entries: list[tuple[int, int]]) -> bytes:
    """A node of a thin pool's B-tree."""
    keys = struct.pack(f"<{len(entries)}Q", *(key for key, _ in entries)).ljust(252 * 8, b"\0")
    values = struct.pack(f"<{len(entries)}Q", *(value for _, value in entries))
    head = struct.pack("<IIQIIII", 0, flags, number, len(entries), 252, 8, 0)
    return (head + keys + values).ljust(4096, b"\0")


def test_a_tree_that_shares_its_nodes_cannot_send_the_reader_in_circles() -> None:
    superblock = bytearray(4096)
    struct.pack_into("<Q", superblock, 32, 27022010)
    struct.pack_into("<I", superblock, 40, 2)
    struct.pack_into("<Q", superblock, 320, 1)
    struct.pack_into("<I", superblock, 336, 128)
    roots = node(1, 2, [(7, 2)])
    itself = node(2, 1, [(key, 2) for key in range(0, 252 * 1000, 1000)])
    data = Bytes(b"", 1 << 20)
    with alarm(5):
        pool = ThinPool("pool", Bytes(bytes(superblock) + roots + itself), data)
        volume = ThinVolume("volume", 1 << 40, pool, 7)
        with pytest.raises(FormatError, match="range that led to them"):
            list(volume.extents())


SLOW_TEXTS = (
    "a {" * 1000,
    "a = [" * 1000,
    "# " * 100_000 + "!",
    'a = "' + "\\" * 99_999,
    "a = " + "9" * 5000,
    "{" * 100_000,
    "a=1 " * 100_000 + "}",
)


@pytest.mark.parametrize("text", SLOW_TEXTS, ids=range(len(SLOW_TEXTS)))
def test_texts_that_take_their_time(text: str) -> None:
    with alarm(5), suppress(FormatError):
        lvm_text.parse(text)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab1 ={}[]",#\\\n\0', max_size=60))
def test_any_text(text: str) -> None:
    with suppress(FormatError):
        assert isinstance(lvm_text.parse(text), dict)


def test_volumes_that_consist_of_each_other(groups: dict[str, list[BlockSource]]) -> None:
    disks = groups["plain"]
    offset, size = metadata(disks[0])
    text = disks[0].read_at(offset, size).replace(b'"mirror_mimage_0", 0', b'"mirror", 0', 1)
    changed = text.replace(b"seqno = ", b"seqno = 9", 1)
    with Storage([with_text(disks[0], changed), *disks[1:]]) as storage:
        assert "consist of each other" in (storage.device("/dev/plain/mirror").problem or "")
        assert storage.device("/dev/plain/linear").problem is None
