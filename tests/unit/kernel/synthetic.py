"""Builds guests in bytes: page tables, a kernel image with banner, kallsyms and BTF, and structures in it.

What is built follows the formats' definitions, not virtscope's reading of them, and is small enough to be
damaged in every way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from virtscope.memory.physical import PhysicalMemory, Segment

PAGE, HUGE = 4096, 2 << 20
TABLE = 0x63  # present, writable, accessed, dirty
PAGE_BITS = 0x163
HUGE_BITS = 0x1E3
NO_EXECUTE = 1 << 63

START = 0xFFFF_FFFF_9A40_0000
DIRECT = 0xFFFF_9380_0000_0000
DIRECT_LA57 = 0xFF11_0000_0000_0000
PHYSICAL = 6 << 20
IMAGE_SIZE = 10 << 20
RODATA, DATA = HUGE, 3 * HUGE
BANNER = b"Linux version 9.8.7-test (builder@host) (gcc 1.2.3) #1 SMP PREEMPT_DYNAMIC Test 1 (2033-03-03)\n\0"
RELEASE = "9.8.7-test"


class BytesMemory(PhysicalMemory):
    """Guest-physical memory given as bytes by address."""

    def __init__(
        self,
        parts: dict[int, bytearray],
        *,
        roots: Sequence[int] = (),
        is_live: bool = False,
        identity: str | None = None,
    ) -> None:
        super().__init__(
            "synthetic guest",
            [Segment(start, len(part)) for start, part in parts.items()],
            is_live=is_live,
        )
        self.parts = [part for _, part in sorted(parts.items())]
        self.roots = tuple(roots)
        self.reads = 0
        self.read_bytes = 0
        self._identity = identity

    @property
    def identity(self) -> str | None:
        return self._identity

    def close(self) -> None:
        pass

    def write(self, address: int, data: bytes) -> None:
        for segment, part in zip(self.segments, self.parts, strict=True):
            if segment.start <= address and address + len(data) <= segment.end:
                part[address - segment.start : address - segment.start + len(data)] = data
                return
        raise AssertionError(f"{address:#x} is no memory of the synthetic guest")

    def _read_segment(self, index: int, offset: int, size: int) -> bytes:
        self.reads += 1
        self.read_bytes += size
        return bytes(self.parts[index][offset : offset + size])

    def _find_page_roots(self) -> tuple[int, ...]:
        return self.roots


# BTF


@dataclass
class BtfWriter:
    """Writes BTF as Documentation/bpf/btf.rst defines it; `first_*` continue another's."""

    first_type: int = 1
    first_string: int = 0
    types: list[bytes] = field(default_factory=list)
    strings: bytearray = field(default_factory=lambda: bytearray(b"\0"))

    def string(self, text: str) -> int:
        if not text:
            return 0
        wanted = text.encode() + b"\0"
        at = self.strings.find(b"\0" + wanted)
        if at < 0:
            at = len(self.strings) - 1
            self.strings += wanted
        return self.first_string + at + 1

    def add(
        self, kind: int, name: str, value: int, more: bytes = b"", *, length: int = 0, flag: bool = False
    ) -> int:
        info = flag << 31 | kind << 24 | length
        self.types.append(struct.pack("<III", self.string(name), info, value) + more)
        return self.first_type + len(self.types) - 1

    def integer(
        self, name: str, size: int, *, signed: bool = False, boolean: bool = False, bits: int = 0, at: int = 0
    ) -> int:
        encoding = (signed | boolean << 2) << 24 | at << 16 | (bits or size * 8)
        return self.add(1, name, size, struct.pack("<I", encoding))

    def pointer(self, target: int) -> int:
        return self.add(2, "", target)

    def array(self, element: int, length: int, index: int = 1) -> int:
        return self.add(3, "", 0, struct.pack("<III", element, index, length))

    def struct(
        self,
        name: str,
        size: int,
        members: Sequence[tuple[str, int, int] | tuple[str, int, int, int]],
        *,
        union: bool = False,
        bit_fields: bool = False,
    ) -> int:
        """Members are (name, type, offset in bits[, bits of a bit-field])."""
        more = b""
        for name_, kind, offset, *bits in members:
            more += struct.pack("<III", self.string(name_), kind, offset | (bits[0] << 24 if bits else 0))
        return self.add(5 if union else 4, name, size, more, length=len(members), flag=bit_fields)

    def enum(self, name: str, values: dict[str, int], *, size: int = 4, signed: bool = False) -> int:
        more = b"".join(
            struct.pack("<II", self.string(key), value & 0xFFFFFFFF) for key, value in values.items()
        )
        return self.add(6, name, size, more, length=len(values), flag=signed)

    def enum64(self, name: str, values: dict[str, int], *, signed: bool = False) -> int:
        more = b"".join(
            struct.pack("<IQ", self.string(key), value & 0xFFFFFFFFFFFFFFFF) for key, value in values.items()
        )
        return self.add(19, name, 8, more, length=len(values), flag=signed)

    def typedef(self, name: str, target: int) -> int:
        return self.add(8, name, target)

    def build(self, least: int = 0) -> bytes:
        types, strings = b"".join(self.types), bytes(self.strings)
        strings += b"x" * max(0, least - len(types) - len(strings)) + b"\0"
        return (
            struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
            + types
            + strings
        )


def kernel_types() -> BtfWriter:
    """The few types that a small kernel needs."""
    btf = BtfWriter()
    int_ = btf.integer("int", 4, signed=True)
    ulong = btf.integer("long unsigned int", 8)
    char = btf.integer("char", 1)
    uint = btf.integer("unsigned int", 4)
    uchar = btf.integer("unsigned char", 1)
    head = btf.first_type + len(btf.types) + 1  # the pointer comes first
    to_head = btf.pointer(head)
    assert btf.struct("list_head", 16, [("next", to_head, 0), ("prev", to_head, 64)]) == head
    node = btf.first_type + len(btf.types) + 1
    to_node = btf.pointer(node)
    btf.struct("hlist_node", 16, [("next", to_node, 0), ("pprev", ulong, 64)])
    rb = btf.first_type + len(btf.types) + 1
    to_rb = btf.pointer(rb)
    btf.struct(
        "rb_node", 24, [("__rb_parent_color", ulong, 0), ("rb_right", to_rb, 64), ("rb_left", to_rb, 128)]
    )
    task = btf.first_type + len(btf.types) + 2
    to_task = btf.pointer(task)
    comm = btf.array(char, 16)
    btf.struct(
        "task_struct",
        128,
        [
            ("state", uint, 0),
            ("tasks", head, 64),
            ("pid", int_, 192),
            ("tgid", int_, 224),
            ("real_parent", to_task, 256),
            ("comm", comm, 320),
            ("link", node, 512),
            ("branch", rb, 640),
        ],
    )
    xa_slots = btf.array(ulong, 64)
    btf.struct(
        "xa_node",
        576,
        [("shift", uchar, 0), ("offset", uchar, 8), ("count", uchar, 16), ("slots", xa_slots, 512)],
    )
    btf.struct("xarray", 16, [("xa_flags", uint, 32), ("xa_head", ulong, 64)])
    pivots, slots = btf.array(ulong, 15), btf.array(ulong, 16)
    range64 = btf.struct(
        "maple_range_64", 256, [("parent", ulong, 0), ("pivot", pivots, 64), ("slot", slots, 1024)]
    )
    apivots, aslots = btf.array(ulong, 9), btf.array(ulong, 10)
    arange64 = btf.struct(
        "maple_arange_64", 240, [("parent", ulong, 0), ("pivot", apivots, 64), ("slot", aslots, 640)]
    )
    dense = btf.array(ulong, 31)
    inner = btf.struct(
        "", 256, [("mr64", range64, 0), ("ma64", arange64, 0), ("slot", dense, 64)], union=True
    )
    btf.struct("maple_node", 256, [("", inner, 0)])
    btf.struct("maple_tree", 16, [("ma_flags", uint, 0), ("ma_root", ulong, 64)])
    btf.struct("cpumask", 8, [("bits", btf.array(ulong, 1), 0)])
    btf.enum("colour", {"RED": 1, "GREEN": 2})
    return btf


# kallsyms


@dataclass(frozen=True)
class Symbol:
    """One symbol; an absolute one has a small address."""

    address: int
    kind: str
    name: str


KALLSYMS_LAYOUTS = ("4.15", "5.0", "6.2", "6.5", "6.17", "7.0")

_PAIRS = (b"_t", b"fi", b"ll", b"er_", b"sym", b"_sym", b"filler_sym")


def compress(name: str) -> bytes:
    """A kind and name as tokens: codes from 0x80 on stand for `_PAIRS`, others for themselves."""
    text, out = name.encode(), bytearray()
    while text:
        for code in range(len(_PAIRS) - 1, -1, -1):
            if text.startswith(_PAIRS[code]):
                out.append(0x80 + code)
                text = text[len(_PAIRS[code]) :]
                break
        else:
            out.append(text[0])
            text = text[1:]
    head = bytes([len(out)]) if len(out) < 0x80 else bytes([0x80 | len(out) & 0x7F, len(out) >> 7])
    return head + bytes(out)


def build_kallsyms(symbols: Sequence[Symbol], layout: str, base: int, place: int) -> bytes:
    """The tables of a kernel of that age.

    Args:
        symbols: absolute ones first, then by address.
        layout: one of `KALLSYMS_LAYOUTS`, named after the first kernel that has it.
        base: `relative_base`.
        place: the virtual address at which the tables will be; a multiple of 8.
    """
    names, markers = bytearray(), []
    for index, symbol in enumerate(symbols):
        if index % 256 == 0:
            markers.append(len(names))
        names += compress(symbol.kind + symbol.name)
    tokens, index_table = bytearray(), bytearray()
    used = {ord("0") + digit for digit in range(10)} | set(range(0x21, 0x7F))
    for code in range(256):
        index_table += struct.pack("<H", len(tokens))
        if 0x80 <= code < 0x80 + len(_PAIRS):
            tokens += _PAIRS[code - 0x80]
        elif code in used:
            tokens.append(code)
        tokens.append(0)
    order = sorted(range(len(symbols)), key=lambda i: symbols[i].name.encode())
    seqs = b"".join(index.to_bytes(3, "big") for index in order)
    count = len(symbols)
    wide = layout == "4.15"
    tables = {
        "num_syms": struct.pack("<Q" if wide else "<I", count),
        "names": bytes(names),
        "markers": b"".join(struct.pack("<Q" if wide else "<I", marker) for marker in markers),
        "tokens": bytes(tokens),
        "index": bytes(index_table),
        "base": struct.pack("<Q", base),
        "seqs": seqs,
        "offsets": b"\0" * (4 * count),
    }
    orders = {
        "4.15": ("offsets", "base", "num_syms", "names", "markers", "tokens", "index"),
        "5.0": ("offsets", "base", "num_syms", "names", "markers", "tokens", "index"),
        "6.2": ("offsets", "base", "num_syms", "names", "markers", "seqs", "tokens", "index"),
        "6.5": ("num_syms", "names", "markers", "tokens", "index", "offsets", "base", "seqs"),
        "6.17": ("num_syms", "names", "markers", "tokens", "index", "offsets", "base", "seqs"),
        "7.0": ("num_syms", "names", "markers", "tokens", "index", "offsets", "seqs"),
    }
    align = 4 if layout == "7.0" else 8
    out, places = bytearray(), {}
    for name in orders[layout]:
        out += b"\0" * (-len(out) % align)
        places[name] = len(out)
        out += tables[name]
    for index, symbol in enumerate(symbols):
        at = places["offsets"] + 4 * index
        if layout == "7.0":
            value = (symbol.address - (place + at)) & 0xFFFFFFFF
        elif layout == "6.17":
            value = symbol.address - base
        elif symbol.address < 1 << 31:
            value = symbol.address
        else:
            value = (base - 1 - symbol.address) & 0xFFFFFFFF
        struct.pack_into("<I", out, at, value)
    return bytes(out)


def filler_symbols(count: int) -> Iterator[Symbol]:
    """Symbols of text, and among them a name that takes two bytes for its length."""
    for index in range(count):
        name = f"filler_sym_{index:05}" if index != 700 else "a_very_long_name_" + "Q" * 180
        yield Symbol(START + 16 + 64 * index, "t", name)


# A whole guest


@dataclass
class Guest:
    """A guest in the making; `build` makes its memory. Virtual addresses of data are in the direct map.

    Attributes:
        layout: of kallsyms; None leaves them out.
        btf: the type information; None leaves it out.
        levels: of the page tables.
        symbols: names and addresses besides the usual ones.
        heap: what the kernel has allocated: physical address -> bytes.
        isolated: page table isolation: the root given is a process's user table.
        split: whether a 2 MiB of the image is mapped by 4 KiB pages.
    """

    layout: str | None = "6.5"
    btf: BtfWriter | None = field(default_factory=kernel_types)
    levels: int = 4
    symbols: dict[str, int] = field(default_factory=dict)
    heap: dict[int, bytes] = field(default_factory=dict)
    isolated: bool = False
    split: bool = False
    is_live: bool = False
    identity: str | None = None
    roots_known: bool = True
    tasks: Sequence[tuple[int, bytes]] = ((1, b"init"), (2, b"kthreadd"), (3, b"rcu_gp"), (40, b"sh"))

    def build(self) -> BytesMemory:
        ram = bytearray(24 << 20)

        def put(address: int, data: bytes) -> None:
            ram[address : address + len(data)] = data

        def image(offset: int, data: bytes) -> None:
            put(PHYSICAL + offset, data)

        banner_at, kallsyms_at, btf_at = RODATA + 0x9000, RODATA + 0x10000, RODATA + 0x100000
        image(RODATA + 0x160, b"%s version %s (builder@host) (gcc 1.2.3) %s\n\0")
        image(banner_at, BANNER)
        btf = self.btf.build(1 << 16) if self.btf is not None else b""
        image(btf_at, btf)
        known = {
            "_text": START,
            "_stext": START,
            "linux_banner": START + banner_at,
            "init_task": START + DATA + 0x8000,
            "__per_cpu_offset": START + DATA + 0x9000,
            "nr_cpu_ids": START + DATA + 0x9800,
            "__cpu_online_mask": START + DATA + 0x9900,
            **({"__start_BTF": START + btf_at, "__stop_BTF": START + btf_at + len(btf)} if btf else {}),
            **self.symbols,
        }
        if self.layout is not None:
            symbols = [
                Symbol(0x1000, "A", "a_percpu_variable"),
                Symbol(0x2000, "A", "runqueues"),
                *sorted(
                    [Symbol(address, "D", name) for name, address in known.items()]
                    + list(filler_symbols(3000)),
                    key=lambda symbol: (symbol.address, symbol.name),
                ),
            ]
            if self.layout in ("6.17", "7.0"):
                symbols = symbols[2:]
            image(kallsyms_at, build_kallsyms(symbols, self.layout, START, START + kallsyms_at))
        image(DATA + 0x9000, struct.pack("<QQ", 0x1111_0000, 0x2222_0000))
        image(DATA + 0x9800, struct.pack("<I", 2))
        image(DATA + 0x9900, struct.pack("<Q", 3))
        self._put_tasks(put)
        self._put_tables(put)
        for address, data in self.heap.items():
            put(address, data)
        root = self._root()
        roots = (root | 0x1000,) if self.isolated else (root,)
        return BytesMemory(
            {0: ram}, roots=roots if self.roots_known else (), is_live=self.is_live, identity=self.identity
        )

    @property
    def direct(self) -> int:
        return DIRECT if self.levels == 4 else DIRECT_LA57

    def _root(self) -> int:
        return PHYSICAL + DATA

    def _put_tasks(self, put: object) -> None:
        assert callable(put)
        places = [START + DATA + 0x8000] + [
            self.direct + (20 << 20) + 256 * i for i in range(len(self.tasks))
        ]
        everyone = [(0, b"swapper/0"), *self.tasks]
        for i, (pid, comm) in enumerate(everyone):
            after, before = places[(i + 1) % len(places)] + 8, places[i - 1] + 8
            parent = places[2] if pid == 3 else places[0]
            task = struct.pack("<IxxxxQQiiQ16s", 0, after, before, pid, pid, parent, comm).ljust(128, b"\0")
            put(PHYSICAL + DATA + 0x8000 if not i else (20 << 20) + 256 * (i - 1), task)

    def _put_tables(self, put: object) -> None:
        assert callable(put)
        root = self._root()
        level3, level2, level4, direct3, split = (root + PAGE * n for n in (2, 3, 4, 5, 6))
        entry = struct.Struct("<Q").pack
        first = (START - 0xFFFF_FFFF_8000_0000) // HUGE
        for index in range(IMAGE_SIZE // HUGE):
            bits = HUGE_BITS | (NO_EXECUTE if index * HUGE >= RODATA else 0)
            put(level2 + 8 * (first + index), entry(PHYSICAL + index * HUGE | bits))
        if self.split:
            put(level2 + 8 * (first + 2), entry(split | TABLE))
            for page in range(3, 512):  # the first ones were given back
                put(split + 8 * page, entry(PHYSICAL + 2 * HUGE + page * PAGE | PAGE_BITS | NO_EXECUTE))
        put(level3 + 8 * 510, entry(level2 | TABLE))
        put(level3 + 8 * 511, entry(root + PAGE * 8 | TABLE))
        put(direct3, entry(0 | HUGE_BITS | NO_EXECUTE))  # 1 GiB
        if self.levels == 4:
            put(root + 8 * 511, entry(level3 | TABLE))
            put(root + 8 * (DIRECT >> 39 & 511), entry(direct3 | TABLE))
        else:
            direct4 = root + PAGE * 7
            put(root + 8 * 511, entry(level4 | TABLE))
            put(level4 + 8 * 511, entry(level3 | TABLE))
            put(root + 8 * (DIRECT_LA57 >> 48 & 511), entry(direct4 | TABLE))
            put(direct4 + 8 * (DIRECT_LA57 >> 39 & 511), entry(direct3 | TABLE))
