"""Where the tables of a kernel's kallsyms are, as found once and kept by the cache."""

from __future__ import annotations

_NAMES = {"names", "markers", "width", "tokens", "index", "offsets", "form", "num_syms", "start", "end"}


class Places(dict[str, int]):
    """Where in the image the tables are, by name; also `num_syms`, `form`, and `start` and `end` of all."""


def checked_places(data: object) -> Places:
    """`Places` that were kept as plain data, their types and names checked.

    Raises:
        ValueError: they are none.
    """
    if not isinstance(data, dict) or not _NAMES <= set(data) <= _NAMES | {"base", "seqs"}:
        raise ValueError("kallsyms")
    if not all(type(value) is int and 0 <= value < 1 << 32 for value in data.values()):
        raise ValueError("kallsyms")
    if data["width"] not in (4, 8) or data["form"] not in range(3) or ("base" in data) != (data["form"] != 2):
        raise ValueError("kallsyms")
    return Places(data)
