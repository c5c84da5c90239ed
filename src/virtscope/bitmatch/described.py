"""What a pattern sees in data, field by field and with places: for showing it to people and for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import runtime
from .bits import as_buffer
from .record import Record, compiled


@dataclass(frozen=True, slots=True)
class FieldAt:
    """A field that was found.

    Attributes:
        path: its name and those of the fields around it ("entries[3].type").
        name: its name alone.
        depth: how many fields are around it.
        offset_bits: where it begins, from the start of the buffer.
        size_bits: how many bits it takes.
        value: what it is; a record or a tuple for a field that has fields of its own.
    """

    path: str
    name: str
    depth: int
    offset_bits: int
    size_bits: int
    value: Any


def describe(pattern: type[Record], buffer: Any, offset: int = 0, **given: Any) -> list[FieldAt]:
    """All fields of the record at `offset` in `buffer`, those of nested records behind the field that holds
    them.

    Args:
        pattern: what to look for.
        buffer: whatever has the buffer protocol.
        offset: in bytes.
        given: the parameters of the pattern.

    Raises:
        MatchError: the data does not match, or has more than 100000 fields.
    """
    owner = compiled(pattern)
    buffer = as_buffer(buffer)
    pattern.parse(buffer, offset, **given)
    watch = runtime.Watch(owner.name, keep=True)
    try:
        owner.function("watched")(buffer, offset * 8, len(buffer) * 8, watch, 0, *owner.given_values(given))
    except runtime.FAILURES as error:
        raise watch.error(error) from None
    return [
        FieldAt(step.path, step.name, step.depth, step.offset, step.size or 0, step.value)
        for step in watch.steps
    ]
