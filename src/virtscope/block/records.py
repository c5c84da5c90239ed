"""Structures of a disk by their patterns: `parse_record` and `read_record`, which raise our errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.bitmatch import MatchError
from virtscope.errors import FormatError

if TYPE_CHECKING:
    from virtscope.bitmatch import Record
    from virtscope.block.source import BlockSource


def parse_record(pattern: type[Record], data: bytes, format: str, offset: int, within: int = 0) -> Record:
    """The record at `within` in `data`, which was read at `offset`.

    Raises:
        FormatError: the bytes are not such a record; says which field and what it should be.
    """
    try:
        return pattern.parse(data, within)
    except MatchError as error:
        raise FormatError(
            format,
            f"expected {error.expected}, found {error.got}",
            field=error.field,
            offset=offset + error.offset,
        ) from None


def read_record(source: BlockSource, pattern: type[Record], offset: int, format: str) -> Record:
    """The record of fixed size at `offset` of a source.

    Raises:
        FormatError: the bytes are not such a record, or not all there.
        GuestError: the host could not read its file.
    """
    return parse_record(pattern, source.read_at(offset, pattern.size_bytes), format, offset)
