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

from .bits import Bits, bits
from .errors import BitmatchError, BuildError, DeclarationError, MatchError, PatternError
from .record import FieldType, Record, asdict, field_type, fields, function, pattern, replace

__all__ = [
    "BitmatchError",
    "Bits",
    "BuildError",
    "DeclarationError",
    "FieldType",
    "MatchError",
    "PatternError",
    "Record",
    "asdict",
    "bits",
    "field_type",
    "fields",
    "function",
    "pattern",
    "replace",
]
