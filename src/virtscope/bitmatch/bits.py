"""Bits: a piece of a buffer that begins and ends at any bit, taken without copying.

A pattern gives one for `bits(n)` and `rest`, and `bits()` makes one of anything that holds bytes, to stand in
a `match` statement. So that no field name is ever hidden by a method, Bits has no public attributes:
everything is done with Python's own operations (`len`, slices, `bytes()`, `int()`, `==`, `+`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, SupportsIndex, overload

WINDOW = 1 << 16
"""How much of a file is read first, when it is not known how much a pattern needs."""
MAX_WINDOW = 1 << 26
"""How much of a file one match reads at most, in bytes."""


class Readable(Protocol):
    """An open file, as far as bits() is concerned."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place; returns it."""

    def read(self, size: int = -1, /) -> bytes | None:
        """The next bytes."""


Buffer = bytes | bytearray | memoryview
"""What patterns read: anything with the buffer protocol works; these are the usual ones."""


class Bits:
    """An immutable run of bits in a buffer, most significant bit of each byte first.

    `len(b)` is its length in bits; `b[i]` a bit, `b[i:j]` another Bits (nothing is copied); `bytes(b)` its
    bytes, the last one filled with zero bits; `int(b)` its value as a big-endian number; `+` joins (and
    copies); equal bits are equal wherever they lie.

    In a `match` statement, `case Superblock(s_magic=0xEF53, s_free_blocks_count=free)` matches a Bits against
    the pattern Superblock; the fields are then found on the Bits itself.
    """

    __slots__ = ("_buffer", "_end", "_file", "_match", "_start")

    def __init__(self, buffer: Buffer, start: int, end: int) -> None:
        self._buffer = buffer
        self._start = start
        self._end = end
        self._match: object = None
        self._file: _Window | None = None

    def __getattr__(self, name: str) -> Any:
        found = self._match
        if found is None or name.startswith("__"):
            raise AttributeError(f"Bits has no {name!r}: no pattern has matched it yet")
        return getattr(found, name)

    def __len__(self) -> int:
        return self._end - self._start

    @overload
    def __getitem__(self, key: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> Bits: ...
    def __getitem__(self, key: SupportsIndex | slice) -> int | Bits:
        size = self._end - self._start
        if isinstance(key, slice):
            first, last, step = key.indices(size)
            if step != 1:
                raise ValueError("a slice of Bits has no step")
            piece = Bits(self._buffer, self._start + first, self._start + max(first, last))
            piece._file = self._file
            return piece
        index = key.__index__()
        if index < 0:
            index += size
        if not 0 <= index < size:
            raise IndexError("bit index out of range")
        place = self._start + index
        return self._load(place, place + 1)[0] >> (7 - place % 8) & 1

    def _load(self, start: int, end: int) -> Buffer:
        """The bytes that hold the bits from `start` to `end`."""
        if self._file is not None:
            return self._file.read_at(start // 8, (end + 7) // 8 - start // 8)
        return self._buffer[start // 8 : (end + 7) // 8]

    def __iter__(self) -> Iterator[int]:
        for index in range(len(self)):
            yield self[index]

    def __int__(self) -> int:
        size = self._end - self._start
        if not size:
            return 0
        value = int.from_bytes(self._load(self._start, self._end), "big")
        return value >> (-self._end % 8) & ((1 << size) - 1)

    def __bytes__(self) -> bytes:
        size = self._end - self._start
        if self._start % 8 == 0 and size % 8 == 0:
            return bytes(self._load(self._start, self._end))
        return (int(self) << (-size % 8)).to_bytes((size + 7) // 8, "big")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, bytes | bytearray | memoryview):
            return len(self) == len(other) * 8 and bytes(self) == bytes(other)
        if not isinstance(other, Bits):
            return NotImplemented
        return len(self) == len(other) and bytes(self) == bytes(other)

    def __hash__(self) -> int:
        return hash(bytes(self)) if len(self) % 8 == 0 else hash((len(self), bytes(self)))

    def __add__(self, other: Bits | bytes) -> Bits:
        if isinstance(other, bytes | bytearray | memoryview):
            other = Bits(other, 0, len(other) * 8)
        if not isinstance(other, Bits):
            return NotImplemented
        size = len(self) + len(other)
        value = int(self) << len(other) | int(other)
        return Bits((value << (-size % 8)).to_bytes((size + 7) // 8, "big"), 0, size)

    def __repr__(self) -> str:
        size = self._end - self._start
        if size <= 64:
            digits = f"{int(self):0{size}b}" if size else ""
            return f"bits('{digits}')"
        return f"<{size} bits: {bytes(self[:128]).hex(' ')}{' ...' if size > 128 else ''}>"

    def __reduce__(self) -> tuple[object, ...]:
        return Bits, (bytes(self), 0, len(self))


class _Window:
    """The bytes of a seekable file, read when they are asked for."""

    def __init__(self, file: Readable) -> None:
        self.file = file
        self.size = file.seek(0, 2)

    def read_at(self, offset: int, size: int) -> bytes:
        self.file.seek(offset)
        pieces = []
        while size > 0:
            piece = self.file.read(size)
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def bits(source: object, offset: int = 0) -> Bits:
    """The bits of `source` from byte `offset` on, for a `match` statement or for slicing.

    Args:
        source: bytes or anything else with the buffer protocol, a string of 0 and 1 ("0110"), a Bits, or a
            binary file or device opened for reading, of which only what a pattern needs is read.
        offset: where to begin, in bytes.

    Raises:
        TypeError: if `source` holds no bytes.
        ValueError: if `offset` is negative or a string holds something else than 0 and 1.
    """
    if offset < 0:
        raise ValueError(f"offset {offset} is negative")
    if isinstance(source, Bits):
        return source[offset * 8 :]
    if isinstance(source, str):
        if source.strip("01"):
            raise ValueError("a string of bits holds only 0 and 1")
        size = len(source)
        data = (int(source or "0", 2) << (-size % 8)).to_bytes((size + 7) // 8, "big")
        return Bits(data, min(offset * 8, size), size)
    if hasattr(source, "read") and hasattr(source, "seek") and not _is_buffer(source):
        window = _Window(source)
        made = Bits(b"", min(offset, window.size) * 8, window.size * 8)
        made._file = window
        return made
    buffer = as_buffer(source)
    return Bits(buffer, min(offset, len(buffer)) * 8, len(buffer) * 8)


def _is_buffer(source: object) -> bool:
    try:
        memoryview(source)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def as_buffer(source: object) -> Buffer:
    """`source` as something that is indexed and sliced by bytes; a view, never a copy.

    Raises:
        TypeError: if it has no buffer protocol.
    """
    if isinstance(source, bytes | bytearray):
        return source
    view = memoryview(source)  # type: ignore[arg-type]
    return view if view.itemsize == 1 and view.ndim == 1 and view.format == "B" else view.cast("B")
