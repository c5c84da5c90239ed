"""Names of devices, and disks that cannot be made sense of."""

from __future__ import annotations

import pytest

from virtscope.block.source import BlockSource
from virtscope.errors import ReadFailed, UsageError
from virtscope.storage import Storage, disk_name


class Broken(BlockSource):
    def _read(self, offset: int, size: int) -> bytes:
        raise ReadFailed(f"{self.name} cannot be read at offset {offset:#x}")


class Zeros(BlockSource):
    def _read(self, offset: int, size: int) -> bytes:
        return bytes(size)


@pytest.mark.parametrize(
    ("index", "name"), [(0, "a"), (25, "z"), (26, "aa"), (51, "az"), (52, "ba"), (702, "aaa")]
)
def test_names_of_disks(index: int, name: str) -> None:
    assert disk_name(index) == f"/dev/sd{name}"


def test_a_broken_disk_costs_its_own_row_only() -> None:
    with Storage([Broken("bad", 1 << 20), Zeros("empty", 1 << 20)]) as storage:
        bad, empty = storage.devices
        assert (bad.name, bad.content) == ("/dev/sda", None)
        assert bad.problem == "bad cannot be read at offset 0x0"
        assert (empty.name, empty.content, empty.problem) == ("/dev/sdb", "unknown", None)
        assert storage.notes == ("/dev/sda: bad cannot be read at offset 0x0",)


def test_devices_by_other_names() -> None:
    with Storage([Zeros("a", 512), Zeros("b", 512)]) as storage:
        assert storage.device("/dev/vdb").name == storage.device("/dev/xvdb").name == "/dev/sdb"
        with pytest.raises(UsageError, match="/dev/sda, /dev/sdb"):
            storage.device("/dev/sdc")


def test_no_disks_and_empty_disks() -> None:
    assert Storage([]).devices == []
    with Storage([Zeros("empty", 0)]) as storage:
        assert storage.devices[0].content == "unknown"
