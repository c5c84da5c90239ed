"""Kernel modules: which are loaded, where, their symbols and their types.

`struct module` has kept its memory in `core_layout` and `init_layout` (4.5 .. 6.3), and in `mem[]`, one range
for each kind of contents, since; its symbols in `kallsyms` (a `struct mod_kallsyms`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.errors import CorruptData, FormatError, KernelError, UnknownLayout

if TYPE_CHECKING:
    from virtscope.kernel.btf import Btf
    from virtscope.kernel.kernel import Kernel
    from virtscope.kernel.records import Record

_MAX_MODULES = 4096
_MAX_SYMBOLS = 1 << 18
_MAX_STRINGS = 16 << 20
_MAX_BTF = 16 << 20
_SYMBOL_SIZE = 24


class Module:
    """A loaded kernel module.

    Attributes:
        name: its name.
        record: its `struct module`.
        ranges: the (start, size) of each range of kernel addresses it takes.
    """

    __slots__ = ("_symbols", "name", "ranges", "record")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.name = record["name"].decode("utf-8", "backslashreplace")
        self.ranges = list(_ranges(record))
        self._symbols: list[tuple[int, int, str]] | None = None

    def symbols(self) -> list[tuple[int, int, str]]:
        """Its symbols: (address, size, name), by address.

        Raises:
            CorruptData: the symbol table is not one.
            NotMapped: it is not in memory.
            UnknownLayout: how it is kept is not known.
        """
        if self._symbols is None:
            self._symbols = sorted(self._read_symbols())
        return self._symbols

    def symbolize(self, address: int) -> tuple[str, int] | None:
        """The (symbol, offset into it) of an address in it; None when no symbol is at or below it."""
        from bisect import bisect_right

        symbols = self.symbols()
        index = bisect_right(symbols, address, key=lambda symbol: symbol[0]) - 1
        if index < 0 or not any(start <= symbols[index][0] < start + size for start, size in self.ranges):
            return None
        return symbols[index][2], address - symbols[index][0]

    def _read_symbols(self) -> Iterator[tuple[int, int, str]]:
        import struct

        kernel = self.record.kernel
        table = self.record.pointee("kallsyms")
        count = table["num_symtab"]
        if count > _MAX_SYMBOLS:
            raise CorruptData(f"module {self.name}: {count} symbols are more than can be")
        if not count:
            return
        data = kernel.read(table["symtab"], count * _SYMBOL_SIZE)  # Elf64_Sym
        entries = list(struct.iter_unpack("<IBBHQQ", data))
        strings = _strings(kernel, table["strtab"], max(entry[0] for entry in entries))
        for name_at, info, _, section, value, size in entries:
            # Undefined and absolute ones (section 0 and above 0xff00) are no places in the module.
            if 0 < section < 0xFF00 and info & 15 < 3:
                end = strings.find(b"\0", name_at)
                name = strings[name_at:end]
                if name:
                    yield value, size, name.decode("ascii", "replace")


def modules(kernel: Kernel) -> list[Module]:
    """The modules that are loaded (also those being loaded or removed), last loaded first.

    Empty for a kernel built without modules.

    Raises:
        CorruptData: the list is broken.
        UnknownLayout: how modules are kept is not known.
    """
    if not kernel.has_symbol("modules"):
        return []
    from virtscope.kernel.collections import list_of

    return [
        Module(record)
        for record in list_of(kernel, kernel.symbol("modules"), "module", "list", limit=_MAX_MODULES)
    ]


def symbolize_in_module(loaded: list[Module], address: int) -> tuple[str, int, str | None] | None:
    """As `Kernel.symbolize`, for an address outside the kernel image."""
    for module in loaded:
        if any(start <= address < start + size for start, size in module.ranges):
            try:
                found = module.symbolize(address)
            except KernelError:
                found = None
            return None if found is None else (*found, module.name)
    return None


def module_types(kernel: Kernel, base: Btf) -> Iterator[tuple[str, Btf]]:
    """The BTF of each module that has any: (module name, types on top of `base`, the kernel's).

    Raises:
        CorruptData: the list of them is broken.
        UnknownLayout: this kernel keeps no BTF of modules.
    """
    from virtscope.kernel.btf import Btf
    from virtscope.kernel.collections import list_of

    head = kernel.symbol("btf_modules")
    # struct btf_module is local to kernel/bpf/btf.c, but BTF has it.
    for record in list_of(kernel, head, "btf_module", "list", limit=_MAX_MODULES):
        btf = record.pointee("btf")
        size = btf["data_size"]
        if not 0 < size <= _MAX_BTF:
            raise CorruptData(f"the BTF of a module has {size} bytes, more than can be")
        try:
            yield btf["name"].decode("utf-8", "replace"), Btf(kernel.read(btf["data"], size), base)
        except FormatError as error:
            raise CorruptData(str(error)) from None


def _ranges(record: Record) -> Iterator[tuple[int, int]]:
    if record.has("mem"):
        for part in record["mem"]:
            if part["size"]:
                yield part["base"], part["size"]
        return
    for name in ("core_layout", "init_layout"):
        if not record.has(name):
            raise UnknownLayout("where this kernel keeps its modules is not known")
        if record[f"{name}.base"] and record[f"{name}.size"]:
            yield record[f"{name}.base"], record[f"{name}.size"]


def _strings(kernel: Kernel, address: int, last: int) -> bytes:
    """A string table up to the end of the string at offset `last`."""
    if last > _MAX_STRINGS:
        raise CorruptData(f"a module's symbol names take {last} bytes, more than can be")
    return kernel.read(address, last) + kernel.read_cstring(address + last, 512) + b"\0"
