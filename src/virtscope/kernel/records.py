"""Snapshots of kernel structures.

A `Record` holds the bytes of one structure, read in one go, so that its members belong together as well as a
running guest allows; members are picked out of those bytes by name.
"""

from __future__ import annotations

from struct import error as StructError
from typing import TYPE_CHECKING, Any

from virtscope.errors import CorruptData, UnknownLayout
from virtscope.kernel.layouts import StructLayout

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel


class Record:
    """One structure of the guest's kernel, as it was when it was read.

    `record["pid"]` is the member's value: numbers as int (sign as declared), bool as bool, pointers as int,
    char arrays as bytes up to the first NUL, other arrays as a tuple, a bit-field as int. A structure inside
    is a `Record` over the same bytes (an array of structures a tuple of them). A path reaches into it in one
    step: `record["se.sum_exec_runtime"]`, `record["stat[2].count"]`. Members of anonymous structs and unions
    are members of the structure around them, as in C.

    Attributes:
        kernel: the kernel it is from.
        layout: its structure.
        address: its kernel virtual address (of this structure, also when it lies inside another).
    """

    __slots__ = ("_data", "_start", "address", "kernel", "layout")

    def __init__(
        self, kernel: Kernel, layout: StructLayout, address: int, data: bytes, start: int = 0
    ) -> None:
        self.kernel = kernel
        self.layout = layout
        self.address = address
        self._data = data
        self._start = start

    def __getitem__(self, path: str) -> Any:
        """The value of the member at `path`.

        Raises:
            UnknownLayout: this kernel's structure has no such member.
            CorruptData: the structure reaches past the end of mapped memory, and the member lies there.
        """
        try:
            return self.layout.getters[path](self._data, self._start)
        except StructError:
            raise self._outside(path) from None
        except UnknownLayout:
            member = self.layout.find(path)
            if member is None or member.kind != "S":
                raise
        # A structure: rare enough that it need not be compiled.
        if member.length is None:
            return self.inner(path)
        layout = self._target_layout(path)
        return tuple(
            self._inside(layout, member.offset + index * layout.size)
            for index in range(min(member.length, 65536))
        )

    def inner(self, path: str) -> Record:
        """The single structure at `path` inside this one, over the same bytes; raises UnknownLayout."""
        return self._inside(self._target_layout(path), self.layout.member(path).offset)

    def follow(self, path: str) -> Record | None:
        """What the pointer at `path` points to, read now; None when the pointer is NULL.

        Raises:
            UnknownLayout: no such member, or it points to no structure that is known.
            CorruptData: the pointer leads where no kernel data can be.
        """
        address = self[path]
        if not address:
            return None
        return self.kernel._pointee(self._target_layout(path), address, f"{self.layout.name}.{path}")

    def pointee(self, path: str) -> Record:
        """As `follow`, for a pointer that is never NULL in a sound kernel.

        Raises:
            UnknownLayout: no such member, or it points to no structure that is known.
            CorruptData: the pointer is NULL, or leads where no kernel data can be.
        """
        record = self.follow(path)
        if record is None:
            raise CorruptData(f"{self.layout.name}.{path} of the structure at {self.address:#x} is NULL")
        return record

    def has(self, path: str) -> bool:
        """Whether this kernel's structure has a member at `path`."""
        return self.layout.find(path) is not None

    def at(self, path: str) -> int:
        """The kernel address of the member at `path`; raises UnknownLayout."""
        return self.address + self.layout.member(path).offset

    def bytes_of(self, path: str) -> bytes:
        """The raw bytes of the member at `path` (a MAC address, say); raises UnknownLayout."""
        member = self.layout.member(path)
        start = self._start + member.offset
        data = self._data[start : start + member.size]
        if len(data) < member.size:
            raise self._outside(path)
        return data

    def get(self, path: str, default: Any = None) -> Any:
        """The value of the member at `path`, or `default` when this kernel's structure has none."""
        return self[path] if self.layout.find(path) is not None else default

    def __repr__(self) -> str:
        return f"<{self.layout.name} at {self.address:#x}>"

    def _outside(self, path: str) -> CorruptData:
        return CorruptData(
            f"{self.layout.name}.{path} of the structure at {self.address:#x} is not in memory"
        )

    def _target_layout(self, path: str) -> StructLayout:
        target = self.layout.member(path).target
        if target is None:
            raise UnknownLayout(f"{self.layout.name}.{path} is no known structure, nor a pointer to one")
        return self.kernel.struct(target)

    def _inside(self, layout: StructLayout, offset: int) -> Record:
        return Record(self.kernel, layout, self.address + offset, self._data, self._start + offset)
