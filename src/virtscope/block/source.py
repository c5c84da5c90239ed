"""`BlockSource`: the bytes of a disk, a partition or a volume, read from anywhere.

Everything above (partition tables, LVM, filesystems) reads through this interface, and everything below (raw
files, qcow2 chains) implements it:

    source.size                     bytes
    source.read_at(offset, size)    exactly these bytes, or an error: never a short read, never a guess
    source.peek(offset, size)       what there is of them, for finding out what something is
    source.extents(start, end)      what is data and what is known to read as zeros

An image keeps one bounded cache of small reads; slices and mappings of it (partitions, logical volumes) pass
reads through to it, so that no byte is cached twice however deep the stack is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from virtscope.errors import FormatError, VirtscopeError

if TYPE_CHECKING:
    from typing import Self

    Extent = tuple[int, int, bool]
    """Offset, size, and whether these bytes are known to be zeros without being read."""

    Segment = tuple[int, int, "BlockSource | None", int]
    """Offset, size, the source they are in (None for zeros), and the offset there."""

MAXIMUM_READ = 1 << 28
"""The most bytes one read may ask for: sizes come from disks, and a damaged one must not take all memory."""

_BLOCK_SHIFT = 14
_BLOCK_SIZE = 1 << _BLOCK_SHIFT
_BLOCK_MASK = _BLOCK_SIZE - 1
_SMALL_READ = 2 * _BLOCK_SIZE
_BLOCKS_PER_GENERATION = 256


class BlockSource:
    """Bytes with an end. Subclasses implement `_read`, and `_extents` if they know of holes.

    Args:
        name: for messages: the file, the device.
        size: bytes.

    Attributes:
        name: as given.
        size: as given.
    """

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} of {self.size} bytes>"

    def read_at(self, offset: int, size: int) -> bytes:
        """The `size` bytes at `offset`.

        Raises:
            FormatError: they are not all there, or this part of the image is damaged.
            GuestError: the host could not read its file.
        """
        self._check(offset, size)
        return self._read(offset, size)

    def read_through(self, offset: int, size: int) -> bytes:
        """As `read_at`, but past the cache: for an image above this one, which has its own."""
        self._check(offset, size)
        return self._read(offset, size)

    def peek(self, offset: int, size: int) -> bytes:
        """As `read_at`, but only the bytes before the end: fewer than `size`, or none."""
        size = min(size, self.size - offset)
        return self.read_at(offset, size) if size > 0 <= offset else b""

    def extents(self, start: int = 0, end: int | None = None) -> Iterator[Extent]:
        """What is between `start` and `end` (by default all): `(offset, size, is_zero)`, in order, without
        gaps.

        Neighbours are joined, so that data and zeros alternate. `is_zero` is what is known without reading
        data: False does not say that there are other bytes than zeros.
        """
        end = self.size if end is None else min(end, self.size)
        if start < 0:
            raise ValueError(f"negative offset {start}")
        return joined_extents(self._extents(start, end)) if start < end else iter(())

    def close(self) -> None:
        """Let go of files; nothing can be read any more. Slices and mappings close nothing: they own
        nothing.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, offset: int, size: int) -> bytes:
        """The bytes of a range that is known to be inside."""
        raise NotImplementedError

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        """The extents of a range that is known to be inside and not empty; neighbours need not be joined."""
        yield start, end - start, False

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise FormatError(
                "disk",
                f"{self.name} is {self.size} bytes long, {size} bytes are wanted: damaged or truncated",
                offset=offset,
            )
        if size > MAXIMUM_READ:
            raise FormatError(
                "disk", f"{self.name}: {size} bytes wanted at once, the disk is damaged", offset=offset
            )


class CachedSource(BlockSource):
    """A source that remembers small reads, within a bound; large ones go straight to `_read`.

    The cache has two generations: blocks enter the young one and are promoted to it when met in the old one.
    When the young one is full it becomes the old one, and what was not met for a generation is forgotten.
    That is nearly LRU, at the price of one dictionary look-up a hit.
    """

    def __init__(self, name: str, size: int) -> None:
        super().__init__(name, size)
        self._young: dict[int, bytes] = {}
        self._old: dict[int, bytes] = {}

    def read_at(self, offset: int, size: int) -> bytes:
        """As of `BlockSource`."""
        if 0 < size <= _SMALL_READ and 0 <= offset <= self.size - size:
            index = offset >> _BLOCK_SHIFT
            within = offset & _BLOCK_MASK
            try:
                found = (self._young.get(index) or self._block(index))[within : within + size]
                while len(found) < size:
                    index += 1
                    found += (self._young.get(index) or self._block(index))[: size - len(found)]
            except VirtscopeError:
                return self._read(offset, size)  # what is wanted may be whole where its neighbours are not
            return found
        self._check(offset, size)
        return self._read(offset, size) if size else b""

    def close(self) -> None:
        """Let go of files, and of what was remembered."""
        self._young.clear()
        self._old.clear()

    def _block(self, index: int) -> bytes:
        """A block that is not in the young generation, and now is."""
        block = self._old.get(index)
        if block is None:
            start = index << _BLOCK_SHIFT
            block = self._read(start, min(_BLOCK_SIZE, self.size - start))
        if len(self._young) >= _BLOCKS_PER_GENERATION:
            self._old = self._young
            self._young = {}
        self._young[index] = block
        return block


class Slice(BlockSource):
    """A part of another source, such as a partition of a disk.

    Args:
        parent: the source; a slice of a slice reads from the first one's parent.
        start: the offset in it.
        size: bytes; a slice that reaches past its parent's end can be read up to there.
        name: for messages.
    """

    def __init__(self, parent: BlockSource, start: int, size: int, name: str = "") -> None:
        super().__init__(name or parent.name, size)
        if start < 0 or size < 0:
            raise ValueError(f"a slice cannot begin at {start} and have {size} bytes")
        self._fits = start + size <= parent.size
        inner = isinstance(parent, Slice) and parent._fits and self._fits
        self.parent: BlockSource = parent.parent if inner and isinstance(parent, Slice) else parent
        self.start: int = start + parent.start if inner and isinstance(parent, Slice) else start

    def read_at(self, offset: int, size: int) -> bytes:
        """As of `BlockSource`."""
        if offset < 0 or size < 0 or offset + size > self.size:
            self._check(offset, size)
        return self.parent.read_at(self.start + offset, size)

    def read_through(self, offset: int, size: int) -> bytes:
        """As of `BlockSource`."""
        self._check(offset, size)
        return self.parent.read_through(self.start + offset, size)

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        shift = self.start
        reached = start
        for offset, size, is_zero in self.parent.extents(start + shift, end + shift):
            yield offset - shift, size, is_zero
            reached = offset - shift + size
        if reached < end:  # what the parent does not have is not zeros: reading it is an error
            yield reached, end - reached, False


class Mapped(BlockSource):
    """Pieces of sources, one after the other: a linear volume, a thin volume, a snapshot.

    Args:
        name: for messages.
        size: bytes.
        segments: `(offset, size, source, source_offset)` in order; `source` is None for zeros. Reading what
        no
            segment covers is an error.
    """

    def __init__(self, name: str, size: int, segments: Iterable[Segment]) -> None:
        super().__init__(name, size)
        self._segments: list[Segment] = []
        self._starts: list[int] = []
        reached = 0
        for offset, length, source, source_offset in segments:
            if offset < reached or length <= 0:
                raise FormatError("volume", f"{name}: its segments overlap", offset=offset)
            if self._segments and offset == reached:
                before_offset, before_length, before_source, before_start = self._segments[-1]
                if before_source is source and (
                    source is None or before_start + before_length == source_offset
                ):
                    self._segments[-1] = (before_offset, before_length + length, source, before_start)
                    reached += length
                    continue
            self._segments.append((offset, length, source, source_offset))
            self._starts.append(offset)
            reached = offset + length

    def _read(self, offset: int, size: int) -> bytes:
        pieces = []
        for start, length, source, source_offset in self._pieces(offset, offset + size):
            pieces.append(bytes(length) if source is None else source.read_at(source_offset, length))
            if start + length == offset + size and len(pieces) == 1:
                return pieces[0]
        return b"".join(pieces)

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        position = start
        index = max(bisect_right(self._starts, start) - 1, 0)
        while position < end:
            if index >= len(self._segments):
                yield position, end - position, False
                return
            offset, length, source, source_offset = self._segments[index]
            index += 1
            if offset + length <= position:
                continue
            if offset > position:
                gap = min(offset, end) - position
                yield position, gap, False
                position += gap
                if position == end:
                    return
            stop = min(offset + length, end)
            if source is None:
                yield position, stop - position, True
            else:
                shift = offset - source_offset
                for found, size, is_zero in source.extents(position - shift, stop - shift):
                    yield found + shift, size, is_zero
            position = stop

    def _pieces(self, start: int, end: int) -> Iterator[Segment]:
        """The parts of segments that cover a range, which has to be covered."""
        index = bisect_right(self._starts, start) - 1
        while start < end:
            if 0 <= index < len(self._segments):
                offset, length, source, source_offset = self._segments[index]
                stop = min(offset + length, end)
                if offset <= start < stop:
                    yield start, stop - start, source, source_offset + start - offset
                    start = stop
                    index += 1
                    continue
            raise FormatError("volume", f"{self.name}: nothing says where these bytes are", offset=start)


def joined_extents(extents: Iterable[Extent]) -> Iterator[Extent]:
    """The same extents with neighbours of one kind joined."""
    start = length = 0
    kind = False
    for offset, size, is_zero in extents:
        if length and is_zero is kind and offset == start + length:
            length += size
            continue
        if length:
            yield start, length, kind
        start, length, kind = offset, size, is_zero
    if length:
        yield start, length, kind


def printable(text: str) -> str:
    """A name for a message: what is not printable in it is escaped, for a disk may have written it."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
