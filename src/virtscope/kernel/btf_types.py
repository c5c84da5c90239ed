"""BTF types as drgn types, made one by one as drgn asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from drgn import (
    Object,
    Program,
    Qualifiers,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeKindSet,
    TypeMember,
    TypeParameter,
)

from virtscope.errors import FormatError, KernelError
from virtscope.kernel import btf as b
from virtscope.kernel.btf import Btf

_MAX_DEPTH = 64

_C_NAMES = {
    "long unsigned int": "unsigned long",
    "long int": "long",
    "long long unsigned int": "unsigned long long",
    "long long int": "long long",
    "short unsigned int": "unsigned short",
    "short int": "short",
}
"""BTF calls the basic types as compilers do, drgn as the C standard does."""

_BTF_NAMES = {c: btf for btf, c in _C_NAMES.items()}

_QUALIFIERS = {
    b.CONST: Qualifiers.CONST,
    b.VOLATILE: Qualifiers.VOLATILE,
    b.RESTRICT: Qualifiers.RESTRICT,
}

_KINDS = {
    TypeKind.STRUCT: b.STRUCT,
    TypeKind.UNION: b.UNION,
    TypeKind.ENUM: b.ENUM,
    TypeKind.TYPEDEF: b.TYPEDEF,
}


class TypeMaker:
    """Makes drgn types of BTF types, each once.

    Args:
        prog: the Program they belong to.
        types: the kernel's BTF.
        module_types: gives the BTF of each module; asked once, when a name is not in the kernel's.
    """

    def __init__(self, prog: Program, types: Btf, module_types: Callable[[], Iterable[Btf]]) -> None:
        self._prog = prog
        self._types = types
        self._module_types = module_types
        self._modules: list[Btf] | None = None
        self._made: dict[tuple[int, int], Type] = {}
        self._depth = 0

    def find(self, _: Program, kinds: TypeKindSet, name: str, filename: str | None) -> Type | None:
        """drgn's type finder."""
        if filename:
            return None
        for kind in kinds:
            for types in self._all_types():
                number = self._find(types, kind, name)
                if number is not None:
                    return self.make(types, number)
        return None

    def named(self, name: str, kind: int) -> Type | None:
        """The type of the variable (`btf.VAR`) or function (`btf.FUNC`) called `name`; None without one."""
        for types in self._all_types():
            for number in types.named(name):
                found = types.type(number)
                if found.kind == kind and found.name == name:
                    return self.make(types, found.value)
        return None

    def enum_of(self, name: str) -> tuple[Type, int] | None:
        """The (enum type, value) of the enumerator called `name`; None when there is none."""
        for types in self._all_types():
            for number in types.named(name):
                if types.type(number).kind in (b.ENUM, b.ENUM64):
                    value = dict(types.enumerators(number)).get(name)
                    if value is not None:
                        return self.make(types, number), value
        return None

    def make(self, types: Btf, number: int) -> Type:
        """Type `number` of `types` as a drgn type.

        Raises:
            FormatError: types refer to each other without end, or to none.
        """
        types = types.owner(number)
        key = (id(types), number)
        made = self._made.get(key)
        if made is None:
            if self._depth > _MAX_DEPTH:
                raise FormatError("BTF", "types refer to each other without end", field="type")
            self._depth += 1
            try:
                made = self._made[key] = self._make(types, number)
            finally:
                self._depth -= 1
        return made

    def _all_types(self) -> Iterable[Btf]:
        return chain((self._types,), self._of_modules())

    def _of_modules(self) -> Iterable[Btf]:
        if self._modules is None:
            try:
                self._modules = list(self._module_types())
            except KernelError:  # no modules, or their list was torn: ask again next time
                return
        yield from self._modules

    def _find(self, types: Btf, kind: TypeKind, name: str) -> int | None:
        wanted = _KINDS.get(kind)
        if wanted is not None:
            number = types.find(b.STRUCT if wanted == b.UNION else wanted, name)
            if number is None:
                return None
            found = types.type(number).kind
            return number if found == wanted or (wanted, found) == (b.ENUM, b.ENUM64) else None
        if kind in (TypeKind.INT, TypeKind.BOOL, TypeKind.FLOAT):
            for number in types.named(_BTF_NAMES.get(name, name)):
                found_type = types.type(number)
                if found_type.kind == (b.FLOAT if kind == TypeKind.FLOAT else b.INT):
                    made = self.make(types, number)
                    if made.kind == kind:
                        return number
        return None

    def _make(self, types: Btf, number: int) -> Type:
        prog = self._prog
        if not number:
            return prog.void_type()
        found = types.type(number)
        name, kind, size = found.name or None, found.kind, found.value
        if kind == b.INT:
            encoding, _, _ = types.int_encoding(number)
            text = _C_NAMES.get(found.name, found.name)
            if encoding & b.INT_BOOL:
                return prog.bool_type(text, size)
            return prog.int_type(text, size, bool(encoding & b.INT_SIGNED))
        if kind == b.FLOAT:
            return prog.float_type(found.name, size)
        if kind == b.PTR:
            return prog.pointer_type(self.make(types, found.value))
        if kind == b.ARRAY:
            element, length = types.array(number)
            return prog.array_type(self.make(types, element), length)
        if kind in (b.STRUCT, b.UNION):
            make = prog.struct_type if kind == b.STRUCT else prog.union_type
            return make(name, size, self._members(types, number))
        if kind in (b.ENUM, b.ENUM64):
            pairs = types.enumerators(number)
            signed = found.flag or any(value < 0 for _, value in pairs)
            text = {1: "char", 2: "short", 4: "int", 8: "long"}.get(size, "int")
            storage = prog.int_type(text if signed else f"unsigned {text}", size, signed)
            return prog.enum_type(name, storage, [TypeEnumerator(*pair) for pair in pairs])
        if kind == b.FWD:
            full = self._types.find(b.STRUCT, found.name)
            if full is not None:
                return self.make(self._types, full)
            return prog.union_type(name) if found.flag else prog.struct_type(name)
        if kind == b.TYPEDEF:
            return prog.typedef_type(found.name, self.make(types, found.value))
        if kind in _QUALIFIERS:
            inner = self.make(types, found.value)
            return inner.qualified(inner.qualifiers | _QUALIFIERS[kind])
        if kind in (b.TYPE_TAG, b.FUNC, b.VAR):
            return self.make(types, found.value)
        if kind == b.FUNC_PROTO:
            return self._function(types, number)
        return prog.void_type()

    def _members(self, types: Btf, number: int) -> list[TypeMember]:
        fields = types.fields(number)
        is_struct = types.type(number).kind == b.STRUCT
        return [
            TypeMember(
                self._member(types, field, is_struct and place == len(fields) - 1 and place > 0),
                field.name or None,
                field.bit_offset,
            )
            for place, field in enumerate(fields)
        ]

    def _member(self, types: Btf, field: b.Field, is_last: bool) -> Callable[[], Type | Object]:
        """What makes a member's type when drgn asks for it."""

        def make() -> Type | Object:
            if field.bit_size:
                return Object(self._prog, self.make(types, field.type), bit_field_size=field.bit_size)
            if is_last and field.type and types.type(field.type).kind == b.ARRAY:
                element, length = types.array(field.type)
                if not length:  # a flexible array
                    return self._prog.array_type(self.make(types, element))
            return self.make(types, field.type)

        return make

    def _function(self, types: Btf, number: int) -> Type:
        found = types.type(number)
        words = types.owner(number).words
        places = range(found.word, found.word + 2 * found.length, 2)
        pairs = [(words[place], words[place + 1]) for place in places]
        variadic = bool(pairs) and not pairs[-1][1]
        parameters = [
            TypeParameter(
                lambda kind=kind: self.make(types, kind),
                types.owner(number).string(name) if name else None,
            )
            for name, kind in (pairs[:-1] if variadic else pairs)
        ]
        return self._prog.function_type(self.make(types, found.value), parameters, variadic)
