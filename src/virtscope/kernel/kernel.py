"""A Linux kernel found in a guest's memory: its addresses, symbols, types and structures.

`find_kernel` (of `finding`) finds it. A `Kernel` reads kernel virtual memory (`read`, `record`, `list_of`),
knows symbols both ways (`symbol`, `symbolize`) and the layouts of structures (`struct`). A view is a function
of a `Kernel`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from virtscope.errors import (
    CorruptData,
    GuestMemoryError,
    NotMapped,
    UnknownLayout,
)
from virtscope.kernel import collections
from virtscope.kernel.declared import declared_struct
from virtscope.kernel.layouts import StructLayout
from virtscope.kernel.records import Record
from virtscope.memory.physical import PageCache

if TYPE_CHECKING:
    import drgn

    from virtscope.kernel.btf import Btf
    from virtscope.kernel.finding import Found
    from virtscope.kernel.kallsyms import Kallsyms
    from virtscope.kernel.layouts import LayoutSource
    from virtscope.kernel.modules import Module
    from virtscope.kernel.paging import AddressSpace
    from virtscope.kernel.structural import TaskShape
    from virtscope.memory.physical import PhysicalMemory

T = TypeVar("T")

_ADDRESS_MASK = (1 << 64) - 1
_MAX_READ = 256 << 20
_MAX_CPUS = 8192
_MAX_NEAR = 4096


class Kernel:
    """A running (or dumped) Linux kernel. Made by `find_kernel`.

    What is learned of the kernel (symbols, layouts) is kept for the next run by `close`.

    Attributes:
        memory: the guest-physical memory it was found in.
        arch: "x86_64".
        image: where the kernel's image is mapped (`locate.Image`).
        direct_map: where the kernel maps all physical memory; 0 when that is not known.
        banner: as /proc/version shows it, without the line end.
        release: as `uname -r` ("6.1.0-56-amd64"), taken from the banner.
        evidence: the independent facts by which it was accepted, as sentences.
        has_types: whether full type information (BTF) is there; without it a few members are known.
        has_symbols: whether a symbol table (kallsyms) is there.
        notes: sentences a user should see when results depend on them.
    """

    def __init__(self, found: Found) -> None:
        self._found = found
        self.image = found.image
        self.arch = found.image.arch
        self.memory: PhysicalMemory = found.image.memory
        self.banner = found.banner
        self.release = found.banner.split(" ")[2]
        self.evidence = found.evidence
        self.has_types = found.btf is not None
        self.has_symbols = found.kallsyms is not None
        self.notes: list[str] = list(found.notes)
        self._pages = PageCache(self.memory)
        self._space = found.image.address_space(self._pages, "kernel")
        self._layouts: dict[str, StructLayout] = {}
        self._addresses: dict[str, int | None] = {}
        self._source: LayoutSource | None = None
        self._modules: list[Module] | None = None
        self._task_shape: TaskShape | None = None
        self._vmcoreinfo: dict[str, str] | None = None
        self._build_id: str | None = ""
        self._prog: drgn.Program | None = None
        self.direct_map = found.direct_map
        self._physical_end = self.memory.segments[-1].end if found.direct_map else 0
        self._start, self._size, self._offset = found.image.start, found.image.size, found.image.physical

    # Memory

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at kernel virtual `address`.

        Small reads come from remembered pages, until `refresh`; longer ones always ask the guest, so that one
        structure is read in one go.

        Raises:
            NotMapped: part of the range is not mapped.
            CorruptData: `size` is negative, or more than any kernel object has.
        """
        if not 0 <= size <= _MAX_READ:
            raise CorruptData(f"kernel memory: {size} bytes at {address:#x} cannot be")
        physical = address - self.direct_map
        if not 0 <= physical < self._physical_end:
            if not 0 <= address - self._start < self._size:
                return self._space.read(address, size)
            physical = address - self._start + self._offset
        try:
            if (physical & 0xFFF) + size <= 4096:
                return self._pages.read(physical, size)
            return self.memory.read(physical, size)
        except GuestMemoryError:
            raise NotMapped(
                f"kernel memory: the guest has no memory at {address:#x} ({size} bytes)"
            ) from None

    def read_cstring(self, address: int, limit: int = 4096) -> bytes:
        """The bytes at `address` up to the first NUL, at most `limit` of them; raises NotMapped."""
        found = b""
        while len(found) < limit:
            size = min(4096 - (address & 0xFFF), limit - len(found))
            data = self.read(address, size)
            end = data.find(b"\0")
            if end >= 0:
                return found + data[:end]
            found += data
            address += size
        return found

    def read_u32(self, address: int) -> int:
        """The unsigned 32-bit number at `address`; raises NotMapped."""
        return int.from_bytes(self.read(address, 4), "little")

    def read_u64(self, address: int) -> int:
        """The unsigned 64-bit number at `address`; raises NotMapped."""
        return int.from_bytes(self.read(address, 8), "little")

    def read_pointer(self, address: int) -> int:
        """The pointer (unsigned long) at `address`; raises NotMapped."""
        return int.from_bytes(self.read(address, 8), "little")

    def translate(self, address: int) -> int:
        """The guest-physical address of a kernel virtual one, by the page tables; raises NotMapped."""
        return self._space.translate(address)

    def user_space(self, pgd: int) -> AddressSpace:
        """The user address space whose page table root is at kernel address `pgd` (`mm_struct.pgd`).

        Its `read(address, size)` raises NotMapped for pages that are not resident.

        Raises:
            NotMapped: nothing is mapped at `pgd`.
        """
        return self.image.address_space(self._pages, "user memory", self.translate(pgd))

    def refresh(self) -> None:
        """Forget remembered pages and translations, so that what follows sees the guest as it is now.

        A view of a live guest begins with this, or lets `retried` do it.
        """
        self._pages.forget()
        self._space.forget()
        self._modules = None

    def retried(self, read: Callable[[], T], attempts: int = 4) -> T:
        """The result of `read()`, called again when what it read was torn by the running guest.

        The guest changes its structures while they are read; a walk can follow a pointer that has just
        become stale. `read` should read all of what belongs together and return it whole. Remembered pages
        are dropped before every attempt. A dump is read once: it stays as it is.

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
        if isinstance(last, NotMapped):
            raise CorruptData(str(last)) from last
        assert last is not None
        raise last

    # Symbols

    def symbol(self, name: str) -> int:
        """The address of the symbol `name`: from kallsyms, VMCOREINFO, or found by content.

        For per-CPU variables this is what kallsyms says; `percpu` makes an address of it.

        Raises:
            UnknownLayout: the kernel's symbol table has no such name.
        """
        address = self._find_symbol(name)
        if address is None:
            raise UnknownLayout(
                f"this kernel ({self.release}) has no symbol {name}, or does not say where it is"
            )
        return address

    def has_symbol(self, name: str) -> bool:
        """Whether `symbol(name)` would give an address."""
        return self._find_symbol(name) is not None

    def symbolize(self, address: int) -> tuple[str, int, str | None] | None:
        """The (symbol, offset into it, module name or None for the kernel itself) of a kernel address.

        None when the address is in neither: in code made at run time (BPF), or nowhere.

        Raises:
            CorruptData, NotMapped: the list of modules is broken; `retried` is for that.
            UnknownLayout: how modules are kept is not known.
        """
        offset = address - self._start
        if 0 <= offset < self._size:
            near = self._found.learned.near.get(offset)
            if near is None:
                table = self.symbol_table()
                hit = table.nearest(address) if table is not None else None
                if hit is None or hit[0] < self._start:
                    return None
                near = hit[0] - self._start, hit[1]
                if len(self._found.learned.near) < _MAX_NEAR:
                    self._found.learned.near[offset] = near
                    self._found.learned.changed = True
            return near[1], offset - near[0], None
        from virtscope.kernel.modules import symbolize_in_module

        return symbolize_in_module(self.modules(), address)

    def modules(self) -> list[Module]:
        """The modules that are loaded, last loaded first; remembered until `refresh`.

        Raises:
            CorruptData, NotMapped: the list is broken; `retried` is for that.
            UnknownLayout: how modules are kept is not known.
        """
        if self._modules is None:
            from virtscope.kernel.modules import modules

            self._modules = modules(self)
        return self._modules

    def task_shape(self) -> TaskShape | None:
        """What `structural` infers of tasks without type information; None when that fails."""
        if self._task_shape is None:
            from virtscope.kernel.structural import task_shape

            self._task_shape = task_shape(self, self._table_symbol("init_task"))
        return self._task_shape

    def symbol_table(self) -> Kallsyms | None:
        """The kernel's own symbol table; None when it has none."""
        return self._found.symbol_table()

    def percpu(self, symbol: str | int, cpu: int) -> int:
        """The address of a per-CPU variable, by symbol name or by its per-CPU pointer, on `cpu`.

        Raises:
            UnknownLayout: no such symbol, or where per-CPU areas are is not known.
        """
        base = self.symbol(symbol) if isinstance(symbol, str) else symbol
        if not 0 <= cpu < _MAX_CPUS:
            raise UnknownLayout(f"there is no CPU {cpu}")
        return (base + self.read_u64(self.symbol("__per_cpu_offset") + 8 * cpu)) & _ADDRESS_MASK

    def online_cpus(self) -> tuple[int, ...]:
        """The numbers of the CPUs that are online, ascending; raises UnknownLayout."""
        return self._cpus("__cpu_online_mask")

    def possible_cpus(self) -> tuple[int, ...]:
        """The numbers of the CPUs that could be online, ascending; raises UnknownLayout."""
        return self._cpus("__cpu_possible_mask")

    # What the kernel says of itself

    @property
    def vmcoreinfo(self) -> dict[str, str]:
        """The keys and values of its VMCOREINFO; empty when it keeps none, or it is not found."""
        if self._vmcoreinfo is None:
            from virtscope.kernel.vmcoreinfo import parse_vmcoreinfo, read_vmcoreinfo

            self._vmcoreinfo = {}  # symbols are looked up in it: not while it is read
            text = read_vmcoreinfo(self)
            self._vmcoreinfo = parse_vmcoreinfo(text) if text else {}
        return self._vmcoreinfo

    @property
    def build_id(self) -> str | None:
        """The kernel's GNU build id in hex; None when it is not known."""
        if self._build_id == "":
            from virtscope.kernel.notes import read_build_id

            self._build_id = read_build_id(self)
        return self._build_id

    # Types

    def struct(self, name: str) -> StructLayout:
        """The layout of a struct or union (by tag) or a typedef of one.

        Raises:
            UnknownLayout: this kernel has no such structure, or its layout is not known.
        """
        layout = self._layouts.get(name)
        if layout is None:
            source = self._types()
            size = source.struct_size(name)
            if size is None:
                raise UnknownLayout(f"this kernel ({self.release}) has no {name}, or its layout is not known")
            layout = self._layouts[name] = StructLayout(name, size, source)
        return layout

    def has_struct(self, name: str) -> bool:
        """Whether `struct(name)` would give a layout."""
        return name in self._layouts or self._types().struct_size(name) is not None

    def enum(self, name: str) -> dict[str, int]:
        """The enumerators of `enum name`; raises UnknownLayout."""
        enum = self._types().enum(name)
        if enum is None:
            raise UnknownLayout(f"this kernel ({self.release}) has no enum {name}, or it is not known")
        return enum

    def enumerator(self, name: str) -> int:
        """The value of one enumerator of whichever enum has it ("LOG_CONT"); raises UnknownLayout."""
        value = self._types().enumerator(name)
        if value is None:
            raise UnknownLayout(f"this kernel ({self.release}) has no enumerator {name}, or it is not known")
        return value

    # Structures

    def record(self, struct: str | StructLayout, address: int) -> Record:
        """A snapshot of the structure at kernel `address`, read in one go.

        Where memory ends before the structure does, what is there is taken: the kernel allocates some
            structures
        (tasks, on CPUs with little state to save) smaller than their type says.

        Raises:
            UnknownLayout: no such structure.
            NotMapped: nothing is mapped there.
        """
        layout = self.struct(struct) if isinstance(struct, str) else struct
        try:
            data = self.read(address, layout.size)
        except NotMapped:
            data = self._read_part(address, layout.size)
        return Record(self, layout, address, data)

    def variable(self, name: str) -> Record:
        """A snapshot of the global structure `name` ("init_task"), whose type is known by declaration.

        Raises:
            UnknownLayout: no such symbol, or `declared` does not list it as a structure.
        """
        struct = declared_struct(name)
        if struct is None:
            raise UnknownLayout(f"the type of the variable {name} is not known")
        return self.record(struct, self.symbol(name))

    def btf(self) -> Btf:
        """The kernel's type information itself; raises UnknownLayout when it carries none."""
        return self._found.types()

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
        if self._prog is None:
            from virtscope.kernel.program import make_program

            self._prog = make_program(self)
        return self._prog

    @property
    def cache_note(self) -> str | None:
        """Why nothing is kept for the next run, as a sentence for the curious; None while all is well."""
        return self._found.cache.note

    def close(self) -> None:
        """Keep what was learned for the next run, give big tables back; the kernel stays usable."""
        self._found.save()
        self._found.release()
        self._pages.forget()

    def _read_part(self, address: int, size: int) -> bytes:
        """What is mapped of `size` bytes, from the start on; raises NotMapped when that is nothing."""
        end, data = address + size, b""
        while address < end:
            count = min(4096 - (address & 0xFFF), end - address)
            try:
                data += self.read(address, count)
            except NotMapped:
                if not data:
                    raise
                break
            address += count
        return data

    def _find_symbol(self, name: str) -> int | None:
        try:
            return self._addresses[name]
        except KeyError:
            address = self._addresses[name] = self._look_up(name)
            return address

    def _look_up(self, name: str) -> int | None:
        address = self._table_symbol(name)
        # VMCOREINFO is found by these symbols: it cannot have them.
        if address is None and not name.startswith("vmcoreinfo_"):
            from virtscope.kernel.structural import find_by_content
            from virtscope.kernel.vmcoreinfo import vmcoreinfo_symbol

            address = vmcoreinfo_symbol(self.vmcoreinfo, name)
            if address is None:
                address = find_by_content(self, name)
        return address

    def _table_symbol(self, name: str) -> int | None:
        """What the symbol table says of `name`, remembered in the cache."""
        if not self.has_symbols:
            return None
        learned = self._found.learned
        if name not in learned.symbols:
            table = self.symbol_table()
            address = table.lookup(name) if table is not None else None
            if address is None:
                learned.symbols[name] = None
            else:
                absolute = not 0 <= address - self._start < 1 << 31
                learned.symbols[name] = (address if absolute else address - self._start, absolute)
            learned.changed = True
        known = learned.symbols[name]
        if known is None:
            return None
        return known[0] if known[1] else (self._start + known[0]) & _ADDRESS_MASK

    def _types(self) -> LayoutSource:
        if self._source is None:
            if self.has_types:
                from virtscope.kernel.cache import LearnedLayouts

                self._source = LearnedLayouts(self._found.learned, self._found.types)
            else:
                from virtscope.kernel.structural import StructuralLayouts

                self._source = StructuralLayouts(self)
        return self._source

    def _cpus(self, name: str) -> tuple[int, ...]:
        count = self.read_u32(self.symbol("nr_cpu_ids")) if self.has_symbol("nr_cpu_ids") else _MAX_CPUS
        bits = self.struct("cpumask").size * 8
        size = min(bits, -(-min(count, _MAX_CPUS) // 64) * 64) // 8
        mask = int.from_bytes(self.read(self.symbol(name), size), "little")
        return tuple(cpu for cpu in range(min(size * 8, count)) if mask >> cpu & 1)

    def _pointee(self, layout: StructLayout, address: int, what: str) -> Record:
        """A structure that a pointer named `what` points to; raises CorruptData for a wild pointer."""
        try:
            return self.record(layout, address)
        except NotMapped:
            raise CorruptData(f"{what} leads to {address:#x}, where nothing is mapped") from None
