"""Partition tables against sfdisk, sgdisk and parted."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.hostile.mutation import Overlay
from tests.recipes.partitions import DOS, DOS_LBA_EXTENDED, GPT, make
from virtscope.block import open_image
from virtscope.errors import FormatError
from virtscope.storage import Storage, open_storage
from virtscope.volume import read_partitions
from virtscope.volume.partitions import PartitionTable

TABLES = {"dos": DOS, "dos-lba-extended": DOS_LBA_EXTENDED, "gpt": GPT}


def table_of(path: Path) -> PartitionTable:
    with open_image(str(path)) as image:
        table = read_partitions(image)
    assert table is not None
    return table


@pytest.mark.parametrize("name", TABLES)
def test_as_sfdisk_says(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / "disk", TABLES[name])
    said = json.loads(subprocess.check_output(["sfdisk", "-J", path]))["partitiontable"]
    table = table_of(path)
    assert table.type == said["label"]
    assert table.uuid == said["id"].lower().removeprefix("0x")
    assert table.notes == ()
    assert len(table.partitions) == len(said["partitions"])
    for ours, theirs in zip(table.partitions, said["partitions"], strict=True):
        assert f"{path}{ours.number}" == theirs["node"]
        assert (ours.offset, ours.size) == (theirs["start"] * 512, theirs["size"] * 512)
        theirs_type = theirs["type"].lower()
        assert ours.type == (theirs_type if table.type == "gpt" else f"0x{theirs_type:0>2}")
        assert ours.label == theirs.get("name")
        if "uuid" in theirs:
            assert ours.uuid == theirs["uuid"].lower()
        assert ours.bootable == (theirs.get("bootable", False) or "Legacy" in theirs.get("attrs", ""))


def test_the_copy_of_a_gpt_is_used_and_that_is_said(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", GPT)
    whole = table_of(path)
    for place, text in ((516, "not there"), (1028, "checksum of the entries"), (560, "checksum")):
        with open_image(str(path)) as image:
            found = read_partitions(Overlay(image, [(place, b"?")]))
        assert found is not None
        assert found.partitions == whole.partitions
        assert "copy at the end" in found.notes[0]
        assert text in found.notes[0]


def test_a_gpt_without_any_sound_copy_is_an_error(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", GPT)
    with open_image(str(path)) as image:
        disk = Overlay(image, [(1025, b"?"), (image.size - 33 * 512 + 1, b"?")])
        with pytest.raises(FormatError, match="checksum of the entries"):
            read_partitions(disk)
        storage = Storage([disk])
        assert storage.devices[0].content is None
        assert "checksum" in (storage.devices[0].problem or "")


def test_a_gpt_of_4096_byte_sectors(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with open(path, "wb") as file:
        file.truncate(100 << 20)
    loop = subprocess.run(
        ["losetup", "-f", "--show", "-b", "4096", path], capture_output=True, text=True, check=False
    )
    if loop.returncode:
        pytest.skip(f"hardware: no loop device with sectors of 4096 bytes: {loop.stderr.strip()}")
    device = loop.stdout.strip()
    try:
        subprocess.run(["sfdisk", "-q", device], input="label: gpt\nsize=10M\n", text=True, check=True)
        subprocess.run(["sync", device], check=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    table = table_of(path)
    assert table.sector_size == 4096
    assert [(part.offset, part.size) for part in table.partitions] == [(1 << 20, 10 << 20)]


def test_a_gpt_that_was_overwritten_by_an_mbr_does_not_count(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", GPT)
    with open_image(str(path)) as image:
        gpt = image.read_at(512, 1536)
    make(path, DOS)
    with open_image(str(path)) as image:
        found = read_partitions(Overlay(image, [(512, gpt)]))
    assert found is not None
    assert found.type == "dos"


@pytest.mark.parametrize("mkfs", [("mkfs.vfat",), ("mkfs.vfat", "-F", "32"), ("mke2fs", "-q", "-F")])
def test_a_filesystem_on_the_whole_disk_is_no_partition_table(tmp_path: Path, mkfs: tuple[str, ...]) -> None:
    path = tmp_path / "disk"
    with open(path, "wb") as file:
        file.truncate(100 << 20)
    subprocess.run([*mkfs, path], check=True, capture_output=True)
    with open_image(str(path)) as image:
        assert read_partitions(image) is None


@pytest.mark.parametrize("mkfs", [("mke2fs", "-q", "-F"), ("mkfs.xfs", "-q", "-f"), ("mkswap", "-q", "-f")])
def test_remains_of_a_gpt_do_not_count(tmp_path: Path, mkfs: tuple[str, ...]) -> None:
    path = make(tmp_path / "disk", GPT, 400 << 20)
    subprocess.run([*mkfs, path], check=True, capture_output=True)
    with open_image(str(path)) as image:
        assert read_partitions(image) is None


def test_devices_are_named_as_libguestfs_names_them(tmp_path: Path) -> None:
    disks = [str(make(tmp_path / "disk", DOS))] * 28
    with open_storage(disks) as storage:
        names = [device.name for device in storage.devices]
        first = [f"/dev/sda{number}" for number in (1, 2, 3, 5, 6, 7)]
        assert names[:8] == ["/dev/sda", *first, "/dev/sdb"]
        assert "/dev/sdab7" in names
        assert storage.device("/dev/vdab7").parents == ("/dev/sdab",)


def test_logical_partitions_in_a_circle_end(tmp_path: Path) -> None:
    path = make(tmp_path / "disk", DOS)
    with open_image(str(path)) as image:
        tables = [place for place in range(0, 25 << 20, 512) if image.read_at(place + 510, 2) == b"\x55\xaa"]
        # The last table's second entry now leads to the first one, at the start of the extended partition.
        entry = bytes([0, 0, 0, 0, 5, 0, 0, 0]) + bytes(4) + b"\1\0\0\0"
        table = read_partitions(Overlay(image, [(tables[-1] + 446 + 16, entry)]))
    assert len(tables) == 4
    assert table is not None
    assert "circle" in table.notes[0]
    assert [partition.number for partition in table.partitions] == [1, 2, 3, 5, 6, 7]
