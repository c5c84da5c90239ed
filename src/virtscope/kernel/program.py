"""The kernel as a drgn Program: the one maker of drgn Programs.

drgn gets the guest's physical memory, its VMCOREINFO, and answers to its questions for types (from BTF),
symbols (from kallsyms) and objects (global variables of `declared`, BTF's per-CPU variables, enumerators,
functions). So drgn's own helpers work without debug information. All is made when drgn asks for it.

The views of virtscope do not use it: importing drgn alone takes longer than all of `virt-ps`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from virtscope.errors import GuestMemoryError, KernelError, MissingDependency
from virtscope.kernel import btf as b
from virtscope.kernel.btf_types import TypeMaker
from virtscope.kernel.declared import ANONYMOUS, DECLARED
from virtscope.kernel.modules import module_types
from virtscope.kernel.vmcoreinfo import read_vmcoreinfo
from virtscope.memory.physical import PageCache

try:
    import drgn
    from drgn import (
        Architecture,
        FaultError,
        FindObjectFlags,
        Object,
        Platform,
        Program,
        Symbol,
        SymbolBinding,
        SymbolKind,
        Type,
        TypeKind,
        TypeMember,
    )
except ImportError as error:
    raise MissingDependency("the drgn library is not installed: `pip install drgn`") from error

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel

_MAX_ARRAY = 1 << 20
_STALE_SECONDS = 0.02
_KERNEL_MAP = 0xFFFF_FFFF_8000_0000


def make_program(kernel: Kernel) -> Program:
    """A drgn Program of the running kernel; see `Kernel.prog`.

    Raises:
        UnknownLayout: the kernel has no BTF.
    """
    types = kernel.btf()
    prog = Program(Platform(Architecture.X86_64))
    read = _reader(kernel)
    for segment in kernel.memory.segments:
        prog.add_memory_segment(segment.start, segment.size, read, physical=True)
    prog.set_linux_kernel_custom(_vmcoreinfo(kernel), is_live=kernel.memory.is_live)
    maker = TypeMaker(prog, types, lambda: [found for _, found in module_types(kernel, types)])
    prog.register_type_finder("virtscope", maker.find, enable_index=0)
    prog.register_object_finder("virtscope", _ObjectFinder(kernel, maker), enable_index=-1)
    prog.register_symbol_finder("virtscope", _SymbolFinder(kernel), enable_index=0)
    return prog


def _reader(kernel: Kernel) -> Callable[[int, int, int, bool], bytes]:
    """drgn's way to physical memory: through whole pages, which on a live guest are soon asked for again."""
    cache, live, taken = PageCache(kernel.memory), kernel.memory.is_live, 0.0

    def read(address: int, size: int, offset: int, physical: bool) -> bytes:  # noqa: ARG001
        nonlocal taken
        if live:
            now = time.monotonic()
            if now - taken > _STALE_SECONDS:
                cache.forget()
                taken = now
        try:
            return cache.read(address, size)
        except GuestMemoryError as error:
            raise FaultError(str(error), address) from None

    return read


def _vmcoreinfo(kernel: Kernel) -> bytes:
    """The guest's VMCOREINFO, or the lines that drgn cannot do without."""
    text = read_vmcoreinfo(kernel)
    if text:
        return text
    image = kernel.image
    lines = [
        f"OSRELEASE={kernel.release}",
        "PAGESIZE=4096",
        # Of the image's own table; drgn translates it with phys_base.
        f"SYMBOL(swapper_pg_dir)={image.start + image.root - image.physical:x}",
        f"SYMBOL(_stext)={image.start:x}",
        f"NUMBER(phys_base)={image.physical - (image.start - _KERNEL_MAP)}",
        f"NUMBER(pgtable_l5_enabled)={int(image.levels == 5)}",
        f"KERNELOFFSET={image.start - _KERNEL_MAP - (16 << 20):x}",
        "",
    ]
    return "\n".join(lines).encode()


class _SymbolFinder:
    """drgn's symbol finder over kallsyms and the symbols of modules."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def __call__(self, _: Program, name: str | None, address: int | None, one: bool) -> Sequence[Symbol]:
        found = []
        table = self._kernel.symbol_table()
        if table is not None:
            if address is not None:
                image = self._kernel.image
                near = table.nearest(address) if image.start <= address < image.end else None
                if near is not None and name in (None, near[1]):
                    found.append(self._symbol(near[1], near[0], table.following(near[0])))
            elif name is not None:
                start = table.lookup(name)
                if start is not None:
                    found.append(self._symbol(name, start, table.following(start)))
            else:
                every = list(table.symbols())
                for (start, _, text), (end, _, _) in zip(every, [*every[1:], every[-1]], strict=True):
                    found.append(self._symbol(text, start, end))
        if not (one and found):
            found += self._of_modules(name, address)
        return found[:1] if one else found

    def _of_modules(self, name: str | None, address: int | None) -> list[Symbol]:
        found = []
        for module in self._kernel.modules():
            if address is not None and not any(s <= address < s + size for s, size in module.ranges):
                continue
            try:
                symbols = module.symbols()
            except KernelError:
                continue
            for start, size, text in symbols:
                if name in (None, text) and (address is None or start <= address < start + max(size, 1)):
                    found.append(self._symbol(text, start, start + size))
        return found

    def _symbol(self, name: str, start: int, end: int | None) -> Symbol:
        size = max(end - start, 0) if end is not None else 0
        return Symbol(name, start, size, SymbolBinding.GLOBAL, SymbolKind.UNKNOWN)


class _ObjectFinder:
    """drgn's object finder: variables, enumerators and functions."""

    def __init__(self, kernel: Kernel, maker: TypeMaker) -> None:
        self._kernel = kernel
        self._maker = maker

    def __call__(
        self, prog: Program, name: str, flags: FindObjectFlags, filename: str | None
    ) -> Object | None:
        if filename:
            return None
        if flags & FindObjectFlags.VARIABLE:
            found = self._variable(prog, name)
            if found is not None:
                return found
        if flags & (FindObjectFlags.CONSTANT | FindObjectFlags.FUNCTION):
            return self._constant_or_function(prog, name, flags)
        return None

    def _variable(self, prog: Program, name: str) -> Object | None:
        if not self._kernel.has_symbol(name):
            return None
        address = self._kernel.symbol(name)
        declaration = DECLARED.get(name)
        if declaration is None or name == "runqueues":
            kind = self._maker.named(name, b.VAR)
            if kind is not None:
                return Object(prog, kind, address=address)
            if declaration is None:
                return None
        try:
            anonymous = ANONYMOUS.get(name)
            if anonymous is not None and not _has_type(prog, declaration):
                return Object(prog, _structure(prog, anonymous), address=address)
            if declaration.endswith("[]"):
                return self._array(prog, declaration.removesuffix("[]"), address)
            return Object(prog, prog.type(declaration), address=address)
        except LookupError:  # this kernel has no such type
            return None

    def _array(self, prog: Program, element: str, address: int) -> Object:
        """A global array as long as the room up to the next symbol; NULL pointers at its end are padding."""
        kind = prog.type(element.rstrip())
        size, table = drgn.sizeof(kind), self._kernel.symbol_table()
        end = table.following(address) if table is not None else None
        length = min((end - address) // size, _MAX_ARRAY) if end is not None and size else 0
        found = Object(prog, prog.array_type(kind, length), address=address)
        if kind.kind == TypeKind.POINTER:
            while length and not self._kernel.read_pointer(address + 8 * (length - 1)):
                length -= 1
            found = Object(prog, prog.array_type(kind, length), address=address)
        return found

    def _constant_or_function(self, prog: Program, name: str, flags: FindObjectFlags) -> Object | None:
        if flags & FindObjectFlags.CONSTANT:
            enum = self._maker.enum_of(name)
            if enum is not None:
                return Object(prog, enum[0], enum[1])
        if flags & FindObjectFlags.FUNCTION and self._kernel.has_symbol(name):
            kind = self._maker.named(name, b.FUNC)
            if kind is not None:
                return Object(prog, kind, address=self._kernel.symbol(name))
        return None


def _has_type(prog: Program, declaration: str) -> bool:
    try:
        prog.type(declaration)
    except LookupError:
        return False
    return True


def _structure(prog: Program, members: tuple[tuple[str, str], ...]) -> Type:
    """A structure without a name, laid out as compilers do: what has a size of 8n is aligned to 8."""
    offset, fields = 0, []
    for declaration, name in members:
        kind = prog.type(declaration)
        size = drgn.sizeof(kind)
        align = min(8, size & -size)
        offset = -(-offset // align) * align
        fields.append(TypeMember(kind, name, 8 * offset))
        offset += size
    return prog.struct_type(None, offset, fields)
