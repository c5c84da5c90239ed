"""bitmatch: a bit-pattern language for Python. The guide, with the grammar, is docs/bitmatch.md.

A pattern says in a few readable lines what a structure on disk, in memory or on the wire looks like. It is
compiled to straight-line Python and then parses bytes into objects, builds bytes from them, and works in a
`match` statement.

    Superblock = pattern("ext3_super_block", '''little
        at 12; s_free_blocks_count : 32
        at 56; s_magic : 16 = 0xEF53
        ''')
    superblock = Superblock.parse(image, 1024)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .bits import Bits, bits
from .errors import BitmatchError, BuildError, DeclarationError, MatchError, PatternError
from .record import FieldType, Record, asdict, field_type, fields, function, pattern, replace

if TYPE_CHECKING:
    from .btf import import_btf
    from .c_header import import_c
    from .declarations import Imported
    from .described import FieldAt, describe

_LATER = {
    "FieldAt": "described",
    "Imported": "declarations",
    "describe": "described",
    "import_btf": "btf",
    "import_c": "c_header",
}
"""What is imported when it is asked for: most programs only parse."""


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{module}", __name__), name)


__all__ = [
    "BitmatchError",
    "Bits",
    "BuildError",
    "DeclarationError",
    "FieldAt",
    "FieldType",
    "Imported",
    "MatchError",
    "PatternError",
    "Record",
    "asdict",
    "bits",
    "describe",
    "field_type",
    "fields",
    "function",
    "import_btf",
    "import_c",
    "pattern",
    "replace",
]
