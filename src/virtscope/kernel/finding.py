"""Finding the running kernel: from candidates for its image to one that independent facts agree on.

RAM holds decoys: an older kernel's text, the banner and the tables that the decompressor left behind, a file
that somebody wrote to look like a kernel. A candidate (`locate`) is already an image that its own page tables
map; it is accepted when its banner is inside it and at least one further fact agrees: the symbol table, whose
`_text` and `linux_banner` must be where they are; VMCOREINFO; or the idle task, "swapper/0", linked into the
list of processes.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from virtscope.errors import (
    FormatError,
    GuestMemoryError,
    KernelError,
    KernelNotFound,
    NotMapped,
    UnknownLayout,
)
from virtscope.kernel.cache import KernelCache, Learned, guest_file
from virtscope.kernel.kallsyms_places import Places, checked_places
from virtscope.kernel.kernel import Kernel
from virtscope.kernel.locate import MAX_IMAGE, Image, images
from virtscope.kernel.paging import FRAME_MASK, LARGE, PRESENT, entries

if TYPE_CHECKING:
    from virtscope.kernel.btf import Btf
    from virtscope.kernel.kallsyms import Kallsyms
    from virtscope.memory.physical import PhysicalMemory

_BANNER = re.compile(rb"Linux version [0-9][!-~]* [ -~]{10,600}\n\0")
_MAX_BANNER = 1024
_MAX_CANDIDATES = 16
_PATIENCE_SECONDS = 10
_MAX_HITS = 1024
_MAX_BTF = 64 << 20


class Found:
    """A kernel that was found: where everything is, and what is known of it.

    Attributes:
        image: the mapped image.
        banner: "Linux version ...", without the line end.
        banner_offset: where it is in the image.
        kallsyms: where the symbol table is; None without one.
        btf: (offset in the image, size) of the type information; None without it.
        types_hash, symbols_hash: SHA-256 of their bytes, in hex; "" without them.
        direct_map: the virtual address at which all physical memory is mapped; 0 when it is not known.
        evidence: why this is believed to be the kernel.
        notes: what a user should know.
        learned: what earlier runs, and this one, have learned.
    """

    def __init__(self, image: Image, cache: KernelCache) -> None:
        self.image = image
        self.cache = cache
        self.banner = ""
        self.banner_offset = 0
        self.kallsyms: Places | None = None
        self.btf: tuple[int, int] | None = None
        self.types_hash = ""
        self.symbols_hash = ""
        self.direct_map = 0
        self.evidence: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.learned = Learned()
        self._symbols: Kallsyms | None = None
        self._types: Btf | None = None
        self._checked: set[str] = set()

    @property
    def file(self) -> str:
        """The name of the cache's file about this kernel."""
        return f"kernel-{self.types_hash[:32]}-{self.symbols_hash[:32]}.json"

    def symbol_table(self) -> Kallsyms | None:
        """The symbol table, read when it is needed; None when the kernel has none.

        Raises:
            KernelNotFound: it is not the one that it was.
        """
        if self._symbols is None and self.kallsyms is not None:
            from virtscope.kernel.kallsyms import read_kallsyms

            try:
                table, content = read_kallsyms(self.image, self.kallsyms)
            except (FormatError, GuestMemoryError):
                raise self._changed() from None
            self._check("symbols_hash", content)
            self._symbols = table
        return self._symbols

    def types(self) -> Btf:
        """The type information, read when it is needed.

        Raises:
            UnknownLayout: the kernel has none.
            KernelNotFound: it is not what it was.
        """
        if self._types is None:
            from virtscope.kernel.btf import Btf

            if self.btf is None:
                raise UnknownLayout("this kernel carries no type information (BTF)")
            try:
                data = self.image.read(*self.btf)
                self._check("types_hash", data)
                self._types = Btf(data)
            except (FormatError, GuestMemoryError):
                raise self._changed() from None
        return self._types

    def save(self) -> None:
        """Adds what was learned to the cache.

        What is kept about a kernel was learned from bytes whose hash names the file, and that this process
        read.
        """
        if not self.learned.changed or not self._checked:
            return
        content = self.cache.load(self.file)
        if content is not None:
            with suppress(ValueError, TypeError, LookupError):
                self.learned.merge(Learned.from_json(content.get("learned")))
        self.learned.changed = False
        self.cache.save(
            self.file,
            {
                "banner": self.banner,
                "banner_offset": self.banner_offset,
                "kallsyms": self.kallsyms,
                "btf": self.btf,
                "types_hash": self.types_hash,
                "symbols_hash": self.symbols_hash,
                "learned": self.learned.to_json(),
            },
        )

    def release(self) -> None:
        """Gives the symbol table and the type information back; they are read again when they are needed."""
        self._symbols, self._types = None, None

    def _check(self, name: str, content: bytes) -> None:
        """Compares content with the hash that names what was learned from it, or takes its hash."""
        from hashlib import sha256

        digest = sha256(content).hexdigest()
        if getattr(self, name) not in ("", digest):
            raise self._changed()
        setattr(self, name, digest)
        self._checked.add(name)

    def _changed(self) -> KernelNotFound:
        identity = self.image.memory.identity
        if identity is not None:
            self.cache.remove(guest_file(identity))
        return KernelNotFound(
            f"{self.image.memory.name}: the kernel changed while it was read (a reboot?); try again"
        )


def find_kernel(memory: PhysicalMemory, *, cache: KernelCache | None = None) -> Kernel:
    """The running Linux kernel in `memory`.

    Args:
        memory: the guest-physical memory.
        cache: where learned layouts and symbols are kept; the user's cache folder when None.

    Raises:
        KernelNotFound: there is none: a guest still in firmware, or another operating system.
        GuestVanished: the guest ended meanwhile.
        AccessDenied: the host refuses to let its memory be read.
    """
    cache = KernelCache() if cache is None else cache
    found = _remembered(memory, cache)
    if found is not None:
        return Kernel(found)
    tried: set[tuple[int, int]] = set()
    patience = 0.0
    for image in images(memory):
        if (image.start, image.physical) in tried:
            continue
        # A guest that is made to waste our time does not get it.
        if len(tried) >= _MAX_CANDIDATES or (tried and time.monotonic() > patience):
            break
        if not tried:
            patience = time.monotonic() + _PATIENCE_SECONDS
        tried.add((image.start, image.physical))
        try:
            found = _known(image, cache) or _unknown(image, cache)
        except (KernelError, GuestMemoryError, FormatError):
            continue  # what looked like an image is damaged, or none
        if found is not None:
            _remember(found)
            return Kernel(found)
    raise KernelNotFound(
        f"{memory.name}: no Linux kernel found in its memory"
        " (still in firmware or boot loader, or another operating system)"
    )


def _remembered(memory: PhysicalMemory, cache: KernelCache) -> Found | None:
    """The kernel that was found in this very guest before, if it is still there."""
    identity = memory.identity
    if identity is None:
        return None
    hint = cache.load(guest_file(identity))
    if hint is None:
        return None
    try:
        start, physical, size, rodata, root, levels = (_number(value) for value in hint["image"])
        kernel = cache.load(_name(hint["kernel"]))
        if kernel is None:
            return None
        image = Image(memory, start, physical, size, rodata, root, levels)
        found = Found(image, cache)
        _take(found, kernel)
        found.direct_map = _number(hint["direct_map"])
        space = image.address_space(memory, "kernel")
        if (
            found.file != hint["kernel"]
            or levels not in (4, 5)
            or not rodata <= size <= MAX_IMAGE
            or not _has_banner(found)
            or space.translate(start) != physical
            or (found.direct_map and space.translate(found.direct_map + physical) != physical)
        ):
            return None
    except (ValueError, TypeError, LookupError, GuestMemoryError, NotMapped):
        return None
    cache.touch(found.file)
    cache.touch(guest_file(identity))
    image.found_by = "where it was before"
    found.evidence = (
        _tables_fact(image),
        _banner_fact(found),
        "both as they were when this guest was last read",
    )
    return found


def _remember(found: Found) -> None:
    """Keeps where the kernel is in this guest, and that it exists."""
    image, identity = found.image, found.image.memory.identity
    if not found.types_hash or not found.symbols_hash:
        return  # little is learned of such a kernel, and nothing to recognize it by
    found.save()
    if identity is not None:
        place = [image.start, image.physical, image.size, image.rodata, image.root, image.levels]
        found.cache.save(
            guest_file(identity), {"image": place, "kernel": found.file, "direct_map": found.direct_map}
        )


def _known(image: Image, cache: KernelCache) -> Found | None:
    """A kernel that an earlier run has learned: the same bytes at the same places of the image."""
    for name, content in cache.kernels():
        found = Found(image, cache)
        try:
            _take_banner(found, content)
            if not _has_banner(found):
                continue
            _take(found, content)
            if found.file != name:
                continue
            found.symbol_table()
            found.types()
        except (ValueError, TypeError, LookupError, GuestMemoryError, FormatError, KernelNotFound):
            continue
        found.evidence = (_tables_fact(image), _banner_fact(found), _symbols_fact(found))
        found.direct_map = _direct_map(image)
        cache.touch(name)
        return found
    return None


def _take(found: Found, content: dict[str, Any]) -> None:
    """Fills in what a file of the cache says of a kernel.

    Raises:
        ValueError, TypeError, LookupError: the file is not what this program writes.
    """
    _take_banner(found, content)
    found.kallsyms = checked_places(content["kallsyms"])
    offset, size = content["btf"]
    found.btf = _number(offset), _number(size)
    if found.btf[1] > _MAX_BTF:
        raise ValueError("btf")
    found.types_hash, found.symbols_hash = _string(content["types_hash"]), _string(content["symbols_hash"])
    found.learned = Learned.from_json(content["learned"])


def _take_banner(found: Found, content: dict[str, Any]) -> None:
    """The part of `_take` by which a kernel is told from others; raises the same."""
    found.banner = _string(content["banner"])
    found.banner_offset = _number(content["banner_offset"])
    if not _BANNER.fullmatch(found.banner.encode() + b"\n\0"):
        raise ValueError("banner")


def _unknown(image: Image, cache: KernelCache) -> Found | None:
    """A kernel found by what is in the image; None when too little of it is there to be sure."""
    from virtscope.kernel.kallsyms import find_kallsyms

    found = Found(image, cache)
    notes = []
    found.kallsyms = find_kallsyms(image)
    table = found.symbol_table()
    if table is None:
        notes.append("the kernel has no symbol table (kallsyms): only what is found by its content is known")
    banner = table.lookup("linux_banner") if table is not None else None
    found_at = [banner - image.start] if banner is not None else image.find(b"Linux version ", image.rodata)
    for offset in islice(found_at, _MAX_HITS):
        text = image.read(offset, _MAX_BANNER)
        match = _BANNER.match(text)
        if match is not None:
            found.banner_offset, found.banner = offset, match[0][:-2].decode("ascii")
            break
    else:
        return None
    facts = [_tables_fact(image), _banner_fact(found)]
    if banner is not None:
        facts.append(_symbols_fact(found))
    found.btf = _find_btf(found)
    if found.btf is None:
        notes.append("the kernel carries no type information (BTF): only a little of each process is known")
    else:
        try:
            found.types()
        except (FormatError, KernelNotFound):
            found.btf = None
    found.direct_map = _direct_map(image)
    found.notes = tuple(notes)
    if len(facts) < 3:
        facts += _further_facts(found)
        if len(facts) < 3:
            return None
    found.evidence = tuple(facts)
    if found.types_hash and found.symbols_hash:
        content = cache.load(found.file)
        try:
            found.learned = Learned.from_json(content["learned"]) if content is not None else found.learned
        except (ValueError, TypeError, LookupError):
            cache.remove(found.file)
        # There was no file, or one that did not serve: written in any case.
        found.learned.changed = True
    return found


def _find_btf(found: Found) -> tuple[int, int] | None:
    """The (offset, size) of the type information: between its symbols, else by its header."""
    from virtscope.kernel.btf import btf_size

    image, table = found.image, found.symbol_table()
    start = table.lookup("__start_BTF") if table is not None else None
    offsets = [start - image.start] if start is not None else image.find(b"\x9f\xeb\x01\x00", image.rodata)
    for offset in islice(offsets, _MAX_HITS):
        try:
            size = btf_size(image.read(offset, 24))
        except (FormatError, GuestMemoryError):
            continue
        # A kernel has tens of thousands of types; its modules, and leftovers of tools, are far smaller.
        if size >= 1 << 16 and offset + size <= image.size:
            return offset, size
    return None


def _further_facts(found: Found) -> list[str]:
    """Facts for a kernel without a symbol table: its VMCOREINFO, its idle task."""
    from virtscope.kernel.structural import find_by_content

    kernel = Kernel(found)
    facts = []
    if kernel.vmcoreinfo.get("OSRELEASE") == kernel.release:
        facts.append(f"VMCOREINFO names the release {kernel.release} too")
    try:
        address = find_by_content(kernel, "init_task")
    except KernelError:
        address = None
    if address is not None:
        facts.append(f'the idle task "swapper/0" at {address:#x} leads around the list of processes')
    return facts


def _direct_map(image: Image) -> int:
    """The virtual address at which all physical memory is mapped, by the page tables; 0: not found.

    It is the lowest mapping of the kernel's half (Documentation/arch/x86/x86_64/mm.rst), but for what some
    kernels map below it.
    """
    space = image.address_space(image.memory, "kernel")
    shift = 12 + 9 * (image.levels - 1)
    top = -1 << (shift + 9) & (1 << 64) - 1
    try:
        for index, entry in enumerate(entries(image.memory, image.root)):
            if index < 256 or not entry & PRESENT:
                continue
            mapped = _first_mapped(image, entry & FRAME_MASK, top | index << shift, shift - 9)
            if mapped is not None:
                direct = mapped[0] - mapped[1]
                with suppress(NotMapped):
                    if direct > 0 and space.translate(direct + image.physical) == image.physical:
                        return direct
    except GuestMemoryError:
        pass
    return 0


def _first_mapped(image: Image, table: int, base: int, shift: int) -> tuple[int, int] | None:
    """The first (virtual, physical) address that a table, and those below it, map; None when it is none."""
    for index, entry in enumerate(entries(image.memory, table)):
        if entry & PRESENT:
            address = base | index << shift
            if shift == 12 or entry & LARGE:
                return address, entry & FRAME_MASK & -(1 << shift)
            return _first_mapped(image, entry & FRAME_MASK, address, shift - 9)
    return None


def _has_banner(found: Found) -> bool:
    wanted = found.banner.encode() + b"\n\0"
    return found.image.read(found.banner_offset, len(wanted)) == wanted


def _tables_fact(image: Image) -> str:
    return (
        f"page tables map {image.size >> 20} MiB at {image.start:#x} to physical {image.physical:#x},"
        f" found by {image.found_by}"
    )


def _banner_fact(found: Found) -> str:
    return f"its banner is at {found.image.start + found.banner_offset:#x}"


def _symbols_fact(found: Found) -> str:
    table = found.symbol_table()
    count = len(table) if table is not None else 0
    return f"the symbol table has {count} symbols, _text and linux_banner where they are"


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError(value)
    return value


def _string(value: Any) -> str:
    if type(value) is not str or len(value) > 2048:
        raise ValueError("text")
    return value


def _name(value: Any) -> str:
    name = _string(value)
    if not name.startswith("kernel-") or "/" in name:
        raise ValueError(name)
    return name
