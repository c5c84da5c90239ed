"""Records that lie one after the other."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import runtime, search
from .bits import as_buffer
from .errors import MatchError

if TYPE_CHECKING:
    from .compiler import Compiled


def records(owner: Compiled, buffer: Any, count: int | None, offset: int) -> Iterator[Any]:
    """See Record.iter()."""
    if owner.givens:
        owner.fail("a pattern with parameters is repeated inside another pattern, not by iter()")
    buffer = as_buffer(buffer)
    bits = owner.static_bits()
    if offset < 0 or (count is not None and count < 0):
        raise MatchError(
            owner.name, "", max(offset, 0), "an offset and a count from 0 on", f"{offset}, {count}"
        )
    if bits is None or bits & 7 or not bits:
        return _walk(owner, buffer, count, offset)
    size = bits >> 3
    there = max(len(buffer) - offset, 0) // size
    if count is None:
        count = there
    elif count > there:
        raise MatchError(owner.name, f"[{there}]", offset + there * size, f"{count} records", f"{there}")
    found: Iterator[Any] = owner.function("each")(buffer, offset, count)
    return _watched(owner, found, buffer, offset) if owner.can_fail() else found


def _watched(owner: Compiled, found: Iterator[Any], buffer: Any, offset: int) -> Iterator[Any]:
    """The records of a generator, and the reason if it ends early."""
    done = 0
    try:
        for record in found:
            yield record
            done += 1
    except runtime.FAILURES as error:
        if isinstance(error, MatchError):
            raise
        place = offset + done * owner.record_size()
        raise search.explain(owner, buffer, place) from None


def _walk(owner: Compiled, buffer: Any, count: int | None, offset: int) -> Iterator[Any]:
    """Records of a size that is only known when they have been read."""
    place, end = offset * 8, len(buffer) * 8
    number = 0
    aligned = owner.ends_aligned()
    read = owner.function("aligned" if aligned else "unaligned")
    while number != count if count is not None else place < end:
        try:
            if aligned:
                record, after = read(buffer, place >> 3, end >> 3, [runtime.BUDGET], 0)
                after <<= 3
            else:
                record, after = read(buffer, place, end, [runtime.BUDGET], 0)
        except runtime.FAILURES:
            raise search.explain_bits(owner, buffer, place, end, ()).reason from None
        if after <= place:
            raise MatchError(
                owner.name, f"[{number}]", place >> 3, "a record that takes some space", "an empty one"
            )
        yield record
        place = after
        number += 1


def tuples(owner: Compiled, buffer: Any, count: int | None, offset: int) -> Iterator[tuple[Any, ...]]:
    """See Record.tuples()."""
    names = owner.names()
    plain = owner.plain_rows()
    if plain is None:
        if len(names) == 1:
            return ((getattr(record, names[0]),) for record in records(owner, buffer, count, offset))
        return map(operator.attrgetter(*names), records(owner, buffer, count, offset))
    size = owner.record_size()
    view = memoryview(as_buffer(buffer))
    there = max(len(view) - offset, 0) // size
    if offset < 0 or (count is not None and not 0 <= count <= there):
        raise MatchError(owner.name, f"[{there}]", max(offset, 0), f"{count} records", f"{there}")
    wanted = there if count is None else count
    return plain.iter_unpack(view[offset : offset + wanted * size])
