"""Disks striped, mirrored and with parity, as Linux MD and device-mapper lay them out.

A volume is cut into chunks, and a layout says on which disk ("leg") and where each chunk is. Where a leg is
missing or cannot be read, its chunk is taken from another copy or computed from the parity.

The layouts are those of drivers/md/raid5.c and raid10.c of Linux.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from virtscope.block.source import BlockSource
from virtscope.errors import MissingDevice, UnsupportedFeature, VirtscopeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from virtscope.block.source import Extent


class Missing(BlockSource):
    """A leg that is not there: reading it says why.

    Args:
        name: of the leg.
        size: in bytes.
        why: what is the matter, for the message.
    """

    def __init__(self, name: str, size: int, why: str) -> None:
        super().__init__(name, size)
        self.why = why

    def _read(self, offset: int, size: int) -> NoReturn:
        raise MissingDevice(f"{self.why} ({size} bytes wanted at {offset:#x} of {self.name})")


class Mirrored(BlockSource):
    """Legs that all hold the same; the first that can be read is.

    Args:
        name: for messages.
        size: in bytes.
        legs: those in sync first.
    """

    def __init__(self, name: str, size: int, legs: Sequence[BlockSource]) -> None:
        super().__init__(name, size)
        self._legs = legs

    def _read(self, offset: int, size: int) -> bytes:
        first: VirtscopeError | None = None
        for leg in self._legs:
            try:
                return leg.read_at(offset, size)
            except VirtscopeError as error:
                first = first or error
        raise first or MissingDevice(f"{self.name} has no legs")

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        for leg in self._legs:
            if not isinstance(leg, Missing) and leg.size >= end:
                return leg.extents(start, end)
        return super()._extents(start, end)


class Striped(BlockSource):
    """Chunks dealt out to legs in turn (RAID 0), and the base of the other layouts.

    Args:
        name: for messages.
        size: in bytes.
        legs: in the order of the layout.
        chunk_size: in bytes.
    """

    def __init__(self, name: str, size: int, legs: Sequence[BlockSource], chunk_size: int) -> None:
        super().__init__(name, size)
        if chunk_size <= 0 or len(legs) < 1:
            raise UnsupportedFeature("RAID", f"{name}: {len(legs)} legs of chunks of {chunk_size} bytes")
        self._legs = legs
        self._chunk_size = chunk_size

    def _data_legs(self) -> int:
        """How many chunks of data are in a row of chunks across all legs."""
        return len(self._legs)

    def _place(self, chunk: int) -> tuple[int, int]:
        """The leg of a chunk, and the row."""
        row, leg = divmod(chunk, len(self._legs))
        return leg, row

    def _from(self, chunk: int, within: int, size: int) -> bytes:
        """A part of a chunk."""
        leg, row = self._place(chunk)
        return self._legs[leg].read_at(row * self._chunk_size + within, size)

    def _read(self, offset: int, size: int) -> bytes:
        pieces = []
        end = offset + size
        chunk_size = self._chunk_size
        while offset < end:
            chunk, within = divmod(offset, chunk_size)
            length = min(chunk_size - within, end - offset)
            pieces.append(self._from(chunk, within, length))
            offset += length
        return b"".join(pieces) if len(pieces) > 1 else pieces[0] if pieces else b""

    def _extents(self, start: int, end: int) -> Iterator[Extent]:
        # What is zero on all legs is zero in the volume, parity included.
        row_size = self._chunk_size * self._data_legs()
        position = start
        while position < end:
            leg_position = position // row_size * self._chunk_size
            leg_end = -(-end // row_size) * self._chunk_size
            zero = True
            zero_until, data_until = leg_end, leg_position + self._chunk_size
            for leg in self._legs:
                first = next(leg.extents(leg_position, leg_end), None)
                if first is not None and first[2]:
                    zero_until = min(zero_until, first[0] + first[1])
                else:
                    zero = False
                    data_until = max(data_until, leg_end if first is None else first[0] + first[1])
            rows = (zero_until if zero else data_until) // self._chunk_size
            if zero and rows * self._chunk_size <= leg_position:
                zero, rows = False, leg_position // self._chunk_size + 1
            reached = min(max(rows * row_size, position + 1), end)
            yield position, reached - position, zero
            position = reached


class Raid10(Striped):
    """RAID 10 with near copies: every chunk on neighbouring legs.

    Args:
        name: for messages.
        size: in bytes.
        legs: in the order of the layout.
        chunk_size: in bytes.
        copies: of every chunk.
    """

    def __init__(
        self, name: str, size: int, legs: Sequence[BlockSource], chunk_size: int, copies: int = 2
    ) -> None:
        super().__init__(name, size, legs, chunk_size)
        if not 1 <= copies <= len(legs):
            raise UnsupportedFeature("RAID", f"{name}: {copies} copies on {len(legs)} legs")
        self._copies = copies

    def _data_legs(self) -> int:
        return max(len(self._legs) // self._copies, 1)

    def _from(self, chunk: int, within: int, size: int) -> bytes:
        first: VirtscopeError | None = None
        for copy in range(self._copies):
            row, leg = divmod(chunk * self._copies + copy, len(self._legs))
            try:
                return self._legs[leg].read_at(row * self._chunk_size + within, size)
            except VirtscopeError as error:
                first = first or error
        assert first is not None
        raise first


class Parity(Striped):
    """RAID 4, 5 and 6.

    Args:
        name: for messages.
        size: in bytes.
        legs: in the order of the layout.
        chunk_size: in bytes.
        layout: one of `LAYOUTS`.
        parity_is_valid: whether all parity was written: where it was not, nothing can be computed from it.
    """

    def __init__(
        self,
        name: str,
        size: int,
        legs: Sequence[BlockSource],
        chunk_size: int,
        layout: str,
        *,
        parity_is_valid: bool = True,
    ) -> None:
        super().__init__(name, size, legs, chunk_size)
        if layout not in LAYOUTS:
            raise UnsupportedFeature("RAID", f"{name} has the layout {layout!r:.40}, which is not read")
        self._double = layout.startswith("raid6")
        self._layout = layout
        self._parity_is_valid = parity_is_valid
        if len(legs) < (4 if self._double else 2):
            raise UnsupportedFeature("RAID", f"{name}: {len(legs)} legs are too few for {layout}")

    def _data_legs(self) -> int:
        return len(self._legs) - (2 if self._double else 1)

    def _from(self, chunk: int, within: int, size: int) -> bytes:
        row, index = divmod(chunk, self._data_legs())
        data, p, q = positions(self._layout, len(self._legs), row)
        at = row * self._chunk_size + within
        try:
            return self._legs[data[index]].read_at(at, size)
        except VirtscopeError as error:
            if not self._parity_is_valid:
                raise
            return self._computed(data, p, q, index, at, size, error)

    def _computed(
        self, data: list[int], p: int, q: int, index: int, at: int, size: int, why: VirtscopeError
    ) -> bytes:
        """The bytes of the data leg `index` of a row from those of the other legs."""
        others: dict[int, bytes] = {}
        lost = []
        for other, leg in enumerate(data):
            if other != index:
                try:
                    others[other] = self._legs[leg].read_at(at, size)
                except VirtscopeError:
                    lost.append(other)
        parity = self._parity(p, at, size)
        if not lost and parity is not None:
            return _xor([parity, *others.values()], size)
        second = self._parity(q, at, size) if self._double else None
        if second is None or len(lost) > 1 or (lost and parity is None):
            raise why
        # The second parity is the sum of all data, each multiplied by a power of 2, in a field of 256
        # elements.
        number = self._numbers(data)
        partial = _xor([second, *(_times(found, _POWER[number[o]]) for o, found in others.items())], size)
        if not lost:
            return _times(partial, _inverse(_POWER[number[index]]))
        assert parity is not None
        rest = _xor([parity, *others.values()], size)
        mine, theirs = _POWER[number[index]], _POWER[number[lost[0]]]
        return _times(_xor([partial, _times(rest, theirs)], size), _inverse(mine ^ theirs))

    def _numbers(self, data: list[int]) -> list[int]:
        """The exponent of every data leg of a row in the second parity."""
        if self._layout in _NUMBERED_BY_LEG:
            return data
        order = sorted(data)
        return [order.index(leg) for leg in data]

    def _parity(self, leg: int, at: int, size: int) -> bytes | None:
        try:
            return self._legs[leg].read_at(at, size)
        except VirtscopeError:
            return None


LAYOUTS = (
    "raid4",
    "raid5_la",
    "raid5_ra",
    "raid5_ls",
    "raid5_rs",
    "raid5_0",
    "raid5_n",
    "raid6_zr",
    "raid6_nr",
    "raid6_nc",
    "raid6_la_6",
    "raid6_ra_6",
    "raid6_ls_6",
    "raid6_rs_6",
    "raid6_0_6",
    "raid6_n_6",
)
"""The names device-mapper gives to the layouts."""

_NUMBERED_BY_LEG = ("raid6_zr", "raid6_nr", "raid6_nc")


def positions(layout: str, legs: int, row: int) -> tuple[list[int], int, int]:
    """The legs of the data chunks of a row in their order, of its parity and its second parity (-1 if
    none).
    """
    if layout in ("raid4", "raid5_0"):
        return list(range(1, legs)), 0, -1
    if layout == "raid5_n":
        return list(range(legs - 1)), legs - 1, -1
    if layout == "raid6_n_6":
        return list(range(legs - 2)), legs - 2, legs - 1
    if layout == "raid6_0_6":
        return list(range(1, legs - 1)), 0, legs - 1
    if layout.endswith("_6"):  # a RAID 5 on all legs but the last, which holds the second parity
        data, p, _ = positions("raid5" + layout[5:8], legs - 1, row)
        return data, p, legs - 1
    turn = (row + 1 if layout == "raid6_nr" else row) % legs
    p = turn if layout in ("raid5_ra", "raid5_rs", "raid6_zr") else legs - 1 - turn
    if layout in ("raid5_ls", "raid5_rs"):
        return [(p + 1 + index) % legs for index in range(legs - 1)], p, -1
    if layout in ("raid5_la", "raid5_ra"):
        return [leg for leg in range(legs) if leg != p], p, -1
    if layout == "raid6_nc":
        q = (p - 1) % legs
        return [(p + 1 + index) % legs for index in range(legs - 2)], p, q
    q = (p + 1) % legs
    return [leg for leg in range(legs) if leg not in (p, q)], p, q


def _xor(parts: list[bytes], size: int) -> bytes:
    total = 0
    for part in parts:
        total ^= int.from_bytes(part, "little")
    return total.to_bytes(size, "little")


def _powers() -> list[int]:
    powers, value = [], 1
    for _ in range(255):
        powers.append(value)
        value <<= 1
        if value & 0x100:
            value ^= 0x11D  # the field's polynomial, as in Linux's lib/raid6
    return powers


_POWER = _powers()
_tables: dict[int, bytes] = {}


def _times(data: bytes, factor: int) -> bytes:
    """All bytes multiplied by a factor in the field."""
    table = _tables.get(factor)
    if table is None:
        logarithm = {value: power for power, value in enumerate(_POWER)}
        shift = logarithm[factor]
        table = bytes([0, *(_POWER[(logarithm[value] + shift) % 255] for value in range(1, 256))])
        _tables[factor] = table
    return data.translate(table)


def _inverse(factor: int) -> int:
    return _POWER[(255 - _POWER.index(factor)) % 255]
