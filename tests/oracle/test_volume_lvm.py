"""LVM2 against the kernel's own device-mapper: every volume as a guest read it through /dev/VG/LV."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
from pathlib import Path

import pytest

from tests.conftest import lab_needed
from tests.hostile.mutation import Overlay
from tests.recipes import lvm
from virtscope.block import open_image
from virtscope.block.source import BlockSource
from virtscope.errors import MissingDevice, UnsupportedFeature
from virtscope.storage import Storage, open_storage
from virtscope.volume.lvm import read_physical_volume, volume_groups
from virtscope.volume.lvm_volumes import VolumeGroup

SMALL = 64 << 20


@pytest.fixture(scope="module", params=["plain", "thin", "cached", "converted"])
def folder(request: pytest.FixtureRequest) -> Path:
    with lab_needed():
        made: Path = getattr(lvm, request.param)()
    return made


@pytest.fixture(scope="module")
def plain() -> Path:
    with lab_needed():
        return lvm.plain()


def digest(source: BlockSource, step: int = 1 << 20) -> str:
    found = hashlib.sha256()
    for offset in range(0, source.size, step):
        found.update(source.read_at(offset, min(step, source.size - offset)))
    return found.hexdigest()


def group(folder: Path, without: tuple[int, ...] = ()) -> VolumeGroup:
    volumes = []
    for index, path in enumerate(lvm.disks(folder)):
        if index not in without:
            volume = read_physical_volume(open_image(str(path)), f"/dev/sd{'abcdef'[index]}")
            assert volume is not None
            volumes.append(volume)
    groups, problems = volume_groups(volumes)
    assert not problems
    assert len(groups) == 1
    return groups[0]


def test_every_volume_has_the_bytes_the_guest_saw(folder: Path) -> None:
    wanted = lvm.volumes(folder)
    seen = {}
    for volume in group(folder).logical_volumes():
        if volume.type == "thin-pool":
            continue
        if volume.name == "back":
            with pytest.raises(UnsupportedFeature, match="writeback"):
                volume.open()
            seen[volume.path] = wanted[volume.path]
            continue
        seen[volume.path] = (volume.size, digest(volume.open()))
    assert seen == wanted


def test_known_zeros_are_zeros_and_large_volumes_have_them(folder: Path) -> None:
    for volume in group(folder).logical_volumes():
        if volume.name == "back":
            continue
        source = volume.open()
        reached = data = 0
        for offset, size, is_zero in source.extents():
            assert offset == reached
            reached += size
            data += 0 if is_zero else size
            if is_zero:
                for place in (offset, offset + size // 2, offset + max(size - 4096, 0)):
                    piece = source.read_at(place, min(4096, offset + size - place))
                    assert not piece.strip(b"\0")
        assert reached == source.size
        if volume.size > SMALL:
            assert data < volume.size // 2


def test_odd_reads_agree_with_whole_ones(plain: Path) -> None:
    for volume in group(plain).logical_volumes():
        source = volume.open()
        whole = source.read_at(0, 1 << 20)
        for start, size in itertools.product((0, 511, 16_383, 65_530, 200_000), (1, 20, 33_000, 131_073)):
            assert source.read_at(start, size) == whole[start : start + size], volume.name


def spare_legs(kind: str) -> int:
    """How many disks a volume of that type may lose."""
    return (
        2 if kind.startswith("raid6") else 1 if kind.startswith(("raid1", "raid4", "raid5", "mirror")) else 0
    )


@pytest.mark.parametrize("gone", [(0,), (2,), (5,), (0, 2), (2, 4), (3, 4)])
@pytest.mark.parametrize("name", ["plain", "converted"])
def test_what_can_be_read_without_some_disks(name: str, gone: tuple[int, ...]) -> None:
    with lab_needed():
        folder: Path = getattr(lvm, name)()
    wanted = lvm.volumes(folder)
    found = group(folder, gone)
    assert len(found.missing) == len(gone)
    assert all(uuid in " ".join(found.notes) for uuid in found.missing)
    for volume in found.logical_volumes():
        if volume.name == "spread":
            continue
        try:
            found_digest, problem = digest(volume.open()), ""
        except MissingDevice as error:
            found_digest, problem = "", str(error)
        if problem:
            assert spare_legs(volume.type) < len(gone), volume.name
            assert "is not there" in problem
        else:
            assert found_digest == wanted[volume.path][1], volume.name


def test_clones_given_together_are_told_apart(plain: Path) -> None:
    paths = [str(path) for path in lvm.disks(plain)]
    with open_storage(paths * 2) as storage:
        names = [device.name for device in storage.devices if device.kind == "lv"]
        assert len(names) == len(set(names)) == 2 * len(lvm.volumes(plain))
        first = "/dev/plain@sda+sdb+sdc+sdd+sde+sdf/linear"
        second = "/dev/plain@sdg+sdh+sdi+sdj+sdk+sdl/linear"
        assert {name for name in names if name.endswith("/linear")} == {first, second}
        assert storage.device(second).parents == tuple(f"/dev/sd{letter}" for letter in "ghijkl")
        wanted = lvm.volumes(plain)["/dev/plain/linear"][1]
        assert digest(storage.source(first)) == digest(storage.source(second)) == wanted


def test_clones_read_their_own_disks(plain: Path) -> None:
    whole = [open_image(str(path)) for path in lvm.disks(plain)]
    place = group(plain).volumes[0].source.size // 2
    changed = [
        Overlay(disk, [(offset, b"clone") for offset in range(4 << 20, place, 1 << 20)]) for disk in whole
    ]
    with Storage([*whole, *changed]) as storage:
        groups = {found.name: found for found in storage.volume_groups}
        first = groups["plain@sda+sdb+sdc+sdd+sde+sdf"].open("linear").read_at(0, 8 << 20)
        second = groups["plain@sdg+sdh+sdi+sdj+sdk+sdl"].open("linear").read_at(0, 8 << 20)
    assert b"clone" not in first
    assert second.count(b"clone") >= 4


def test_disks_of_clones_in_any_order_are_not_mixed_once_they_differ(plain: Path) -> None:
    disks: list[BlockSource] = []
    for path in lvm.disks(plain):
        disk = open_image(str(path))
        # Another metadata text, as after any change in the clone.
        data = bytearray(disk.read_at(0, 2 << 20))
        rewrite_metadata(data, b'description = "', b'description = "X')
        disks += [disk, Overlay(disk, [(0, bytes(data))])]
    with Storage(disks) as storage:
        names = {group.name for group in storage.volume_groups}
        assert names == {"plain@sda+sdc+sde+sdg+sdi+sdk", "plain@sdb+sdd+sdf+sdh+sdj+sdl"}


def rewrite_metadata(data: bytearray, old: bytes, new: bytes) -> None:
    """Change the current metadata text of a physical volume, and all checksums with it."""
    from virtscope.volume.lvm import MdaHeader, RawLocn, _crc

    offset = data.index(b" LVM2 x[5A%r0N*>") - 4
    header = MdaHeader.parse(bytes(data), offset)
    where = header.raw_locns[0]
    start = offset + where.offset
    text = bytes(data[start : start + where.size])
    text = text.replace(old, new, 1)[: where.size - 1] + b"\0"
    data[start : start + where.size] = text
    data[offset + 40 : offset + 64] = RawLocn.build(where, checksum=_crc(text))
    data[offset : offset + 4] = _crc(bytes(data[offset + 4 : offset + 512])).to_bytes(4, "little")


def test_one_group_on_partitions_and_whole_disks(plain: Path, tmp_path: Path) -> None:
    disks = [str(path) for path in lvm.disks(plain)]
    moved = tmp_path / "moved"
    with open(moved, "wb") as file:
        file.truncate((1 << 20) + lvm.DISK_SIZE + (1 << 20))
        with open_image(disks[1]) as whole:
            for offset, size, is_zero in whole.extents():
                if not is_zero:
                    file.seek((1 << 20) + offset)
                    file.write(whole.read_at(offset, size))
    table = f"label: gpt\nstart=2048,size={lvm.DISK_SIZE // 512},type=E6D6D379-F507-44C2-A23C-238F2A3DF928\n"
    subprocess.run(["sfdisk", "-q", moved], input=table, text=True, check=True)
    disks[1] = str(moved)
    with open_storage(disks) as storage:
        wanted = lvm.volumes(plain)["/dev/plain/spread"]
        source = storage.source("/dev/mapper/plain-spread")
        assert (source.size, digest(source)) == wanted
        assert storage.source("/dev/mapper/plain-name--with--dashes").size == 2 << 20
        assert "/dev/sdb1" in storage.device("/dev/plain/spread").parents


def test_a_damaged_metadata_area_is_said(plain: Path) -> None:
    disk = open_image(str(lvm.disks(plain)[0]))
    place = disk.read_at(0, 2 << 20).rindex(b"logical_volumes {")
    with Storage([Overlay(disk, [(place, b"L")])]) as storage:
        assert storage.devices[0].content == "LVM2_member"
        assert "checksum of the metadata is wrong" in " ".join(storage.notes)


def test_a_stale_leg_is_not_read(plain: Path) -> None:
    found = group(plain)
    metas = {name: found._content(f"raid1_rmeta_{name}") for name in (0, 1, 2)}
    states = [bytearray(metas[name].read_at(0, 512)) for name in (0, 1, 2)]
    from virtscope.volume.dm_raid import in_sync
    from virtscope.volume.raid import Missing

    class Changed(BlockSource):
        def __init__(self, data: bytes) -> None:
            super().__init__("meta", len(data))
            self.data = data

        def _read(self, offset: int, size: int) -> bytes:
            return self.data[offset : offset + size]

    images = [found._content(f"raid1_rimage_{name}") for name in (0, 1, 2)]
    states[0][16] -= 2  # events of the first leg: it missed some
    states[1][32:40] = bytes(8)  # recovery of the second has only begun
    legs, _ = in_sync("raid1", images, [Changed(bytes(state)) for state in states])
    assert [isinstance(leg, Missing) for leg in legs] == [True, True, False]


def test_storage_can_be_given_sources(plain: Path) -> None:
    with Storage([open_image(str(path)) for path in lvm.disks(plain)]) as storage:
        assert [device.name for device in storage.devices[:2]] == ["/dev/sda", "/dev/sdb"]
