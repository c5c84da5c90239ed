"""Matching in the ways that need not be fast: bits, files, and the explanation of a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import runtime
from .bits import MAX_WINDOW, WINDOW, Bits, as_buffer, bits
from .emit import expressions
from .errors import MatchError
from .expression import names
from .nodes import ArrayType, ChoiceType, CondType, DataType, Field, GroupType, RefType, Splice, WithinType

if TYPE_CHECKING:
    from .compiler import Compiled


def again(
    owner: Compiled, kind: str, error: BaseException, buffer: object, offset: int, *given: object
) -> object:
    """What parse and match do when the fast way failed: None, a MatchError, or another kind of buffer."""
    if isinstance(error, TypeError):
        try:
            buffer = as_buffer(buffer)
        except TypeError:
            source = bits(buffer, offset)
            return match_bits(owner, source, *given) if kind == "match" else parse_bits(owner, source, *given)
    if kind == "match":
        return None
    raise explain(owner, buffer, offset, *given) from None


def explain(owner: Compiled, buffer: Any, offset: int, *given: object) -> MatchError:
    """The reason why `buffer` does not match at `offset`."""
    if offset < 0:
        return MatchError(owner.name, "", 0, "an offset in the data", str(offset))
    buffer = as_buffer(buffer)
    return explain_bits(owner, buffer, offset * 8, len(buffer) * 8, given).reason


def explain_bits(
    owner: Compiled, buffer: Any, start: int, end: int, given: tuple[object, ...]
) -> runtime.Watch:
    """Match the bits of `buffer` from `start` to `end` once more, noting the reason of the failure."""
    watch = runtime.Watch(owner.name)
    try:
        owner.function("watched")(buffer, start, end, watch, 0, *given)
        changed = "data that changed while it was read"
        watch.reason = MatchError(owner.name, "", start >> 3, "data that stays the same", changed)
    except runtime.FAILURES as error:
        watch.reason = watch.error(error)
    return watch


def parse_bits(owner: Compiled, source: Bits, *given: object) -> object:
    """The record at the start of `source`.

    Raises:
        MatchError: if it does not match.
    """
    found, reason = _search(owner, source, given, explain=True)
    if reason is not None:
        raise reason
    return found


def match_bits(owner: Compiled, source: Bits, *given: object) -> object:
    """The record at the start of `source`, or None."""
    return _search(owner, source, given, explain=False)[0]


def _search(
    owner: Compiled, source: Bits, given: tuple[object, ...], *, explain: bool
) -> tuple[object, MatchError | None]:
    """Match a Bits; of a file, read no more than is needed."""
    window = source._file
    start, end = source._start, source._end
    if window is None:
        found = _match_span(owner, source._buffer, start, end, given)
        if found is not None or not explain:
            return found, None
        return None, explain_bits(owner, source._buffer, start, end, given).reason
    first = start >> 3
    known = owner.static_bits()
    total = ((end + 7) >> 3) - first
    size = total if reads_to_end(owner) else WINDOW if known is None else (known + (start & 7) + 7) >> 3
    while True:
        size = min(size, total)
        if size > MAX_WINDOW:
            reason = MatchError(
                owner.name, "", first, f"at most {MAX_WINDOW} bytes to match in a file", f"{size} bytes"
            )
            return None, reason
        data = window.read_at(first, size)
        stop = min(end - first * 8, len(data) * 8)
        found = _match_span(owner, data, start & 7, stop, given)
        if found is not None:
            return found, None
        watch = explain_bits(owner, data, start & 7, stop, given)
        if not watch.short or size >= total or len(data) < size:
            reason = watch.reason
            return None, MatchError(
                owner.name,
                reason.field,
                reason.offset + first,
                reason.expected,
                reason.got,
                bit=reason.bit,
            )
        size *= 8


def reads_to_end(owner: Compiled) -> bool:
    """Whether what the pattern matches depends on where the data ends."""
    return any(_reads_to_end(owner, item, set()) for item in owner.statements)


def _match_span(owner: Compiled, buffer: Any, start: int, end: int, given: tuple[object, ...]) -> object:
    try:
        if start & 7 or end & 7 or not owner.ends_aligned():
            return owner.function("unaligned")(buffer, start, end, [runtime.BUDGET], 0, *given)[0]
        return owner.function("aligned")(buffer, start >> 3, end >> 3, [runtime.BUDGET], 0, *given)[0]
    except runtime.FAILURES:
        return None


def _reads_to_end(owner: Compiled, item: object, seen: set[int]) -> bool:
    """Whether a statement or a type depends on where the data ends."""
    if isinstance(item, Field):
        return _reads_to_end(owner, item.type, seen) or _asks_remaining(item)
    if isinstance(item, DataType):
        return item.size is None and item.form != "cstring"
    if isinstance(item, ArrayType):
        return item.mode == "fill" or _reads_to_end(owner, item.element, seen)
    if isinstance(item, GroupType):
        return any(_reads_to_end(owner, inner, seen) for inner in item.body)
    if isinstance(item, ChoiceType):
        return any(_reads_to_end(owner, inner, seen) for inner in item.options)
    if isinstance(item, CondType):
        return _reads_to_end(owner, item.yes, seen) or _reads_to_end(owner, item.no, seen)
    if isinstance(item, WithinType):
        return False
    if isinstance(item, RefType | Splice):
        other = owner.find_pattern(item.name)
        if other is None or id(other) in seen:
            return False
        seen.add(id(other))
        return any(_reads_to_end(other, inner, seen) for inner in other.statements)
    return _asks_remaining(item)


def _asks_remaining(item: object) -> bool:
    return any("remaining" in names(expr) for expr in expressions((item,)))  # type: ignore[arg-type]
