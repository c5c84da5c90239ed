"""What all disk image formats have in common: `Image`, a source with a format, a file and perhaps a backing
image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from virtscope.block.source import CachedSource
from virtscope.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtscope.block.backing import Reference
    from virtscope.block.raw import HostFile


class Snapshot(NamedTuple):
    """An internal snapshot.

    Attributes:
        id: unique in its image; usually a number.
        name: as the user gave it.
        size: of the disk at that time, in bytes.
        vm_state_size: of the saved memory, in bytes; 0 when only the disk was saved.
        created: seconds since 1970.
        l1_table_offset: where its first table is.
        l1_size: the entries of that.
    """

    id: str
    name: str
    size: int
    vm_state_size: int
    created: float
    l1_table_offset: int
    l1_size: int


class Image(CachedSource):
    """A disk image. Subclasses read one format.

    Args:
        file: the file it is in, closed with the image.
        size: of the disk, in bytes.

    Attributes:
        format: the format's name, as qemu-img calls it.
        file: as given.
        backing: the image that has what this one has not, once it was opened.
        references: the files this image wants opened, by what they are for: "backing", "data".
        notes: sentences a user should see, because what is read depends on them.
    """

    format = "raw"

    def __init__(self, file: HostFile, size: int) -> None:
        super().__init__(file.name, size)
        self.file = file
        self.backing: Image | None = None
        self.references: dict[str, Reference] = {}
        self.notes: list[str] = []

    def attach(self, role: str, image: Image) -> None:
        """Take the opened image of one of the `references`, which is closed with this one."""
        if role == "backing":
            self.backing = image

    def snapshots(self) -> Iterator[Snapshot]:
        """The internal snapshots, in the order of their making."""
        return iter(())

    def select_snapshot(self, name: str) -> None:
        """Read an internal snapshot from now on, which is given by its ID or else by its name.

        Raises:
            UsageError: there is no such snapshot.
        """
        raise UsageError(f"{self.name} is {self.format} and has no internal snapshot {name!r}")

    def chain(self) -> Iterator[Image]:
        """This image, its backing image, the backing image of that, and so on."""
        image: Image | None = self
        while image is not None:
            yield image
            image = image.backing

    def close(self) -> None:
        """Close the files of the whole chain."""
        for image in self.chain():
            image._close_own()

    def _close_own(self) -> None:
        super().close()
        self.file.close()

    def _below(self, offset: int, size: int) -> bytes:
        """What is read where this image has nothing: the backing image's bytes, zeros after its end."""
        backing = self.backing
        if backing is None:
            return bytes(size)
        there = backing.size - offset
        if size <= there:
            return backing.read_through(offset, size)
        return backing.read_through(offset, there) + bytes(size - there) if there > 0 else bytes(size)

    def _below_extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """The extents of a range where this image has nothing."""
        backing = self.backing
        reached = start
        if backing is not None and start < backing.size:
            reached = min(end, backing.size)
            yield from backing.extents(start, reached)
        if reached < end:
            yield reached, end - reached, True
