"""kallsyms: the symbol table that a kernel carries in its read-only data.

Written by scripts/kallsyms.c, read by kernel/kallsyms.c. Names are compressed: each is a length and that
many one-byte tokens; the first character of a name is its nm-style type. The tables lie next to one another,
but in an order, with widths and an address encoding that have changed over the years. Nothing here looks at a
version: the token table is found by its content, the others by where they must be if they belong to it, and
all is checked against each other and against the address of `_text`.

    4.15 .. 6.4  offsets, relative_base, num_syms, names, markers, [seqs_of_names,] token_table, token_index
    6.5 ..       num_syms, names, markers, token_table, token_index, offsets, [relative_base,] [seqs_of_names]

`find_kallsyms` finds it in an image; `Kallsyms` looks names and addresses up without decoding it all, if
seqs_of_names (the order of names) is there.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from virtscope.errors import FormatError, GuestMemoryError
from virtscope.kernel.kallsyms_places import Places

if TYPE_CHECKING:
    from virtscope.kernel.locate import Image

_DIGITS = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00"
_MAX_SYMBOLS = 1 << 21
_MAX_NAMES = 16 << 20
_MAX_TABLES = 4
_MAX_TOKEN_TABLE = 1 << 14
_MAX_NAME_TOKENS = 0x7FFF
_ADDRESS_MASK = (1 << 64) - 1


class Kallsyms:
    """The symbol table of one kernel.

    Args:
        data: the bytes of all tables, from the first to the end of the last.
        places: offsets into `data` of "names", "markers", "tokens", "index", "offsets", and "seqs" if it is
            there; "num_syms"; "width": bytes of a marker; "form": how offsets become addresses.
        base: `relative_base`, or for place-relative offsets the virtual address of the offsets table.

    Raises:
        FormatError: the tables contradict themselves.
    """

    def __init__(self, data: bytes, places: dict[str, int], base: int) -> None:
        self._data = data
        self._count = count = places["num_syms"]
        self._names, self._names_end = places["names"], places["markers"]
        width, marked = places["width"], (count + 255) // 256
        if not 0 < count <= _MAX_SYMBOLS or not 0 <= self._names <= self._names_end:
            raise FormatError("kallsyms", f"{count} symbols cannot be", field="num_syms")
        sizes = {"markers": marked * width, "index": 512, "offsets": 4 * count, "seqs": 3 * count}
        for name, size in sizes.items():
            if not 0 <= places.get(name, 0) <= len(data) - size:
                raise FormatError("kallsyms", "the table is cut short", field=name, offset=places.get(name))
        marks = memoryview(data)[places["markers"] :][: marked * width]
        self._markers = marks.cast("Q" if width == 8 else "I")
        self._tokens = _read_tokens(data, places["tokens"], places["index"])
        self._address = _address_form(data, places["offsets"], count, places["form"], base)
        self._seqs = places.get("seqs")
        self._text: bytes | None = None

    def __len__(self) -> int:
        return self._count

    def address(self, index: int) -> int:
        """The address of symbol `index`; they ascend, small absolute ones (per-CPU) first."""
        return self._address(index)

    def name(self, index: int) -> str:
        """The name of symbol `index`."""
        return self._decode(self._position(index))[1:].decode("ascii", "replace")

    def kind(self, index: int) -> str:
        """The nm-style type letter of symbol `index` ("T", "d", "A", ...)."""
        return self._decode(self._position(index))[:1].decode("ascii", "replace")

    def lookup(self, name: str) -> int | None:
        """The address of the first symbol called `name`; None when there is none."""
        index = self._find(name.encode("utf-8", "surrogateescape"))
        return None if index is None else self._address(index)

    def nearest(self, address: int) -> tuple[int, str] | None:
        """The (address, name) of the last symbol at or below `address`; None when it is below all of them.

        Of several symbols at one address the first one counts, as in the kernel.
        """
        index = bisect_right(range(self._count), address, key=self._address) - 1
        if index < 0:
            return None
        start = self._address(index)
        index = bisect_left(range(index), start, key=self._address)
        return start, self.name(index)

    def following(self, address: int) -> int | None:
        """The address of the first symbol above `address`; None when there is none."""
        index = bisect_right(range(self._count), address, key=self._address)
        return self._address(index) if index < self._count else None

    def symbols(self) -> Iterator[tuple[int, str, str]]:
        """All symbols: (address, type letter, name)."""
        for index, line in enumerate(self._decode_all()[1:].split(b"\n")[: self._count]):
            name = line.decode("ascii", "replace")
            yield self._address(index), name[:1], name[1:]

    def _find(self, name: bytes) -> int | None:
        """The index of the first symbol called `name`."""
        if b"\n" in name or not name:
            return None
        if self._seqs is None:
            text = self._decode_all()
            at = text.find(b"%b\n" % name)
            while at >= 0:
                # A whole name: behind one type letter, behind a line end.
                if at >= 2 and text[at - 2] == 10:
                    return text.count(b"\n", 0, at) - 1
                at = text.find(b"%b\n" % name, at + 1)
            return None
        order = bisect_left(range(self._count), name, key=self._name_by_order)
        if order < self._count and self._name_by_order(order) == name:
            return self._by_order(order)
        return None

    def _by_order(self, order: int) -> int:
        """The index of the symbol that comes at `order` when names are sorted."""
        assert self._seqs is not None
        at = self._seqs + 3 * order
        index = int.from_bytes(self._data[at : at + 3], "big")
        if index >= self._count:
            raise FormatError(
                "kallsyms", f"{index} of {self._count} symbols", field="seqs_of_names", offset=at
            )
        return index

    def _name_by_order(self, order: int) -> bytes:
        return self._decode(self._position(self._by_order(order)))[1:]

    def _position(self, index: int) -> int:
        """Where in the data the compressed name of symbol `index` is."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        data = self._data
        position = self._names + self._markers[index >> 8]
        try:
            for _ in range(index & 255):
                size = data[position]
                position += size + 1 if size < 0x80 else (size & 0x7F | data[position + 1] << 7) + 2
        except IndexError:
            raise FormatError("kallsyms", "names run past the end", field="names") from None
        return position

    def _decode(self, position: int) -> bytes:
        data = self._data
        if position + 2 > self._names_end:
            raise FormatError("kallsyms", "names run past the end", field="names")
        size = data[position]
        position += 1
        if size >= 0x80:
            size = size & 0x7F | data[position] << 7
            position += 1
        tokens = self._tokens
        return b"".join([tokens[token] for token in data[position : min(position + size, self._names_end)]])

    def _decode_all(self) -> bytes:
        """Every name with its type letter, in order, each between line ends."""
        if self._text is None:
            blob, tokens = self._data[self._names : self._names_end], self._tokens
            lines, position, end = [b""], 0, len(blob)
            for _ in range(self._count):
                if position + 1 >= end:
                    raise FormatError("kallsyms", "names run past the end", field="names")
                size = blob[position]
                position += 1
                if size >= 0x80:
                    size = size & 0x7F | blob[position] << 7
                    position += 1
                lines.append(b"".join([tokens[token] for token in blob[position : position + size]]))
                position += size
            lines.append(b"")
            self._text = b"\n".join(lines)
        return self._text


def _read_tokens(data: bytes, table: int, index: int) -> list[bytes]:
    """The 256 tokens."""
    places = memoryview(data)[index : index + 512].cast("H")
    tokens = []
    for place in places:
        end = data.find(b"\0", table + place, table + _MAX_TOKEN_TABLE)
        if end < 0:
            raise FormatError("kallsyms", "a token does not end", field="token_table", offset=table + place)
        # A line end separates names here, and is in no name.
        tokens.append(data[table + place : end].replace(b"\n", b"?"))
    return tokens


_ABSOLUTE_AND_RELATIVE, _UNSIGNED, _PLACE_RELATIVE = range(3)
"""How offsets are written: negative ones from a base, others absolute; from a base; from their own place."""


def _address_form(data: bytes, offsets: int, count: int, form: int, base: int) -> Callable[[int], int]:
    """How symbol numbers become addresses."""
    table = memoryview(data)[offsets : offsets + 4 * count]
    if form == _ABSOLUTE_AND_RELATIVE:
        signed = table.cast("i")

        def absolute_or_relative(index: int) -> int:
            value = signed[index]
            return value if value >= 0 else (base - 1 - value) & _ADDRESS_MASK

        return absolute_or_relative
    if form == _UNSIGNED:
        plain = table.cast("I")
        return lambda index: (base + plain[index]) & _ADDRESS_MASK
    relative = table.cast("i")
    return lambda index: (base + 4 * index + relative[index]) & _ADDRESS_MASK


def find_kallsyms(image: Image) -> Places | None:
    """Where the symbol table of the kernel in `image` is; None when none belongs to this image."""
    for start in (image.rodata, 0) if image.rodata else (0,):
        for tokens in islice(_token_tables(image, start), _MAX_TABLES):
            places = _places(image, tokens)
            if places is not None:
                return places
    return None


def read_kallsyms(image: Image, places: Places) -> tuple[Kallsyms, bytes]:
    """The symbol table at `places`, and its bytes without `relative_base`, which differs from boot to boot.

    Raises:
        FormatError: what is there is no symbol table.
        GuestMemoryError: it cannot be read.
    """
    start, end = places["start"], places["end"]
    if not 0 <= start < end <= image.size or end - start > 2 * _MAX_NAMES:
        raise FormatError("kallsyms", "is not inside the kernel image")
    data = image.read(start, end - start)
    inner = {
        key: value - start if key in ("names", "markers", "tokens", "index", "offsets", "seqs") else value
        for key, value in places.items()
    }
    base_at = places.get("base")
    if base_at is None:
        return Kallsyms(data, inner, image.start + places["offsets"]), data
    base_at -= start
    base = int.from_bytes(data[base_at : base_at + 8], "little")
    return Kallsyms(data, inner, base), data[:base_at] + data[base_at + 8 :]


def _token_tables(image: Image, start: int) -> Iterator[tuple[int, int]]:
    """The (token_table, token_index) offsets of tables whose index matches their strings."""
    for digits in islice(image.find(_DIGITS, start), 256):
        low = max(0, digits - _MAX_TOKEN_TABLE)
        try:
            data = image.read(low, digits - low + 2 * _MAX_TOKEN_TABLE)
        except GuestMemoryError:
            continue
        # Back over the 0x30 strings before "0", and the end of what is before them.
        position, at = digits - low, digits - low
        for _ in range(0x30):
            at = data.rfind(b"\0", 0, position - 1) if position > 1 else -1
            position = at + 1
        # Bytes that no symbol uses and that are no token are empty strings, also the first ones.
        for table in (position, *_nearby(position)):
            index = _matching_index(data, table)
            if index is not None:
                yield low + table, low + index
                break


def _nearby(position: int) -> Iterator[int]:
    """Starts of a token table whose first strings are empty, or had padding taken for such."""
    for step in range(1, 9):
        yield position - step
        yield position + step


def _matching_index(data: bytes, table: int) -> int | None:
    """The offset of the token_index that belongs to the token table at `table`."""
    if table < 0:
        return None
    places, position = [], table
    for _ in range(256):
        places.append(position - table)
        end = data.find(b"\0", position, table + _MAX_TOKEN_TABLE)
        if end < 0:
            return None
        position = end + 1
    if places[-1] > 0xFFFF:
        return None
    wanted = b"".join(place.to_bytes(2, "little") for place in places)
    index = data.find(wanted, position, position + 64 + len(wanted))
    return index if index >= 0 else None


def _places(image: Image, found: tuple[int, int]) -> Places | None:
    """All tables, from where the token table and index are."""
    tokens, index = found
    for markers, count, width in islice(_marker_tables(image, tokens), _MAX_TABLES):
        names, num_syms_at, num_syms = _names_before(image, markers, count, width)
        if names < 0:
            continue
        places = Places(
            tokens=tokens, index=index, markers=markers, width=width, names=names, num_syms=num_syms
        )
        if _addresses(image, places, num_syms_at, markers + count * width):
            return places
    return None


def _marker_tables(image: Image, tokens: int) -> Iterator[tuple[int, int, int]]:
    """Tables of ascending numbers, 0 first, before the token table: (offset, how many, bytes of each)."""
    low = max(0, tokens - 3 * _MAX_SYMBOLS - (1 << 16))
    low -= low % 8
    data = image.read(low, tokens - low)
    words = memoryview(data)[: len(data) & ~3].cast("I")
    zero = b"\0\0\0\0"
    at = len(data)
    for _ in range(1 << 16):
        at = data.rfind(zero, 0, at)
        if at < 0:
            return
        word = at // 4 if at % 4 == 0 else -1
        at += 3  # the next search may overlap this one
        if word < 0 or word + 1 >= len(words):
            continue
        # A marker follows 256 names, of at least two bytes each.
        for width, stride in ((4, 1), (8, 2)):
            if width == 8 and (word % 2 or words[word + 1]):
                continue
            last, count, position = 0, 1, word + stride
            while position + stride <= len(words):
                value = words[position]
                if not last + 512 <= value <= last + 256 * 1024 or (stride == 2 and words[position + 1]):
                    break
                last, count, position = value, count + 1, position + stride
            if count >= 8:
                yield low + word * 4, count, width


def _names_before(image: Image, markers: int, count: int, width: int) -> tuple[int, int, int]:
    """The names that the markers mark: their offset, that of num_syms, its value; (-1, 0, 0): none."""
    data = image.read(markers, count * width)
    values = memoryview(data).cast("I" if width == 4 else "Q")
    last = values[count - 1]
    reach = 256 * 1024
    low = max(8, markers - last - reach) & ~7
    if last > _MAX_NAMES or low >= markers - last:
        return -1, 0, 0
    head = image.read(low - 8, reach + 8 + min(values[1] + 4096, markers - low))
    words = memoryview(head)[: len(head) & ~3].cast("I")
    lowest, highest = (count - 1) * 256, count * 256
    for names in range(markers - last & ~3, low - 1, -4):
        at = (names - low + 8) // 4
        for back in (1, 2):
            # num_syms is a 4-byte number, padded to 8 where names are 8-byte aligned.
            if at < back or not lowest < words[at - back] <= highest or (back == 2 and words[at - 1]):
                continue
            if _names_end(head, names - low + 8, 256) - (names - low + 8) == values[1]:
                return names, names - 4 * back, words[at - back]
    return -1, 0, 0


def _names_end(data: bytes, position: int, count: int) -> int:
    """Where `count` compressed names that start at `position` end; -1 when they leave the data."""
    for _ in range(count):
        if position + 1 >= len(data):
            return -1
        size = data[position]
        if not size:
            return -1
        position += size + 1 if size < 0x80 else (size & 0x7F | data[position + 1] << 7) + 2
    return position


def _addresses(image: Image, places: Places, num_syms_at: int, markers_end: int) -> bool:
    """Adds where the addresses are, and how they are written; False when none make sense with `_text`."""
    count = places["num_syms"]
    behind = places["index"] + 512
    for align in (4, 8):
        offsets = -(-behind // align) * align
        after = offsets + 4 * count
        base = -(-after // 8) * 8
        for form, base_at, seqs in (
            (_ABSOLUTE_AND_RELATIVE, base, base + 8),
            (_UNSIGNED, base, base + 8),
            (_PLACE_RELATIVE, None, after),
        ):
            if _accept(image, places, offsets, base_at, form, num_syms_at):
                _add_seqs(image, places, seqs)
                return True
    base = num_syms_at - 8
    end = base - 4 * count
    for offsets in (end & ~7, end):
        for form in (_ABSOLUTE_AND_RELATIVE, _UNSIGNED):
            if _accept(image, places, offsets, base, form, offsets):
                _add_seqs(image, places, markers_end)
                return True
    return False


def _accept(image: Image, places: Places, offsets: int, base_at: int | None, form: int, start: int) -> bool:
    """Whether addresses written that way ascend, and `_text` or `_stext` is the image's start."""
    count = places["num_syms"]
    end = max(places["index"] + 512, offsets + 4 * count, (base_at or 0) + 8)
    if offsets < 0 or end > image.size:
        return False
    trial = Places(places, offsets=offsets, form=form, start=start, end=end)
    if base_at is not None:
        trial["base"] = base_at
    try:
        table, _ = read_kallsyms(image, trial)
        index = bisect_left(range(count), image.start, key=table.address)
        sample = [table.address(at) for at in range(index, count, max(1, count // 512))]
        if not sample or sample != sorted(sample) or sample[-1] - image.start >= 1 << 31:
            return False
        names = set()
        while index < count and table.address(index) == image.start:
            names.add(table.name(index))
            index += 1
    except (FormatError, GuestMemoryError, IndexError):
        return False
    if not names & {"_text", "_stext"}:
        return False
    places.update(trial)
    return True


def _add_seqs(image: Image, places: Places, behind: int) -> None:
    """Adds the order of names, if it is there behind `behind`: then names come sorted."""
    count = places["num_syms"]
    for seqs in (behind, -(-behind // 8) * 8):
        end = seqs + 3 * count
        trial = Places(places, seqs=seqs, end=max(places["end"], end))
        try:
            if end > image.size:
                continue
            table, _ = read_kallsyms(image, trial)
            orders = range(0, count, max(1, count // 64))
            names = [table._name_by_order(order) for order in orders]
        except (FormatError, GuestMemoryError):
            continue
        if names == sorted(names) and len(set(names)) > 1:
            places.update(trial)
            return
