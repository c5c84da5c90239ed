"""The disks of a libvirt domain, from its XML (libvirt.org/formatdomain.html)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from virtscope.errors import GuestError

_DEEPEST_CHAIN = 256


@dataclass(frozen=True, slots=True)
class DiskSource:
    """Where the data of a disk, or of one of its backing files, is.

    Attributes:
        kind: libvirt's word: "file", "block", "network", "volume", "dir", "nvme", "vhostuser".
        path: of the file or the block device on the host that runs the guest; None for other kinds.
        location: the same for people, for every kind ("rbd:pool/image", "pool/volume").
        format: as configured ("qcow2", "raw"); None if libvirt does not say.
        backing: the image below it, None if there is none or libvirt does not say.
    """

    kind: str
    path: str | None
    location: str
    format: str | None
    backing: DiskSource | None


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of a domain.

    Attributes:
        target: the device as the configuration names it ("vda").
        bus: "virtio", "scsi", "sata", ...; None if not said.
        device: "disk", "cdrom", "floppy" or "lun".
        is_read_only: whether the guest cannot write to it.
        serial: the serial number the guest sees, None if not set.
        source: where its data is; None for a drive without a medium.
    """

    target: str
    bus: str | None
    device: str
    is_read_only: bool
    serial: str | None
    source: DiskSource | None


def parse_disks(text: str, volume_path: Callable[[str, str], str | None] | None = None) -> list[Disk]:
    """The disks in the XML of a domain.

    Args:
        text: what `virsh dumpxml` prints.
        volume_path: finds the path of a volume by the names of its pool and of itself, if it can.

    Raises:
        GuestError: the XML does not parse.
    """
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise GuestError(f"libvirt: the configuration of the domain does not parse: {error}") from None

    def source_of(element: Any, depth: int = 0) -> DiskSource | None:
        source = element.find("source")
        if source is None:
            return None
        kind = element.get("type", "file")
        driver = element.find("format" if element.tag == "backingStore" else "driver")
        below = element.find("backingStore")
        path, location = _place(kind, source, volume_path)
        return DiskSource(
            kind=kind,
            path=path,
            location=location,
            format=driver.get("type") if driver is not None else None,
            backing=source_of(below, depth + 1) if below is not None and depth < _DEEPEST_CHAIN else None,
        )

    return [
        Disk(
            target=_attribute(disk, "target", "dev") or "",
            bus=_attribute(disk, "target", "bus"),
            device=disk.get("device", "disk"),
            is_read_only=disk.find("readonly") is not None,
            serial=disk.findtext("serial"),
            source=source_of(disk),
        )
        for disk in root.iterfind("./devices/disk")
    ]


def _place(
    kind: str, source: Any, volume_path: Callable[[str, str], str | None] | None
) -> tuple[str | None, str]:
    """The path of a source, if it has one, and what to call it."""
    if kind in ("file", "block"):
        path = source.get("file") or source.get("dev") or ""
        return path or None, path
    if kind == "volume":
        pool, volume = source.get("pool", ""), source.get("volume", "")
        return volume_path(pool, volume) if volume_path else None, f"{pool}/{volume}"
    if kind == "network":
        return None, f"{source.get('protocol', '')}:{source.get('name', '')}"
    return None, source.get("dir") or source.get("path") or kind


def _attribute(element: Any, child: str, name: str) -> str | None:
    found = element.find(child)
    value: str | None = found.get(name) if found is not None else None
    return value
