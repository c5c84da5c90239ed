"""From the disks of a guest to what is on them: `Storage` walks partitions, physical and logical volumes.

    with open_storage(["disk.qcow2"]) as storage:
        for device in storage.devices:
            print(device.name, device.size, device.content)
        source = storage.source("/dev/sda1")

Devices have the names libguestfs gives them: disks are /dev/sda, /dev/sdb, ... in the order they were given.
What is damaged costs its own row, which says what is wrong, and no other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from virtscope.errors import FormatError, UsageError, VirtscopeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from virtscope.block.source import BlockSource
    from virtscope.fs.filesystem import Filesystem
    from virtscope.volume.lvm import PhysicalVolume
    from virtscope.volume.lvm_volumes import VolumeGroup
    from virtscope.volume.partitions import PartitionTable


@dataclass(frozen=True, slots=True)
class Device:
    """A disk, a partition or a logical volume.

    Attributes:
        name: "/dev/sda1", "/dev/vg/lv".
        kind: "disk", "partition" or "lv".
        size: in bytes.
        content: what is on it: a filesystem ("ext4", "xfs"), "swap", a partition table ("dos", "gpt"), a
        part of
            something larger ("LVM2_member", "crypto_LUKS"), "unknown" if nothing that is known; None if that
            could not be found out (`problem` says why), or if there is nothing to look at (an extended
            partition, a thin pool).
        uuid: of the filesystem, the partition table or the physical volume.
        label: of the filesystem.
        type: of the partition ("0x83", a GPT's type UUID) or the logical volume ("linear", "thin").
        part_uuid: of the partition.
        part_label: of the partition.
        parents: the names of the devices it is on.
        problem: why something about it is not known, in a sentence.
        notes: what else a user should know, in sentences.
        magic: the first bytes, where the content is unknown.
    """

    name: str
    kind: str
    size: int
    content: str | None = None
    uuid: str | None = None
    label: str | None = None
    type: str | None = None
    part_uuid: str | None = None
    part_label: str | None = None
    parents: tuple[str, ...] = ()
    problem: str | None = None
    notes: tuple[str, ...] = ()
    magic: bytes = b""


class Storage:
    """The disks of one guest; a context manager that closes them.

    Args:
        disks: in the guest's order.
        replay: replay the journals of filesystems, in memory.
        verify: check the checksums of the metadata that is read, where a filesystem has them.
    """

    def __init__(self, disks: Sequence[BlockSource], *, replay: bool = True, verify: bool = False) -> None:
        self.disks = list(disks)
        self._replay = replay
        self._verify = verify
        self._devices: list[Device] | None = None
        self._groups: list[VolumeGroup] = []
        self._notes: list[str] = []
        self._open: dict[str, Callable[[], BlockSource]] = {}
        self._members: list[PhysicalVolume] = []

    @property
    def devices(self) -> list[Device]:
        """All disks, each followed by its partitions, then the logical volumes."""
        if self._devices is None:
            found: list[Device] = []
            for index, disk in enumerate(self.disks):
                self._walk_disk(found, disk_name(index), disk)
            self._walk_groups(found)
            self._devices = found
        return self._devices

    @property
    def volume_groups(self) -> list[VolumeGroup]:
        """The LVM2 volume groups."""
        _ = self.devices
        return self._groups

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences a user should see, because what was found out depends on them."""
        of_devices = [
            f"{device.name}: {note}"
            for device in self.devices
            for note in (*device.notes, *((device.problem,) if device.problem else ()))
        ]
        of_images = [note for disk in self.disks for note in getattr(disk, "notes", ())]
        return tuple(dict.fromkeys([*of_images, *self._notes, *of_devices]))

    def device(self, name: str) -> Device:
        """The device of that name; /dev/vda1, /dev/mapper/vg-lv and the like are understood too.

        Raises:
            UsageError: there is no such device.
        """
        plain = self._canonical(name)
        for device in self.devices:
            if device.name == plain:
                return device
        known = ", ".join(device.name for device in self.devices[:20]) or "none"
        raise UsageError(f"there is no device {name}; there are: {known}")

    def source(self, device: Device | str) -> BlockSource:
        """The content of a device, as bytes.

        Raises:
            UsageError: there is no such device.
            FormatError: what it is made of is damaged, or of a kind that is not read.
            GuestError: a part of it could not be read.
        """
        name = device.name if isinstance(device, Device) else self.device(device).name
        return self._open[name]()

    def filesystem(self, device: Device | str) -> Filesystem | None:
        """The filesystem on a device, or None if there is none that is known.

        Args:
            device: itself or its name.

        Raises:
            as `source`.
        """
        from virtscope.fs import open_filesystem

        return open_filesystem(self.source(device), replay=self._replay, verify=self._verify)

    def close(self) -> None:
        """Close the disks."""
        for disk in self.disks:
            disk.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _canonical(self, name: str) -> str:
        for prefix in ("/dev/vd", "/dev/xvd", "/dev/hd"):
            if name.startswith(prefix):
                return "/dev/sd" + name[len(prefix) :]
        if name.startswith("/dev/mapper/"):
            # device-mapper doubles the dashes inside of names, and puts a single one between them.
            vg, _, lv = name[len("/dev/mapper/") :].replace("--", "\0").partition("-")
            return f"/dev/{vg}/{lv}".replace("\0", "-")
        return name

    def _walk_disk(self, found: list[Device], name: str, disk: BlockSource) -> None:
        from virtscope.block.source import Slice
        from virtscope.volume import read_partitions

        self._open[name] = lambda: disk
        row = Device(name, "disk", disk.size)
        table: PartitionTable | None = None
        try:
            table = read_partitions(disk)
        except VirtscopeError as error:
            found.append(replace(row, problem=str(error)))
            return
        if table is None:
            found.append(self._looked_at(row, disk))
            return
        found.append(replace(row, content=table.type, uuid=table.uuid, notes=table.notes))
        # As the kernel names them, a disk whose name ends in a digit would need a "p" in between.
        for partition in table.partitions:
            part_name = f"{name}{partition.number}"
            part = Slice(disk, partition.offset, partition.size, part_name)
            self._open[part_name] = lambda part=part: part  # type: ignore[misc]
            row = Device(
                part_name,
                "partition",
                partition.size,
                type=partition.type,
                part_uuid=partition.uuid,
                part_label=partition.label,
                parents=(name,),
            )
            found.append(row if partition.role == "extended" else self._looked_at(row, part))

    def _looked_at(self, row: Device, source: BlockSource) -> Device:
        """A device's row, with what is on it."""
        from virtscope.volume import identify_member

        try:
            member = identify_member(source)
            if member == "LVM2_member":
                from virtscope.volume.lvm import read_physical_volume

                volume = read_physical_volume(source, row.name)
                if volume is not None:
                    self._members.append(volume)
                    return replace(row, content=member, uuid=volume.uuid, notes=volume.notes)
            elif member is not None:
                return replace(row, content=member)
            from virtscope.fs import identify

            identity = identify(source)
        except VirtscopeError as error:
            return replace(row, problem=str(error))
        return replace(
            row,
            content=identity.kind,
            uuid=identity.uuid,
            label=identity.label,
            magic=identity.magic,
        )

    def _walk_groups(self, found: list[Device]) -> None:
        if not self._members:
            return
        from virtscope.volume.lvm import volume_groups

        try:
            self._groups, problems = volume_groups(self._members)
        except FormatError as error:
            self._notes.append(str(error))
            return
        self._notes += problems
        for group in self._groups:
            self._notes += group.notes
            parents = tuple(volume.device for volume in group.volumes)
            try:
                volumes = list(group.logical_volumes())
            except FormatError as error:
                self._notes.append(f"volume group {group.name}: {error}")
                continue
            for volume in volumes:
                row = Device(volume.path, "lv", volume.size, type=volume.type, parents=parents)
                self._open[row.name] = volume.open
                if volume.type != "thin-pool":
                    try:
                        row = self._looked_at(row, volume.open())
                    except VirtscopeError as error:
                        row = replace(row, problem=str(error))
                found.append(row)


def disk_name(index: int) -> str:
    """The name of a guest's disk, counted from 0: /dev/sda, ..., /dev/sdz, /dev/sdaa."""
    letters = ""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return f"/dev/sd{letters}"


def open_storage(
    images: Iterable[str | tuple[str, str | None]],
    *,
    allow_backing: Sequence[str] = (),
    replay: bool = True,
    verify: bool = False,
) -> Storage:
    """The storage of a guest whose disks are these images, in order.

    Args:
        images: paths, or paths with their formats.
        allow_backing: as of `block.open_image`.
        replay: as of `Storage`.
        verify: as of `Storage`.

    Raises:
        as `block.open_image`.
    """
    from virtscope.block import open_image

    disks: list[BlockSource] = []
    try:
        for image in images:
            path, format = (image, None) if isinstance(image, str) else image
            disks.append(open_image(path, format, allow_backing=allow_backing))
    except BaseException:
        for disk in disks:
            disk.close()
        raise
    return Storage(disks, replay=replay, verify=verify)
