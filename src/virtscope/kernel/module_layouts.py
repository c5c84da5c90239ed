"""The layouts of structures that kernel modules define, from the modules' own type information.

Since 5.11 a module carries BTF of its own, which goes on where the kernel's ends. Decoding it takes the
kernel's as well, so what was learned of a module is kept for the next run, under a hash of the bytes of both.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from virtscope.errors import FormatError, UnknownLayout
from virtscope.kernel.cache import Learned, LearnedLayouts
from virtscope.kernel.collections import list_of
from virtscope.kernel.layouts import StructLayout

if TYPE_CHECKING:
    from virtscope.kernel.btf import Btf
    from virtscope.kernel.kernel import Kernel

_MAX_MODULES = 4096
_MAX_BTF = 16 << 20


class ModuleLayouts:
    """The layouts of one kernel's modules; `save` keeps what was learned of them."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._modules: dict[str, _Module] = {}

    def struct(self, module: str | None, name: str) -> StructLayout:
        """The layout of structure `name` of a module, or of the kernel itself when `module` is None.

        Raises:
            UnknownLayout: there is no such structure, or the module has no type information.
            CorruptData: the list of modules leads nowhere.
        """
        if module is None:
            return self._kernel.struct(name)
        if module not in self._modules:
            self._modules[module] = _Module(self._kernel, module)
        return self._modules[module].struct(name)

    def save(self) -> None:
        """Keep what was learned for the next run; failing is no error."""
        for module in self._modules.values():
            module.save()


class _Module:
    """The types of one module."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        from hashlib import sha256

        self._kernel = kernel
        self._name = name
        self._data = _read_btf(kernel, name)
        self._types: Btf | None = None
        self._structs: dict[str, StructLayout] = {}
        # The hash of the kernel's types is of bytes that this process, or the one that kept it, has read.
        digest = sha256(kernel._found.types_hash.encode() + self._data).hexdigest()
        self._file = f"module-{digest[:48]}.json"
        self._learned = Learned()
        content = kernel._found.cache.load(self._file)
        if content is not None:
            with suppress(ValueError, TypeError, LookupError):
                self._learned = Learned.from_json(content.get("learned"))
        self._source = LearnedLayouts(self._learned, self._load)

    def struct(self, name: str) -> StructLayout:
        if name not in self._structs:
            size = self._source.struct_size(name)
            if size is None:
                raise UnknownLayout(f"module {self._name} has no structure {name}")
            self._structs[name] = StructLayout(name, size, self._source)
        return self._structs[name]

    def save(self) -> None:
        if self._learned.changed:
            self._learned.changed = False
            self._kernel._found.cache.save(self._file, {"learned": self._learned.to_json()})

    def _load(self) -> Btf:
        from virtscope.kernel.btf import Btf

        if self._types is None:
            try:
                self._types = Btf(self._data, self._kernel._found.types())
            except FormatError as error:
                raise UnknownLayout(f"the types of module {self._name} are damaged: {error}") from None
        return self._types


def _read_btf(kernel: Kernel, name: str) -> bytes:
    """The bytes of a module's BTF."""
    if not kernel.has_symbol("btf_modules"):
        raise UnknownLayout(f"this kernel keeps no type information of its modules, of which {name} is one")
    head = kernel.symbol("btf_modules")
    for record in list_of(kernel, head, "btf_module", "list", limit=_MAX_MODULES):
        btf = record.pointee("btf")
        if btf["name"] == name.encode():
            size = btf["data_size"]
            if not 0 < size <= _MAX_BTF:
                raise UnknownLayout(f"module {name} claims to have {size} bytes of type information")
            return kernel.read(btf["data"], size)
    raise UnknownLayout(f"module {name} has no type information")
