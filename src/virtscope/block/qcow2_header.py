"""What stands around the tables of a qcow2 image: header, extensions, names of features, snapshots.

Specified in QEMU's docs/interop/qcow2.txt, whose names the patterns use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from virtscope.bitmatch import pattern
from virtscope.block.backing import parse_reference
from virtscope.block.image import Snapshot
from virtscope.block.records import parse_record, read_record
from virtscope.block.source import printable
from virtscope.errors import FormatError, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtscope.block.backing import Reference
    from virtscope.block.raw import HostFile

QCowHeader = pattern(
    "QCowHeader",
    """
    big
    magic                   : b"QFI\\xfb"
    version                 : 32 in (2, 3)
    backing_file_offset     : 64
    backing_file_size       : 32 check backing_file_size <= 1023
    cluster_bits            : 32 check 9 <= cluster_bits <= 21
    disk_size               : 64 check disk_size < 1 << 63
    crypt_method            : 32
    l1_size                 : 32 check l1_size <= 1 << 22
    l1_table_offset         : 64
    refcount_table_offset   : 64
    refcount_table_clusters : 32
    nb_snapshots            : 32
    snapshots_offset        : 64
    """,
)

QCowHeaderV3 = pattern(
    "QCowHeaderV3",
    """
    big
    incompatible_features : 64
    compatible_features   : 64
    autoclear_features    : 64
    refcount_order        : 32
    header_length         : 32 check header_length >= 104 and header_length % 8 == 0
    """,
)

QCowExtension = pattern("QCowExtension", "big; type : 32; length : 32")

QCowFeature = pattern("QCowFeature", "big; type : 8; bit : 8; name : bytes(46)")

QCowSnapshotHeader = pattern(
    "QCowSnapshotHeader",
    """
    big
    l1_table_offset : 64
    l1_size         : 32 check l1_size <= 1 << 22
    id_str_size     : 16
    name_size       : 16
    date_sec        : 32
    date_nsec       : 32
    vm_clock_nsec   : 64
    vm_state_size   : 32
    extra_data_size : 32 check extra_data_size <= 1024
    """,
)

QCowSnapshotExtraData = pattern("QCowSnapshotExtraData", "big; vm_state_size_large : 64; disk_size : 64")

_BACKING_FORMAT = 0xE2792ACA
_FEATURE_NAMES = 0x6803F857
_DATA_FILE = 0x44415441
_END = 0

_CORRUPT = 1 << 1
_EXTERNAL_DATA = 1 << 2
_COMPRESSION = 1 << 3
_EXTENDED_L2 = 1 << 4
_DIRTY = 1 << 0
_KNOWN = _DIRTY | _CORRUPT | _EXTERNAL_DATA | _COMPRESSION | _EXTENDED_L2

_ENCRYPTION = {1: "AES", 2: "LUKS"}
_V2_HEADER_LENGTH = 72
_MAXIMUM_EXTENSIONS = 1000
_MAXIMUM_SNAPSHOTS = 65536


class Header(NamedTuple):
    """What is known of a qcow2 image from its first cluster.

    Attributes:
        version: 2 or 3.
        size: of the disk, in bytes.
        cluster_bits: the power of two that is the cluster size.
        l1_table_offset: where the first table is.
        l1_size: its entries.
        has_subclusters: whether table entries are extended by bitmaps.
        compression_type: 0 for deflate, 1 for zstd.
        nb_snapshots: how many internal snapshots there are.
        snapshots_offset: where their table is.
        references: the files it needs, as of `image.Image`.
        notes: as of `image.Image`.
    """

    version: int
    size: int
    cluster_bits: int
    l1_table_offset: int
    l1_size: int
    has_subclusters: bool
    compression_type: int
    nb_snapshots: int
    snapshots_offset: int
    references: dict[str, Reference]
    notes: list[str]


def read_header(file: HostFile) -> Header:
    """Read the header of an image and what follows it in the first cluster.

    Raises:
        FormatError: it is damaged.
        UnsupportedFeature: the image is encrypted, or has an incompatible feature that is not known.
    """
    head = file.peek(0, 4096)
    base = parse_record(QCowHeader, head, "qcow2", 0)
    if base.crypt_method:
        method = _ENCRYPTION.get(base.crypt_method, f"method {base.crypt_method}")
        raise UnsupportedFeature(
            "qcow2",
            f"{file.name} is encrypted with {method}, which is not read; qemu-img convert can decrypt it",
            field="crypt_method",
            offset=32,
        )
    features = compression_type = 0
    length = _V2_HEADER_LENGTH
    if base.version >= 3:
        more = parse_record(QCowHeaderV3, head, "qcow2", 0, _V2_HEADER_LENGTH)
        features, length = more.incompatible_features, more.header_length
        if length > 104 and len(head) > 104:
            compression_type = head[104]
    end = min(base.backing_file_offset or file.size, 1 << base.cluster_bits, file.size)
    extensions = dict(_extensions(file, length, end))
    if features & ~_KNOWN:
        names = _feature_names(extensions.get(_FEATURE_NAMES, b""), features & ~_KNOWN)
        raise UnsupportedFeature(
            "qcow2", f"{file.name} needs features that are not known: {names}", field="incompatible_features"
        )
    if compression_type > 1 or (compression_type and not features & _COMPRESSION):
        raise UnsupportedFeature(
            "qcow2", f"unknown compression {compression_type}", field="compression_type", offset=104
        )
    if features & _EXTENDED_L2 and base.cluster_bits < 14:
        raise FormatError("qcow2", "clusters too small for subclusters", field="cluster_bits", offset=20)
    notes = []
    if features & _CORRUPT:
        notes.append(f"{file.name} is marked as corrupt by QEMU: what is read from it may be wrong")
    return Header(
        version=base.version,
        size=base.disk_size,
        cluster_bits=base.cluster_bits,
        l1_table_offset=base.l1_table_offset,
        l1_size=base.l1_size,
        has_subclusters=bool(features & _EXTENDED_L2),
        compression_type=compression_type,
        nb_snapshots=base.nb_snapshots,
        snapshots_offset=base.snapshots_offset,
        references=_references(file, base.backing_file_offset, base.backing_file_size, features, extensions),
        notes=notes,
    )


def read_snapshots(file: HostFile, header: Header) -> Iterator[Snapshot]:
    """The internal snapshots of an image.

    Raises:
        FormatError: their table is damaged.
    """
    if header.nb_snapshots > _MAXIMUM_SNAPSHOTS:
        raise FormatError("qcow2", f"{header.nb_snapshots} are too many", field="nb_snapshots", offset=60)
    offset = header.snapshots_offset
    for _ in range(header.nb_snapshots):
        found = read_record(file, QCowSnapshotHeader, offset, "qcow2")
        variable = offset + QCowSnapshotHeader.size_bytes
        length = found.extra_data_size + found.id_str_size + found.name_size
        data = file.read_at(variable, length)
        extra, names = data[: found.extra_data_size], data[found.extra_data_size :]
        vm_state_size, size = found.vm_state_size, header.size
        if len(extra) >= 16:
            large = parse_record(QCowSnapshotExtraData, extra, "qcow2", variable)
            vm_state_size, size = large.vm_state_size_large, large.disk_size
        elif len(extra) >= 8:
            vm_state_size = int.from_bytes(extra[:8], "big")
        yield Snapshot(
            id=names[: found.id_str_size].decode(errors="surrogateescape"),
            name=names[found.id_str_size :].decode(errors="surrogateescape"),
            size=size,
            vm_state_size=vm_state_size,
            created=found.date_sec + found.date_nsec / 1e9,
            l1_table_offset=found.l1_table_offset,
            l1_size=found.l1_size,
        )
        offset = (variable + length + 7) & ~7


def _extensions(file: HostFile, offset: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Type and data of the header extensions that are between two offsets."""
    for _ in range(_MAXIMUM_EXTENSIONS):
        if offset + 8 > end:
            return
        extension = read_record(file, QCowExtension, offset, "qcow2")
        if extension.type == _END:
            return
        if extension.length > end - offset - 8:
            raise FormatError(
                "qcow2", f"a header extension of {extension.length} bytes has no room", offset=offset
            )
        yield extension.type, file.read_at(offset + 8, extension.length)
        offset = (offset + 8 + extension.length + 7) & ~7


def _references(
    file: HostFile, offset: int, size: int, features: int, extensions: dict[int, bytes]
) -> dict[str, Reference]:
    """The data file and the backing file that an image names."""
    references = {}
    if features & _EXTERNAL_DATA:
        name = extensions.get(_DATA_FILE, b"").decode(errors="surrogateescape")
        references["data"] = parse_reference(name, file.path, "raw")
        references["data"].format = "raw"
    if offset:
        name = file.read_at(offset, size).decode(errors="surrogateescape")
        format = extensions.get(_BACKING_FORMAT, b"").decode(errors="replace") or None
        references["backing"] = parse_reference(name, file.path, format)
    return references


def _feature_names(table: bytes, unknown: int) -> str:
    """The names of unknown incompatible features, or their bits where the image does not name them."""
    names = {}
    if len(table) >= 48:
        for feature in QCowFeature.iter(table):
            if feature.type == 0:
                names[feature.bit] = feature.name.rstrip(b"\0").decode(errors="replace")
    bits = [bit for bit in range(64) if unknown >> bit & 1]
    return printable(", ".join(names.get(bit) or f"bit {bit}" for bit in bits))
