"""Where the RAM of a QEMU guest lies, worked out from the command line and the mappings of the process.

QEMU maps each memory backend in one piece, and the machine type says how the pieces are cut around the hole
for PCI devices below 4 GiB. That can leave a choice, which the caller settles by looking at the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from virtscope.host.command_line import CommandLine, MemoryBackend, parse_size
from virtscope.host.qemu import QemuProcess
from virtscope.memory.live import HostRange
from virtscope.memory.mappings import Mapping, joined_mappings

_MIB, _GIB = 1 << 20, 1 << 30
_MOST_LAYOUTS = 32
_MOST_STEPS = 10_000


@dataclass(frozen=True, slots=True)
class PossibleLayouts:
    """What the mappings of a QEMU process allow.

    Attributes:
        layouts: the likeliest first; empty if no mapping fits.
        is_certain: whether the only layout leaves no doubt.
    """

    layouts: tuple[tuple[HostRange, ...], ...]
    is_certain: bool


@dataclass(frozen=True, slots=True)
class _Block:
    """A piece of RAM that QEMU maps as a whole."""

    size: int
    backend: MemoryBackend | None


def layouts_from_mappings(process: QemuProcess, mappings: Sequence[Mapping]) -> PossibleLayouts:
    """Where the RAM may lie.

    Args:
        process: the QEMU.
        mappings: its readable and writable mappings, as the kernel lists them.
    """
    line = process.command_line
    blocks = _blocks(line)
    splits, machine_is_known = _splits(process)
    layouts: list[tuple[HostRange, ...]] = []
    for addresses in islice(_assignments(blocks, _creation_order(line), mappings), _MOST_LAYOUTS):
        for split in splits:
            layout = _layout(split, blocks, addresses)
            if layout not in layouts:
                layouts.append(layout)
    is_certain = len(layouts) == 1 and machine_is_known and not line.can_grow
    return PossibleLayouts(tuple(layouts), is_certain)


def _blocks(line: CommandLine) -> list[_Block]:
    """The RAM in guest-physical order."""
    if not line.ram_backends:
        return [_Block(line.ram_size, None)]
    if len(line.ram_backends) == 1:
        return [_Block(line.ram_size, line.backends[line.ram_backends[0]])]
    backends = [line.backends[id] for id in line.ram_backends]
    return [_Block(backend.size or 0, backend) for backend in backends]


def _creation_order(line: CommandLine) -> list[int]:
    """The numbers of the blocks in the order in which QEMU makes them: that of the command line."""
    made = list(line.backends)
    return sorted(
        range(len(line.ram_backends) or 1),
        key=lambda number: made.index(line.ram_backends[number]) if line.ram_backends else 0,
    )


def _splits(process: QemuProcess) -> tuple[list[list[tuple[int, int]]], bool]:
    """How the machine may cut its RAM: lists of (guest-physical start, bytes of RAM from there on).

    The sizes are those of QEMU's machine types; old pc machine types cut at 3.5 GiB. The second value says
    whether the machine is one of those known.
    """
    line = process.command_line
    size, machine = line.ram_size, process.machine
    if not process.is_x86:
        bases = {("aarch64", "virt"): _GIB, ("riscv64", "virt"): 2 * _GIB}
        base = bases.get((process.architecture, machine))
        return [[(base or 0, size)]], base is not None
    limit = parse_size(line.machine_options.get("max-ram-below-4g", "")) or 4 * _GIB
    if machine == "q35":
        low = [min(limit, 0x80000000 if size >= 0xB0000000 else 0xB0000000)]
    elif machine == "microvm":
        low = [0xC0000000]
    elif size < 0xE0000000 or limit < 0xC0000000:
        low = [min(limit, 0xE0000000)]
    else:
        low = [0xC0000000, min(limit, 0xE0000000)]
    low = [value for value in low if value < size] or [size]
    # An AMD guest of more than about 1 TiB has its upper part above the HyperTransport range.
    high = [4 * _GIB] if size < 1008 * _GIB else [4 * _GIB, 1024 * _GIB]
    splits = [[(0, value), (above, size - value)] for value in low for above in high]
    return splits, machine in ("pc", "q35", "microvm")


def _layout(
    split: Sequence[tuple[int, int]], blocks: Sequence[_Block], addresses: Sequence[int]
) -> tuple[HostRange, ...]:
    """The blocks, one after the other, poured into the ranges of the machine."""
    layout = []
    pieces = [(address, block.size) for address, block in zip(addresses, blocks, strict=True)]
    for start, room in split:
        while room and pieces:
            address, size = pieces.pop(0)
            used = min(room, size)
            layout.append(HostRange(start, used, address))
            start, room = start + used, room - used
            if used < size:
                pieces.insert(0, (address + used, size - used))
    return tuple(layout)


def _assignments(
    blocks: Sequence[_Block], order: Sequence[int], mappings: Sequence[Mapping]
) -> Iterator[list[int]]:
    """Every way to give each block a place, the likeliest first.

    The kernel places new mappings downwards: of places that are alike, an older block has the higher one.
    """
    choices = [_places(blocks[number], mappings) for number in order]
    places = [0] * len(blocks)

    steps = 0

    def assign(at: int) -> Iterator[list[int]]:
        nonlocal steps
        steps += 1
        if steps > _MOST_STEPS:
            return
        if at == len(order):
            yield list(places)
            return
        taken = {places[number] for number in order[:at]}
        for place in choices[at]:
            if place not in taken:
                places[order[at]] = place
                yield from assign(at + 1)

    return assign(0)


def _places(block: _Block, mappings: Sequence[Mapping]) -> list[int]:
    """The addresses at which a block may lie, the likeliest first."""
    fitting = [mapping for mapping in mappings if _may_hold(mapping, block.backend)]
    exact = [mapping.start for mapping in fitting if mapping.size == block.size]
    if block.backend is not None and block.backend.kind == "file":
        named = [
            mapping.start
            for mapping in fitting
            if mapping.size >= block.size and _is_file_of(mapping.path, block.backend)
        ]
        exact = named or exact
    if exact:
        return sorted(exact, reverse=True)
    # The kernel has joined it with a neighbour, or cut it. QEMU puts a guard page behind each block, so it
    # probably ends where a mapping ends.
    places = []
    for mapping in reversed(joined_mappings(fitting)):
        if mapping.size >= block.size:
            places += [mapping.end - block.size, -(-mapping.start // (2 * _MIB)) * 2 * _MIB]
    return list(dict.fromkeys(places))


def _may_hold(mapping: Mapping, backend: MemoryBackend | None) -> bool:
    if "x" in mapping.permissions:  # translated code
        return False
    is_memfd = mapping.path.startswith("/memfd:")
    if backend is not None and backend.kind == "memfd":
        return is_memfd
    if backend is not None and backend.kind != "ram":
        return mapping.inode != 0
    # Shared anonymous memory has a name and an inode, too.
    return not mapping.path or is_memfd or mapping.path.startswith("/dev/zero")


def _is_file_of(mapped: str, backend: MemoryBackend) -> bool:
    """Whether a mapped path is the file of a backend, which may be given as the directory it is made in."""
    mapped = mapped.removesuffix(" (deleted)")
    given = (backend.path or "").rstrip("/").rpartition("/")[2]
    directory, _, name = mapped.rpartition("/")
    if name == given:
        return True
    is_made_there = bool(given) and directory.rpartition("/")[2] == given
    return is_made_there and name.startswith("qemu_back_mem.") and f".{backend.id.replace('/', '_')}." in name
