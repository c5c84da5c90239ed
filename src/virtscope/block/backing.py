"""Which files an image may make us open: `Reference`, parsed from what the image says, and `allowed`.

An image names its backing file as a path, relative to its own folder or absolute, or as a QEMU block device
description, `json:{"driver": "qcow2", "file": {"driver": "file", "filename": "/base.qcow2"}}`.

A guest that owns a raw disk can write any header onto it, so what a header says is only believed as far as
it can do no harm. Where the user (or libvirt) said what the image is, the chain is followed. Where the
format was found by looking at the bytes, the image may name files of its own folder and of folders the user
allows, and no devices.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from virtscope.block.source import printable
from virtscope.errors import BackingRefused, FormatError, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Sequence

_FILE_DRIVERS = ("file", "host_device", "host_cdrom")
_MAXIMUM_NESTING = 8


class Reference:
    """A file that an image names.

    Attributes:
        path: where it is, made absolute by the image's folder if it was relative.
        format: its format, if the image says it.
        start: where in the file the image begins, for raw ones; else 0.
        size: how much of the file it is, for raw ones; None for all.
        backing: the file that is to be its backing image whatever it says itself; False for none.
    """

    __slots__ = ("backing", "format", "path", "size", "start")

    def __init__(self, path: str, format: str | None = None) -> None:
        self.path = path
        self.format = format
        self.start = 0
        self.size: int | None = None
        self.backing: Reference | bool | None = None


def parse_reference(text: str, image_path: str, format: str | None = None) -> Reference:
    """What `text`, the name of a backing or data file, means in an image at `image_path`.

    Args:
        text: as the image has it.
        image_path: the path under which the image was opened.
        format: the format that the image gives beside the name, if it does.

    Raises:
        UnsupportedFeature: it is no file of this host.
        FormatError: it makes no sense.
    """
    if text.startswith("json:"):
        import json

        try:
            described = json.loads(text[5:])
        except (ValueError, RecursionError):
            raise FormatError(
                "disk", f"{printable(image_path)} names {text!r:.80}, which is no JSON"
            ) from None
        reference = _described(described, image_path, 0)
        reference.format = reference.format or format
        return reference
    if "\0" in text or not text:
        raise FormatError("disk", f"{printable(image_path)} names the file {text!r:.80}, which cannot be")
    scheme, colon, rest = text.partition(":")
    if colon and "/" not in scheme:
        if scheme not in _FILE_DRIVERS:
            raise UnsupportedFeature(
                "disk",
                f"{printable(image_path)} needs {text!r:.200}, and {scheme!r} is not a file of this host",
            )
        text = rest
    return Reference(os.path.join(os.path.dirname(image_path), text), format)


def _described(node: object, image_path: str, depth: int) -> Reference:
    """The reference in a block device description, nested or with dotted keys."""
    if depth > _MAXIMUM_NESTING:
        raise FormatError("disk", f"{printable(image_path)} describes its backing file in too many layers")
    if isinstance(node, str):
        raise UnsupportedFeature(
            "disk", f"{printable(image_path)} names the block device {node!r:.80} of a running QEMU"
        )
    if not isinstance(node, dict):
        raise FormatError("disk", f"{printable(image_path)} describes its backing file as {node!r:.80}")
    options = _nested(node)
    driver = options.get("driver", "file" if "filename" in options else None)
    name = options.get("filename")
    if isinstance(driver, str) and driver in _FILE_DRIVERS and isinstance(name, str):
        if "\0" in name or not name:
            raise FormatError("disk", f"{printable(image_path)} names the file {name!r:.80}, which cannot be")
        return Reference(os.path.join(os.path.dirname(image_path), name.removeprefix("file:")))
    if "file" not in options:
        raise UnsupportedFeature(
            "disk", f"{printable(image_path)} needs a {driver!r:.40} device, which is not read"
        )
    reference = _described(options["file"], image_path, depth + 1)
    if reference.format is not None:
        raise UnsupportedFeature(
            "disk", f"{printable(image_path)} has its backing file in layers that are not read"
        )
    reference.format = driver if isinstance(driver, str) else None
    if driver == "raw":
        reference.start = _number(options.get("offset", 0), image_path)
        if "size" in options:
            reference.size = _number(options["size"], image_path)
    if "backing" in options:
        backing = options["backing"]
        reference.backing = False if backing is None else _described(backing, image_path, depth + 1)
    return reference


def _nested(options: dict[str, object]) -> dict[str, object]:
    """Options with dotted keys ("file.filename") as nested ones."""
    nested: dict[str, object] = {}
    for key, value in options.items():
        outer, dot, inner = key.partition(".")
        if dot:
            below = nested.setdefault(outer, {})
            if isinstance(below, dict):
                below[inner] = value
        else:
            nested[key] = value
    return nested


def _number(value: object, image_path: str) -> int:
    try:
        number = int(value) if isinstance(value, int | str) else -1
    except ValueError:
        number = -1
    if number < 0:
        raise FormatError("disk", f"{printable(image_path)} gives {value!r:.40} for an offset or a size")
    return number


def check_allowed(
    reference: Reference, image_path: str, format: str, role: str, allow_backing: Sequence[str]
) -> None:
    """Let a file be opened that an image names whose format was probed, or not.

    Args:
        reference: the file.
        image_path: the path under which the image was opened.
        format: what the image was probed as.
        role: what the file is for, "backing" or "data".
        allow_backing: folders (and files) that the user allows.

    Raises:
        BackingRefused: it is outside of the image's folder and the allowed ones, or a device.
    """
    real = os.path.realpath(reference.path)
    for allowed in allow_backing:
        real_allowed = os.path.realpath(allowed)
        if real == real_allowed or real.startswith(os.path.join(real_allowed, "")):
            return
    folder = os.path.dirname(real)
    try:
        is_file = not stat.S_ISBLK(os.stat(real).st_mode)
    except (OSError, ValueError):
        is_file = True  # the attempt to open it will say what is wrong
    if is_file and folder in (
        os.path.realpath(os.path.dirname(image_path)),
        os.path.dirname(os.path.realpath(image_path)),
    ):
        return
    what = "outside of its own folder" if is_file else "which is a device"
    image, file, folder = map(printable, (image_path, reference.path, folder))
    raise BackingRefused(
        f"{image} was taken for {format} by its content, which a guest may have written, and names the {role}"
        f" file {file} {what}: allow that with --allow-backing {folder}, or say that the image is {format}"
        f" with --format {format}"
    )
