"""/etc/fstab: what counts as a mount, what its names mean, what a hostile one costs."""

from __future__ import annotations

import pytest

from virtscope.errors import UsageError
from virtscope.inspect.fstab import parse_fstab
from virtscope.inspect.mounts import _Mounter
from virtscope.storage import Device, Storage


def test_lines_that_mount_disks() -> None:
    text = (
        b"# comment\n\nUUID=1-2 / ext4 defaults,ro 0 1\n/dev/sda2\t/my\\040data xfs\n"
        b"LABEL=a\\134b /x auto nofail,noauto\nLABEL=c /y auto nofail 0"
    )
    entries = parse_fstab(text)
    assert [(entry.device, entry.point, entry.type) for entry in entries] == [
        ("UUID=1-2", b"/", "ext4"),
        ("/dev/sda2", b"/my data", "xfs"),
        ("LABEL=c", b"/y", "auto"),
    ]
    assert entries[0].options == ("defaults", "ro")


@pytest.mark.parametrize(
    "line",
    [
        b"tmpfs /tmp tmpfs defaults 0 0",
        b"/swapfile none swap sw 0 0",
        b"server:/x /x nfs defaults 0 0",
        b"/a /b none bind 0 0",
        b"UUID=x relative ext4",
        b"UUID=x /short",
        b"#UUID=x / ext4",
        b"\xff\xfe\x00",
    ],
)
def test_lines_that_mount_no_disk(line: bytes) -> None:
    assert parse_fstab(line) == []


def test_a_file_of_a_million_lines_is_bounded() -> None:
    assert len(parse_fstab(b"/dev/a /b ext4\n" * 1_000_000)) == 10_000


class FakeStorage(Storage):
    """Devices without disks under them."""

    def __init__(self, *devices: Device) -> None:
        super().__init__([])
        self._devices = list(devices)


STORAGE = FakeStorage(
    Device("/dev/sda", "disk", 1, content="gpt", uuid="AA-TABLE"),
    Device("/dev/sda1", "partition", 1, content="ext4", uuid="aa-1", label="Data", part_uuid="pp-1"),
    Device("/dev/sda2", "partition", 1, content="ext4", uuid="aa-2", label="data", part_label="my part"),
    Device("/dev/sdb1", "partition", 1, content="xfs", uuid="aa-3", label="été"),
    Device("/dev/vg-a/lv-b", "lv", 1, content="xfs", uuid="aa-4", label='"quoted'),
    Device("/dev/vg-a/copy", "lv", 1, content="xfs", uuid="aa-4"),
)


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("UUID=AA-1", "/dev/sda1"),
        ('UUID="aa-1"', "/dev/sda1"),
        ("LABEL=Data", "/dev/sda1"),
        ("LABEL=data", "/dev/sda2"),
        ("LABEL=DATA", None),
        ('LABEL="quoted', "/dev/vg-a/lv-b"),
        ("PARTUUID=PP-1", "/dev/sda1"),
        ("PARTLABEL=my part", "/dev/sda2"),
        ("/dev/disk/by-partlabel/my\\x20part", "/dev/sda2"),
        ("/dev/disk/by-label/\\xc3\\xa9t\\xc3\\xa9", "/dev/sdb1"),
        ("/dev/disk/by-uuid/aa-2", "/dev/sda2"),
        ("/dev/disk/by-id/wwn-1", None),
        ("UUID=aa-table", None),
        ("UUID=None", None),
        ("/dev/vda1", "/dev/sda1"),
        ("/dev/nvme0n1p2", "/dev/sda2"),
        ("/dev/mmcblk1p1", "/dev/sdb1"),
        ("/dev/mapper/vg--a-lv--b", "/dev/vg-a/lv-b"),
        ("/dev/vg-a/copy", "/dev/vg-a/copy"),
        ("/dev/sdz", None),
        ("server:/x", None),
    ],
)
def test_the_device_a_line_means(name: str, device: str | None) -> None:
    [entry] = parse_fstab(name.replace(" ", "\\040").encode() + b" /x auto")
    found = _Mounter(STORAGE).device_of(entry)
    assert (found.name if found is not None else None) == device


def test_a_name_of_two_devices_is_told() -> None:
    mounter = _Mounter(STORAGE)
    [entry] = parse_fstab(b"UUID=aa-4 /x auto")
    found = mounter.device_of(entry)
    assert found is not None
    assert found.name == "/dev/vg-a/lv-b"
    assert mounter.problems == [
        "UUID=aa-4 is on several devices (/dev/vg-a/lv-b, /dev/vg-a/copy); the first was taken"
    ]


def test_without_any_filesystem_there_is_no_root() -> None:
    with pytest.raises(UsageError, match="no filesystem that can be read"):
        _Mounter(FakeStorage()).root()
