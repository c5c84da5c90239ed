"""Patterns as Python meets them: a pattern is a class, and what it finds is an instance of that class.

`pattern(name, text)` makes one; so does deriving from `Record` with the text in `layout`. Nothing is
compiled, not even read, before a pattern is used for the first time: importing a module full of patterns
costs microseconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, cast

from .bits import Bits

if TYPE_CHECKING:
    from .compiler import Compiled, Function

F = TypeVar("F", bound=Callable[..., Any])


class PatternType(type):
    """The class of patterns."""

    __pattern__: Compiled | None
    __spec__: tuple[str, str, Mapping[str, object], bool]

    def __new__(
        mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> PatternType:
        """Make a pattern of a class with a `layout`."""
        namespace.setdefault("__slots__", ())
        layout = namespace.pop("layout", None)
        if layout is None:
            layout = next((base.__spec__[1] for base in bases if hasattr(base, "__spec__")), None)
        made = super().__new__(mcls, name, bases, namespace)
        if layout is not None and not options.get("hidden"):
            # For a class statement, the names are those of the module it stands in.
            lookup = options.get("lookup", sys._getframe(1).f_globals)
            made.__spec__ = (options.get("title", name), layout, lookup, options.get("offered", False))
            made.__pattern__ = None
            for method in ("parse", "match"):
                setattr(made, method, Record.__dict__[method])
        return made

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **_: Any) -> None:
        super().__init__(name, bases, namespace)

    def __call__(cls, *args: Any, **fields: Any) -> Any:
        """A record made by hand."""
        from .build import make

        return make(compiled(cls), args, fields)

    def __instancecheck__(cls, instance: object) -> bool:
        if type(instance) is Bits and hasattr(cls, "__spec__"):
            from .search import match_bits

            found = match_bits(compiled(cls), instance)
            instance._match = found
            return found is not None
        return type.__instancecheck__(cls, instance)

    @property
    def __match_args__(cls) -> tuple[str, ...]:
        return compiled(cls).names()

    @property
    def size_bytes(cls) -> int:
        """The size of a pattern of fixed size, in bytes.

        Raises:
            PatternError: if its size depends on the data, or is no whole number of bytes.
        """
        size = compiled(cls).static_bits()
        if size is None or size & 7:
            compiled(cls).fail("the size of this pattern is no fixed number of bytes")
        return size >> 3

    def __repr__(cls) -> str:
        return f"<pattern {cls.__name__}>"


class _HiddenType(PatternType):
    """The class of the slotted classes that records really are: made by generated code as fast as can be."""

    __call__ = type.__call__

    def __repr__(cls) -> str:
        return type.__repr__(cls)


class Record(metaclass=PatternType):
    """What a pattern found: an object with an attribute for each field.

    A class derived from Record is a pattern; its text is in `layout`. Fields may be annotated, which tells
    type checkers what they are; properties and methods may be added.

        class Extent(Record):
            layout = \"\"\"little
                ee_block    : 32
                ee_len      : 16
                ee_start_hi : 16
                ee_start_lo : 32
                \"\"\"

            @property
            def start(self) -> int:
                return self.ee_start_hi << 32 | self.ee_start_lo

    Records are equal when all their fields are. `bytes(record)` builds the bytes they came from.
    """

    __slots__ = ()
    layout: ClassVar[str]

    if TYPE_CHECKING:

        def __init__(self, *args: Any, **fields: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    @classmethod
    def parse(cls, buffer: Any, offset: int = 0, /, **given: Any) -> Self:
        """The record at `offset` in `buffer`.

        Args:
            buffer: bytes, a memoryview, an mmap: anything with the buffer protocol; or Bits, or an open file.
            offset: in bytes.
            given: the parameters of the pattern, if it has any.

        Raises:
            MatchError: if the bytes there do not match; says which field, where, what was expected and found.
            PatternError: if the text of the pattern is wrong.
        """
        return install(cls, "parse")(buffer, offset, **given)  # type: ignore[no-any-return]

    @classmethod
    def match(cls, buffer: Any, offset: int = 0, /, **given: Any) -> Self | None:
        """The record at `offset` in `buffer`, or None if the bytes there do not match."""
        return install(cls, "match")(buffer, offset, **given)  # type: ignore[no-any-return]

    @classmethod
    def iter(cls, buffer: Any, count: int | None = None, offset: int = 0) -> Iterator[Self]:
        """The records that lie one after the other in `buffer` from `offset` on.

        Args:
            buffer: whatever has the buffer protocol.
            count: how many; without it, as many as there are (a rest too small for another one is left).
            offset: in bytes.

        Raises:
            MatchError: if one of them does not match (when it is its turn), or fewer are there than asked
                for.
        """
        from . import iterate

        return iterate.records(compiled(cls), buffer, count, offset)

    @classmethod
    def tuples(cls, buffer: Any, count: int | None = None, offset: int = 0) -> Iterator[tuple[Any, ...]]:
        """Like iter(), but plain tuples of the fields: nothing is faster."""
        from . import iterate

        return iterate.tuples(compiled(cls), buffer, count, offset)

    @classmethod
    def build(cls, record: Record | Mapping[str, Any] | None = None, /, **fields: Any) -> bytes:
        """The bytes of a record with these fields; constants need not be given.

        Args:
            record: fields to begin with, from a record or a dictionary.
            fields: the fields, or those that differ.

        Raises:
            BuildError: if a value is missing or unknown, of the wrong type, or does not fit its field.
        """
        from .build import build

        return build(compiled(cls), record, fields)

    @classmethod
    def blank(cls, **fields: Any) -> Self:
        """A record in which every field that is not given is zero or empty, or its constant."""
        from .build import blank

        return blank(compiled(cls), fields)  # type: ignore[no-any-return]

    @classmethod
    def compile(cls) -> None:
        """Read and compile the text now and not at the first use.

        Raises:
            PatternError: if it is wrong.
        """
        if compiled(cls).ends_aligned():
            compiled(cls).function("aligned")

    @classmethod
    def source(cls) -> str:
        """The Python source that parse() runs."""
        pattern = compiled(cls)
        kind = "parse" if pattern.ends_aligned() else "unaligned"
        pattern.function(kind)
        return pattern.sources[kind]

    def __eq__(self, other: object) -> bool:
        pattern = type(self).__pattern__
        if not isinstance(other, Record) or pattern is None or type(other).__pattern__ is not pattern:
            return NotImplemented
        return all(getattr(self, name, None) == getattr(other, name, None) for name in pattern.names())

    def __repr__(self) -> str:
        pattern = type(self).__pattern__
        names = pattern.names() if pattern is not None else ()
        inside = ", ".join(f"{name}={getattr(self, name, None)!r}" for name in names)
        return f"{type(self).__name__}({inside})"

    def __bytes__(self) -> bytes:
        from .build import build

        pattern = type(self).__pattern__
        assert pattern is not None
        return build(pattern, self, {})

    def __reduce__(self) -> tuple[object, ...]:
        pattern = type(self).__pattern__
        assert pattern is not None
        return _restore, (pattern.public, tuple(getattr(self, name, None) for name in pattern.names()))


def pattern(name: str, text: str, *, names: Mapping[str, object] | None = None) -> type[Record]:
    """A pattern, as a class.

    Args:
        name: what to call it in messages, for example the name of the structure in C.
        text: what it looks like; docs/bitmatch.md has the grammar. It is read when the pattern is first used.
        names: what the text may mention: patterns, constants and functions by name. Without it, the patterns
            and constants of the calling module, and its functions marked with `@function` and `@field_type`.
            For a text that a stranger wrote, hand over a dictionary, be it empty.
    """
    module = sys._getframe(1).f_globals
    namespace: dict[str, Any] = {"layout": text, "__module__": module.get("__name__", "__main__")}
    identifier = "".join(char if char.isalnum() else "_" for char in name)
    lookup, offered = (module, False) if names is None else (names, True)
    made = PatternType(identifier, (Record,), namespace, title=name, lookup=lookup, offered=offered)
    return cast("type[Record]", made)


def compiled(cls: type) -> Compiled:
    """The Compiled of a pattern."""
    assert isinstance(cls, PatternType)
    found = cls.__pattern__
    if found is None:
        from .compiler import Compiled

        title, text, lookup, offered = cls.__spec__
        found = cls.__pattern__ = Compiled(title, text, cls, lookup, offered=offered)  # type: ignore[arg-type]
    return found


def compiled_of(value: object) -> Compiled | None:
    """The Compiled of `value` if it is a pattern."""
    if isinstance(value, PatternType) and hasattr(value, "__pattern__"):
        return compiled(value)
    return None


def install(cls: type[Record], kind: str) -> Function:
    """Compile parse or match and put it in the place of the method that compiles it."""
    function = compiled(cls).function(kind)
    setattr(cls, kind, staticmethod(function))
    return function


def make_record(owner: Compiled) -> type[Record]:
    """The slotted class of the records of `owner`."""
    namespace = {
        "__slots__": owner.names(),
        "__module__": owner.public.__module__,
        "__qualname__": owner.public.__qualname__,
        "__init__": object.__init__,
        "__new__": object.__new__,
        "__pattern__": owner,
    }
    made = _HiddenType(owner.public.__name__, (owner.public,), namespace, hidden=True)
    for name in owner.names():
        if name.startswith("__"):
            # Python hides such slots behind the name of the class; headers of the kernel are full of them.
            hidden = f"_{made.__name__.lstrip('_')}{name}"
            setattr(made, name, made.__dict__.get(hidden) or made.__dict__[name])
    return cast("type[Record]", made)


def asdict(record: Record) -> dict[str, Any]:
    """The fields of a record and of the records in it, as dictionaries, in their order."""
    owner = type(record).__pattern__
    assert owner is not None
    return {name: _plain(getattr(record, name, None)) for name in owner.names()}


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return asdict(value)
    if type(value) is tuple:
        return [_plain(item) for item in value]
    return value


def fields(cls: type[Record] | Record) -> tuple[str, ...]:
    """The names of the fields of a pattern or of a record, in order."""
    return compiled(cls if isinstance(cls, type) else type(cls)).names()


def replace(record: Any, **changes: Any) -> Any:
    """A copy of a record with some fields changed."""
    owner = type(record).__pattern__
    unknown = set(changes) - set(owner.names())
    if unknown:
        raise TypeError(f"{owner.name} has no field {', '.join(sorted(unknown))}")
    copy = owner.record()
    for name in owner.names():
        setattr(copy, name, changes.get(name, getattr(record, name, None)))
    return copy


def function(made: F) -> F:
    """Mark a function as one that the patterns of its module may call in expressions."""
    made.__bitmatch_function__ = True  # type: ignore[attr-defined]
    return made


class FieldType:
    """A kind of field that Python functions read and write. Made by `field_type`."""

    def __init__(self, parse: Callable[..., tuple[Any, int]]) -> None:
        self.__bitmatch_field__ = parse
        self.build: Callable[..., bytes] | None = None
        self.__name__ = parse.__name__
        self.__doc__ = parse.__doc__

    def builder(self, build: Callable[..., bytes]) -> Callable[..., bytes]:
        """Decorates the function that writes: it takes the value (and the arguments) and returns bytes."""
        self.build = build
        return build


def field_type(parse: Callable[..., tuple[Any, int]]) -> FieldType:
    """Make a kind of field of a function.

    The function is called with the buffer, the offset of the field, the offset where the data ends, and the
    arguments that the pattern gives. It returns the value and the offset behind the field, or raises
    ValueError if the data is not such a field. It may return any value, but should not trust the data: the
    offset returned is checked.
    """
    return FieldType(parse)


def _restore(public: type[Record], values: tuple[object, ...]) -> Record:
    owner = compiled(public)
    record = owner.record()
    for name, value in zip(owner.names(), values, strict=True):
        setattr(record, name, value)
    return record
