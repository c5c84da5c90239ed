"""The parts of a guest's file that hold data, so that what is copied out stays as sparse as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.errors import FormatError

if TYPE_CHECKING:
    from virtscope.fs.tree import Node

_CHUNK = 8 << 20


def data_of(node: Node, size: int) -> Iterator[tuple[int, bytes]]:
    """The parts of a file that are not known to be zeros: (offset, bytes), in order.

    Raises:
        FormatError: the file is damaged.
    """
    for start, length, is_zero in data_map(node, size):
        position = start
        end = start + length
        while not is_zero and position < end:
            data = node.filesystem.read(node.inode, position, min(_CHUNK, end - position))
            if not data:
                raise FormatError(node.filesystem.kind, f"{os.fsdecode(node.path)} ends before its size")
            yield position, data
            position += len(data)


def data_map(node: Node, size: int) -> Iterator[tuple[int, int, bool]]:
    """What of a file is data and what reads as zeros: (offset, size, is_zero), in order, neighbours joined.

    Holes of the image below the filesystem count as zeros, too.
    """
    start = end = 0
    kind = False
    for extent in node.filesystem.extents(node.inode):
        if extent.offset >= size:
            break
        pieces = [(extent.offset, extent.size, extent.is_zero)]
        if not extent.is_zero and extent.disk_offset is not None:
            shift = extent.offset - extent.disk_offset
            source = node.filesystem.source
            pieces = [
                (offset + shift, length, is_zero)
                for offset, length, is_zero in source.extents(
                    extent.disk_offset, extent.disk_offset + extent.size
                )
            ]
        for offset, length, is_zero in pieces:
            if is_zero is kind and offset == end:
                end += length
                continue
            if end > start:
                yield start, end - start, kind
            start, end, kind = offset, offset + length, is_zero
    if end > start:
        yield start, min(end, size) - start, kind
