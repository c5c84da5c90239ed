"""Disk images as bytes: `open_image` finds out the format and opens the whole chain.

`FORMATS` is the ordered registry. A format is a module with a class that takes the opened file and gives an
`image.Image`; its module is imported when an image of that format is met.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.errors import FormatError, GuestNotFound, UnsupportedFeature, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from virtscope.block.backing import Reference
    from virtscope.block.image import Image
    from virtscope.block.raw import HostFile

FORMATS = (
    # name, the bytes it begins with, class; the first that fits is the format, and "raw" is what fits none
    ("qcow", b"QFI\xfb\0\0\0\1", "virtscope.block.qcow:QcowImage"),
    ("qcow2", b"QFI\xfb", "virtscope.block.qcow2:Qcow2Image"),
    ("raw", b"", "virtscope.block.raw:RawImage"),
)

NOT_READ = (
    ("QED", b"QED\0"),
    ("VMDK", b"KDMV"),
    ("VMDK", b"COWD"),
    ("VMDK descriptor", b"# Disk DescriptorFile"),
    ("VHDX", b"vhdxfile"),
    ("VHD", b"conectix"),
    ("VDI", b"<<< Oracle VM VirtualBox Disk Image >>>"),
    ("VDI", b"<<< QEMU VM Virtual Disk Image >>>"),
    ("Parallels", b"WithoutFreeSpace"),
    ("Parallels", b"WithouFreSpacExt"),
)
"""Formats that are known and not read: taking one for a raw disk would show an empty guest."""

_MAXIMUM_CHAIN = 200


def open_image(
    path: str,
    format: str | None = None,
    *,
    allow_backing: Sequence[str] = (),
    snapshot: str | None = None,
) -> Image:
    """Open a disk image and what it is based on, for reading.

    Args:
        path: a file or a block device.
        format: what it is ("raw", "qcow2", "qcow"), which is then believed, together with what it says of its
            backing files. By default it is found out from the first bytes, and then backing files have to be
            in the folder of the image that names them.
        allow_backing: further folders and files that may be backing files.
        snapshot: the ID or name of an internal snapshot to read instead of the current state.

    Raises:
        GuestError: a file cannot be opened, or may not be.
        FormatError: an image is damaged, or its format or a feature is not read.
        UsageError: there is no such format or snapshot.
    """
    if format is not None and format not in (name for name, _, _ in FORMATS):
        known = ", ".join(name for name, _, _ in FORMATS)
        raise UsageError(f"the disk image format {format!r} is not one of {known}")
    top = _open_one(path, format)
    try:
        if snapshot is not None:
            top.select_snapshot(snapshot)
        _open_rest(top, trusted=format is not None, allow_backing=allow_backing)
    except BaseException:
        top.close()
        raise
    return top


def probe(head: bytes) -> str:
    """The name of the format of a file that begins with `head`.

    Raises:
        UnsupportedFeature: it is a format that is known but not read.
    """
    for name, magic, _ in FORMATS:
        if magic and head.startswith(magic):
            return name
    for name, magic in NOT_READ:
        if head.startswith(magic):
            raise UnsupportedFeature(
                "disk",
                f"this is a {name} image, which is not read; qemu-img convert makes a qcow2 of it"
                " (if a raw disk only looks like one, use --format raw)",
            )
    return "raw"


def _open_one(path: str, format: str | None, reference: Reference | None = None) -> Image:
    """Open one image without what it refers to."""
    from virtscope.block.raw import HostFile, RawImage

    file = HostFile(path)
    try:
        if format is None:
            try:
                format = probe(file.peek(0, 64))
            except UnsupportedFeature as error:
                raise UnsupportedFeature("disk", f"{file.name}: {error.problem}") from None
        if format == "raw":
            return RawImage(file, reference.start, reference.size) if reference else RawImage(file)
        return _opener(format, path)(file)
    except BaseException:
        file.close()
        raise


def _opener(format: str, path: str) -> Callable[[HostFile], Image]:
    for name, _, place in FORMATS:
        if name == format:
            from importlib import import_module

            module, _, name = place.partition(":")
            found: Callable[[HostFile], Image] = getattr(import_module(module), name)
            return found
    raise UnsupportedFeature("disk", f"{path} is said to be {format!r:.40}, a format that is not read")


def _open_rest(top: Image, trusted: bool, allow_backing: Sequence[str]) -> None:
    """Open what `top` refers to, and what that refers to."""
    seen = {top.file.identity: top.file.path}
    image: Image | None = top
    while image is not None:
        references = image.references
        image_below = None
        for role, reference in references.items():
            if len(seen) > _MAXIMUM_CHAIN:
                raise FormatError(image.format, f"{top.name} is based on more than {_MAXIMUM_CHAIN} images")
            if not trusted:
                from virtscope.block.backing import check_allowed

                check_allowed(reference, image.file.path, image.format, role, allow_backing)
            opened = _open_referred(reference, image, role)
            image.attach(role, opened)
            if opened.file.identity in seen:
                raise FormatError(
                    image.format, f"{image.name} is based on {opened.name}, which is based on it in turn"
                )
            seen[opened.file.identity] = opened.file.path
            if role == "backing":
                image_below = opened
                # What was found out from its bytes is believed no further than the first image would be.
                trusted = trusted and reference.format is not None
        image = image_below


def _open_referred(reference: Reference, image: Image, role: str) -> Image:
    try:
        opened = _open_one(reference.path, reference.format, reference)
    except GuestNotFound:
        from virtscope.block.source import printable

        raise GuestNotFound(
            f"{printable(reference.path)}, the {role} file of {image.name}, is not there"
        ) from None
    if isinstance(reference.backing, bool):
        opened.references.pop("backing", None)
    elif reference.backing is not None:
        opened.references["backing"] = reference.backing
    return opened
