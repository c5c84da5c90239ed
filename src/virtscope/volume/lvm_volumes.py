"""Logical volumes of LVM2 that can be read: `VolumeGroup` and `LogicalVolume`.

A logical volume consists of segments. A segment maps a run of extents to areas of physical volumes or of
other (hidden) logical volumes, in a way that its type names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from virtscope.block.source import BlockSource, Mapped, Slice, printable
from virtscope.errors import FormatError, UnsupportedFeature
from virtscope.volume import lvm_text
from virtscope.volume.raid import LAYOUTS, Mirrored, Missing, Parity, Raid10, Striped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtscope.block.source import Segment
    from virtscope.volume.lvm import PhysicalVolume
    from virtscope.volume.lvm_text import Section
    from virtscope.volume.thin import ThinPool

_SECTOR = 512
_MAXIMUM_DEPTH = 16
_LARGEST = 1 << 63
_NOT_FOR_USERS = ("snapshot", "cache-pool", "vdo-pool")


class LogicalVolume(NamedTuple):
    """A logical volume that is there for users.

    Attributes:
        name: as lvs(8) shows it.
        vg_name: of its group; with the disks it is on where several groups have that name.
        uuid: as lvs(8) shows it.
        size: in bytes.
        type: of its first segment: "linear", "striped", "thin", ...; "snapshot" for old-style snapshots.
        status: the flags of the metadata, such as "READ" and "WRITE".
        open: returns a source of its content.
    """

    name: str
    vg_name: str
    uuid: str
    size: int
    type: str
    status: tuple[str, ...]
    open: Callable[[], BlockSource]

    @property
    def path(self) -> str:
        """The device, as in /dev/vg/lv."""
        return f"/dev/{self.vg_name}/{self.name}"


class VolumeGroup:
    """A volume group.

    Args:
        name: of the group; with its disks where several groups have that name.
        newest: the physical volume whose metadata count.
        volumes: those that are there.

    Attributes:
        name: as given.
        uuid: as vgs(8) shows it.
        extent_size: in bytes.
        volumes: as given.
        missing: the UUIDs of physical volumes that are not there.
        notes: what a user should know, in sentences.

    Raises:
        FormatError: the metadata contradict themselves.
    """

    def __init__(self, name: str, newest: PhysicalVolume, volumes: list[PhysicalVolume]) -> None:
        group = newest.group
        self.name = name
        self.uuid = lvm_text.string(group, "id")
        self.extent_size = lvm_text.integer(group, "extent_size") * _SECTOR
        if not 0 < self.extent_size < _LARGEST:
            raise FormatError("LVM2", f"{self.extent_size} bytes an extent", field="extent_size")
        self.volumes = volumes
        self.missing: list[str] = []
        self.notes = [note for volume in volumes for note in volume.notes]
        self._lvs = lvm_text.section(group, "logical_volumes")
        self._areas: dict[str, BlockSource] = {}
        self._opened: dict[str, BlockSource] = {}
        self._pools: dict[str, ThinPool] = {}
        self._opening: list[str] = []
        self._read_physical_volumes(lvm_text.section(group, "physical_volumes"))
        self._snapshots = self._read_snapshots()

    def __repr__(self) -> str:
        return f"<VolumeGroup {self.name}>"

    def logical_volumes(self) -> Iterator[LogicalVolume]:
        """The volumes that are there for users, in the order of the metadata."""
        for name, lv in self._lvs.items():
            # Stores of snapshots are not marked as visible: the unseen volume that ties them to their origin
            # is.
            is_visible = isinstance(lv, dict) and "VISIBLE" in lvm_text.strings(lv, "status")
            if not isinstance(lv, dict) or not (is_visible or name in self._snapshots):
                continue
            kind = self._type(lv)
            if kind in _NOT_FOR_USERS:
                continue
            if name in self._snapshots:
                origin, is_merging = self._snapshots[name]
                if is_merging:
                    continue
                size, kind = self._size(self._lv(origin)), "snapshot"
            else:
                size = self._size(lv)
            yield LogicalVolume(
                name=name,
                vg_name=self.name,
                uuid=lvm_text.string(lv, "id", ""),
                size=size,
                type=kind,
                status=tuple(lvm_text.strings(lv, "status")),
                open=lambda name=name: self.open(name),  # type: ignore[misc]
            )

    def open(self, name: str) -> BlockSource:
        """The content of a logical volume, as the guest sees it.

        Raises:
            FormatError: the metadata contradict themselves.
            UnsupportedFeature: the volume is of a type that is not read.
            GuestError: metadata inside the group could not be read.
        """
        if name in self._snapshots and not self._snapshots[name][1]:
            from virtscope.volume.snapshot import Snapshot

            origin = self._snapshots[name][0]
            return Snapshot(f"/dev/{self.name}/{name}", self._content(origin), self._content(name))
        for store, (origin, is_merging) in self._snapshots.items():
            if is_merging and origin == name:
                from virtscope.volume.snapshot import Snapshot

                return Snapshot(f"/dev/{self.name}/{name}", self._content(name), self._content(store))
        return self._content(name)

    def _read_physical_volumes(self, listed: Section) -> None:
        there = {volume.uuid: volume for volume in self.volumes}
        for key, pv in listed.items():
            if not isinstance(pv, dict):
                continue
            uuid = printable(lvm_text.string(pv, "id"))
            start = lvm_text.integer(pv, "pe_start", 0) * _SECTOR
            size = lvm_text.integer(pv, "pe_count", 0) * self.extent_size
            if size > _LARGEST or start > _LARGEST:
                raise FormatError("LVM2", f"{size} bytes", field=f"physical_volumes.{key}.pe_count")
            volume = there.get(uuid)
            if volume is None:
                self.missing.append(uuid)
                hint = printable(lvm_text.string(pv, "device", "unknown device"))
                why = f"the physical volume {uuid} of volume group {self.name} (once {hint}) is not there"
                self.notes.append(why)
                self._areas[key] = Missing(key, size, why)
            else:
                self._areas[key] = Slice(volume.source, start, size, volume.device)

    def _read_snapshots(self) -> dict[str, tuple[str, bool]]:
        """The stores of snapshots: the origin of each, and whether it is being merged into that."""
        found = {}
        for lv in self._lvs.values():
            if isinstance(lv, dict):
                segment = lvm_text.section(lv, "segment1")
                if segment.get("type") == "snapshot":
                    origin = lvm_text.string(segment, "origin")
                    for key in ("cow_store", "merging_store"):
                        if key in segment:
                            found[lvm_text.string(segment, key)] = (origin, key == "merging_store")
        return found

    def _lv(self, name: str) -> Section:
        lv = self._lvs.get(name)
        if not isinstance(lv, dict):
            raise FormatError("LVM2", f"volume group {self.name} has no volume {name!r:.80}")
        return lv

    def _segments(self, lv: Section) -> list[Section]:
        count = lvm_text.integer(lv, "segment_count", 0)
        segments = []
        for number in range(1, count + 1):
            if f"segment{number}" not in lv:
                raise FormatError("LVM2", f"{count} segments are said to be there", field=f"segment{number}")
            segments.append(lvm_text.section(lv, f"segment{number}"))
        return segments

    def _size(self, lv: Section) -> int:
        size = sum(lvm_text.integer(segment, "extent_count") for segment in self._segments(lv))
        if size * self.extent_size > _LARGEST:
            raise FormatError("LVM2", f"{size} extents are too many", field="extent_count")
        return size * self.extent_size

    def _type(self, lv: Section) -> str:
        segments = self._segments(lv)
        if not segments:
            return "linear"
        kind = _type_of(segments[0])
        return "linear" if kind == "striped" and segments[0].get("stripe_count", 1) == 1 else kind

    def _content(self, name: str) -> BlockSource:
        """What the segments of a logical volume say, hidden or not."""
        found = self._opened.get(name)
        if found is None:
            if name in self._opening or len(self._opening) >= _MAXIMUM_DEPTH:
                chain = " -> ".join([*self._opening, name])
                raise FormatError("LVM2", f"volumes of {self.name} that consist of each other: {chain}")
            self._opening.append(name)
            try:
                lv = self._lv(name)
                label = f"/dev/{self.name}/{name}"
                pieces = [self._segment(label, segment) for segment in self._segments(lv)]
                found = self._joined(label, self._size(lv), pieces)
            finally:
                self._opening.pop()
            self._opened[name] = found
        return found

    def _joined(self, label: str, size: int, pieces: list[Segment]) -> BlockSource:
        if len(pieces) == 1:
            # Most volumes are one run of extents: a slice of the disk itself is read faster.
            offset, length, source, start = pieces[0]
            if isinstance(source, Slice) and not offset and start + length <= source.size:
                return Slice(source, start, size, label)
        return Mapped(label, size, pieces)

    def _segment(self, label: str, segment: Section) -> Segment:
        offset = lvm_text.integer(segment, "start_extent") * self.extent_size
        size = lvm_text.integer(segment, "extent_count") * self.extent_size
        kind = _type_of(segment)
        source: BlockSource | None
        if kind in ("striped", "linear"):
            areas = lvm_text.pairs(segment, "stripes")
            if len(areas) == 1:
                name, extent = areas[0]
                return offset, size, self._device(name), extent * self.extent_size
            legs = [self._area(name, extent, -(-size // len(areas))) for name, extent in areas]
            source = Striped(label, size, legs, self._chunk_size(segment))
        elif kind == "mirror":
            areas = lvm_text.pairs(segment, "mirrors")
            source = Mirrored(label, size, [self._area(name, extent, size) for name, extent in areas])
        elif kind.startswith("raid"):
            source = self._raid(label, kind, segment, size)
        elif kind == "thin":
            source = self._thin(label, segment, size)
        elif kind == "cache":
            source = self._cached(label, segment)
        elif kind == "thin-pool":
            source = self._content(lvm_text.string(segment, "pool"))
        elif kind == "zero":
            source = None
        elif kind == "error":
            source = Missing(label, size, f"{label} has a part that is an error by intent")
        else:
            raise UnsupportedFeature("LVM2", f"{label} has a segment of type {kind!r:.40}, which is not read")
        return offset, size, source, 0

    def _device(self, name: str) -> BlockSource:
        """The physical or logical volume that an area is in."""
        return self._areas[name] if name in self._areas else self._content(name)

    def _area(self, name: str, extent: int, size: int) -> BlockSource:
        return Slice(self._device(name), extent * self.extent_size, size, name)

    def _chunk_size(self, segment: Section) -> int:
        return lvm_text.integer(segment, "stripe_size") * _SECTOR

    def _raid(self, label: str, kind: str, segment: Section, size: int) -> BlockSource:
        if "data_offset" in segment or "reshape_count" in segment:
            raise UnsupportedFeature("LVM2", f"{label} is being reshaped, which is not read")
        images, metas = self._legs(segment)
        if kind in ("raid0", "raid0_meta"):
            return Striped(label, size, images, self._chunk_size(segment))
        from virtscope.volume.dm_raid import in_sync

        legs, is_clean = in_sync(label, images, metas)
        if kind == "raid1":
            usable = [leg for leg in legs if not isinstance(leg, Missing)]
            return Mirrored(label, size, usable or legs)
        if kind in ("raid10", "raid10_near"):
            copies = lvm_text.integer(segment, "data_copies", 2)
            return Raid10(label, size, legs, self._chunk_size(segment), copies)
        layout = {"raid5": "raid5_ls", "raid6": "raid6_zr"}.get(kind, kind)
        if layout not in LAYOUTS:
            raise UnsupportedFeature("LVM2", f"{label} is {kind!r:.40}, a layout that is not read")
        return Parity(label, size, legs, self._chunk_size(segment), layout, parity_is_valid=is_clean)

    def _legs(self, segment: Section) -> tuple[list[BlockSource], list[BlockSource]]:
        """The images of a RAID segment and, if it has them, the volumes with their state."""
        if "raid0_lvs" in segment:
            return [self._content(name) for name in lvm_text.strings(segment, "raid0_lvs")], []
        names = lvm_text.strings(segment, "raids")
        if not names or len(names) % 2:
            raise FormatError("LVM2", f"{len(names)} volumes in pairs", field="raids")
        return [self._content(name) for name in names[1::2]], [self._content(name) for name in names[::2]]

    def _thin(self, label: str, segment: Section, size: int) -> BlockSource:
        from virtscope.volume.thin import ThinPool, ThinVolume

        pool_name = lvm_text.string(segment, "thin_pool")
        pool = self._pools.get(pool_name)
        if pool is None:
            described = next(iter(self._segments(self._lv(pool_name))), {})
            pool = self._pools[pool_name] = ThinPool(
                f"{self.name}/{pool_name}",
                self._content(lvm_text.string(described, "metadata")),
                self._content(lvm_text.string(described, "pool")),
            )
        origin = None
        if "external_origin" in segment:
            origin = self._content(lvm_text.string(segment, "external_origin"))
        return ThinVolume(label, size, pool, lvm_text.integer(segment, "device_id"), origin)

    def _cached(self, label: str, segment: Section) -> BlockSource:
        """A cached volume, whose origin has everything unless the cache holds writes back."""
        pool = self._lv(lvm_text.string(segment, "cache_pool"))
        described = next(iter(self._segments(pool)), {})
        mode = described.get("cache_mode", segment.get("cache_mode", "unknown"))
        if mode not in ("writethrough", "passthrough"):
            raise UnsupportedFeature(
                "LVM2",
                f"{label} is behind a cache in mode {mode!r:.40}, which may hold what the volume has not",
            )
        return self._content(lvm_text.string(segment, "origin"))


def _type_of(segment: Section) -> str:
    """A segment's type without the flags that may follow it."""
    return lvm_text.string(segment, "type").partition("+")[0]
