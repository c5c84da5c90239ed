"""A Linux kernel found in a guest's memory: its addresses, symbols, types and structures.

`find_kernel` finds it. A `Kernel` reads kernel virtual memory (`read`, `record`, `list_of`), knows symbols both ways
(`symbol`, `symbolize`) and the layouts of structures (`struct`). A view is a function of a `Kernel`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from virtscope.errors import CorruptData, NotMapped
from virtscope.kernel import collections
from virtscope.kernel.layouts import StructLayout
from virtscope.kernel.records import Record

if TYPE_CHECKING:
    import drgn

    from virtscope.kernel.cache import KernelCache
    from virtscope.kernel.paging import AddressSpace
    from virtscope.memory.physical import PhysicalMemory

T = TypeVar("T")


class Kernel:
    """A running (or dumped) Linux kernel. Made by `find_kernel`.

    Attributes:
        memory: the guest-physical memory it was found in.
        arch: "x86_64".
        release: as `uname -r` ("6.1.0-56-amd64").
        banner: as /proc/version, without the line end.
        build_id: the kernel's GNU build id in hex, None when it is not known.
        vmcoreinfo: the keys and values of its VMCOREINFO note; empty when there is none.
        evidence: the independent facts by which it was accepted, as sentences.
        has_types: whether full type information (BTF) is there; without it few members of few structures are known.
        notes: sentences a user should see when results depend on them.
    """

    memory: PhysicalMemory
    arch: str
    release: str
    banner: str
    build_id: str | None
    vmcoreinfo: dict[str, str]
    evidence: tuple[str, ...]
    has_types: bool
    notes: list[str]

    # Memory

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at kernel virtual `address`.

        Raises:
            NotMapped: part of the range is not mapped.
        """
        raise NotImplementedError

    def read_cstring(self, address: int, limit: int = 4096) -> bytes:
        """The bytes at `address` up to the first NUL, at most `limit` of them; raises NotMapped."""
        raise NotImplementedError

    def read_u32(self, address: int) -> int:
        """The unsigned 32-bit number at `address`; raises NotMapped."""
        return int.from_bytes(self.read(address, 4), "little")

    def read_u64(self, address: int) -> int:
        """The unsigned 64-bit number at `address`; raises NotMapped."""
        return int.from_bytes(self.read(address, 8), "little")

    def read_pointer(self, address: int) -> int:
        """The pointer (unsigned long) at `address`; raises NotMapped."""
        return int.from_bytes(self.read(address, 8), "little")

    def user_space(self, pgd: int) -> AddressSpace:
        """The user address space whose page table root is at kernel address `pgd` (`mm_struct.pgd`).

        Its `read(address, size)` raises NotMapped for pages that are not resident.
        """
        raise NotImplementedError

    def refresh(self) -> None:
        """Forget remembered pages and translations, so that what follows sees the guest as it is now.

        A view of a live guest calls this when it starts.
        """
        raise NotImplementedError

    def retried(self, read: Callable[[], T], attempts: int = 4) -> T:
        """The result of `read()`, called again when what it read was torn by the running guest.

        The guest changes its structures while they are read; a walk can follow a pointer that has just become
        stale. `read` should read all of what belongs together and return it whole. Remembered pages are dropped
        before every attempt. A dump is never retried: it stays as it is.

        Raises:
            CorruptData: what the last attempt raised (NotMapped is turned into it).
        """
        last: CorruptData | NotMapped | None = None
        for _ in range(attempts if self.memory.is_live else 1):
            self.refresh()
            try:
                return read()
            except (CorruptData, NotMapped) as error:
                last = error
        assert last is not None
        if isinstance(last, CorruptData):
            raise last
        raise CorruptData(str(last)) from last

    # Symbols

    def symbol(self, name: str) -> int:
        """The address of the symbol `name`: from kallsyms, VMCOREINFO, or found by content.

        For per-CPU variables this is what kallsyms says; `percpu` makes an address of it.

        Raises:
            UnknownLayout: the kernel's symbol table has no such name.
        """
        raise NotImplementedError

    def has_symbol(self, name: str) -> bool:
        """Whether `symbol(name)` would give an address."""
        raise NotImplementedError

    def symbolize(self, address: int) -> tuple[str, int, str | None] | None:
        """The (function or object name, offset into it, module name or None) of a kernel address; None when unknown."""
        raise NotImplementedError

    def percpu(self, symbol: str | int, cpu: int) -> int:
        """The address of a per-CPU variable, by symbol name or by its per-CPU pointer, on `cpu`.

        Raises:
            UnknownLayout: no such symbol, or where per-CPU areas are is not known.
        """
        raise NotImplementedError

    def online_cpus(self) -> tuple[int, ...]:
        """The numbers of the CPUs that are online, ascending; raises UnknownLayout."""
        raise NotImplementedError

    def possible_cpus(self) -> tuple[int, ...]:
        """The numbers of the CPUs that could be online, ascending; raises UnknownLayout."""
        raise NotImplementedError

    # Types

    def struct(self, name: str) -> StructLayout:
        """The layout of a struct or union (by tag) or a typedef of one.

        Raises:
            UnknownLayout: this kernel has no such structure, or its layout is not known.
        """
        raise NotImplementedError

    def has_struct(self, name: str) -> bool:
        """Whether `struct(name)` would give a layout."""
        raise NotImplementedError

    def enum(self, name: str) -> dict[str, int]:
        """The enumerators of `enum name`; raises UnknownLayout."""
        raise NotImplementedError

    def enumerator(self, name: str) -> int:
        """The value of one enumerator of whichever enum has it ("LOG_CONT"); raises UnknownLayout."""
        raise NotImplementedError

    # Structures

    def record(self, struct: str | StructLayout, address: int) -> Record:
        """A snapshot of the structure at kernel `address`, read in one go.

        Raises:
            UnknownLayout: no such structure.
            NotMapped: nothing is mapped there.
        """
        layout = self.struct(struct) if isinstance(struct, str) else struct
        return Record(self, layout, address, self.read(address, layout.size))

    def variable(self, name: str) -> Record:
        """A snapshot of the global structure `name` ("init_task", "init_uts_ns"), its type being known by declaration.

        Raises:
            UnknownLayout: no such symbol, or its type is not declared.
        """
        raise NotImplementedError

    def list_of(self, head: int, struct: str, member: str) -> Iterator[Record]:
        """The structures on the `list_head` list whose head is at `head`; see `collections.list_of`."""
        return collections.list_of(self, head, struct, member)

    @property
    def prog(self) -> drgn.Program:
        """The kernel as a drgn Program, ready for drgn's helpers; made on first use.

        Raises:
            UnknownLayout: the kernel has no BTF.
            MissingDependency: drgn is not installed.
        """
        raise NotImplementedError

    def _pointee(self, layout: StructLayout, address: int, what: str) -> Record:
        """A structure that a pointer named `what` points to; raises CorruptData for a wild pointer."""
        try:
            return self.record(layout, address)
        except NotMapped:
            raise CorruptData(f"{what} leads to {address:#x}, where nothing is mapped") from None


def find_kernel(memory: PhysicalMemory, *, cache: KernelCache | None = None) -> Kernel:
    """The Linux kernel in `memory`.

    Args:
        memory: the guest-physical memory.
        cache: where learned layouts and symbols are kept; the user's cache folder when None.

    Raises:
        KernelNotFound: there is none: a guest still in firmware, or another operating system.
    """
    raise NotImplementedError
