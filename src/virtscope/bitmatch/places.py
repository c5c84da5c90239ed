"""Where the fields of a pattern are: the part of code generation that follows the place of the next one.

A position is a base variable plus a known number of bits. While the base is a byte offset (`static`), places
are known to the bit and reading is fast: fields wait in a `runs.Run` until something needs their values, and
are then read by one struct call. After a piece of data whose length in bits is computed, the base is a bit
offset (`p`), and reading goes through the functions of `runtime`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from . import runtime
from .errors import PatternError
from .expression import Scope, Value, constant, emit
from .nodes import BIG, MSB, Expr
from .runs import Run
from .source import Source

if TYPE_CHECKING:
    from .compiler import Compiled

MAX_FIXED = 1 << 26
"""The largest number of elements or bytes that the text of a pattern may fix."""


class State(NamedTuple):
    """Where the next field is: `k` bits after `base`, a byte offset if `static`, else a bit offset.

    `covered` is how many bits from the base are known to exist.
    """

    static: bool
    base: str
    k: int
    covered: int


class Places(Source):
    """Writes code that moves through data.

    Args:
        owner: the pattern.
        kind: which of its functions is written; see emit.
    """

    def __init__(self, owner: Compiled, kind: str) -> None:
        super().__init__()
        self.owner = owner
        self.writing = owner  # whose text is being written: that of a pattern read in place, too
        self.kind = kind
        self.watched = kind == "watched"
        self.in_bits = kind in ("unaligned", "watched")
        self.limited = kind in ("aligned", "unaligned", "watched")
        self.run = Run()
        self.post: list[str] = []
        self.start = "start" if self.in_bits else "offset"
        self.state = State(not self.in_bits, self.start, 0, 0 if self.limited else -1)
        self.end = ("end", self.in_bits)  # code, and whether it counts bits
        self.order: str = BIG
        self.bit_order = MSB
        self.order_said = False
        self.bit_order_said = False
        self.stream = MSB  # the bit order of what was read last
        self.high: int | None = None  # furthest place reached before moving back, in bits from the start
        self.high_is_loose = False  # whether it may be where no byte begins
        self.track = False
        self.moves_back = False
        self.total: int | None = None
        self.closing: list[str] = []
        self.uses_end = self.uses_context = False
        self.calls = False
        self.uses_plain = False
        self.inlining: list[object] = []
        self.stride: int | None = None  # of `each`, in bytes, when one struct reads the whole pattern
        self.single: tuple[str, str] | None = None
        self.structs = 0
        self.size_bits: int | None = None  # of the whole pattern, known at its end
        self.ends_aligned = True
        self.fails = [self.fail_code()]
        self.scope = self.new_scope(owner, {name: Value(f"v_{name}") for name in owner.givens})

    def after(self, code: str) -> None:
        """A statement for when the fields met so far have been read."""
        if self.run.items:
            self.post.append(code)
        else:
            self.line(code)

    def problem(self, problem: str, place: int | None) -> NoReturn:
        """Complain about the text at `place`."""
        raise PatternError(self.scope.pattern, problem, self.scope.text, place)

    def fail_code(self) -> str:
        """What generated code does when the data does not match."""
        if self.kind == "match":
            return "return None"
        return f"raise {self.bind(runtime.Mismatch, 'Mismatch')}"

    def fail_if(self, condition: str, expected: str, got: str = "", *, pending: bool = False) -> None:
        """Fail when `condition` holds; `expected` and `got` are code for the words of the message."""
        write = self.after if pending else self.line
        write(f"if {condition}:")
        if self.watched:
            write(f"    c.fail({expected}, {got or 'c.place'})")
        else:
            write(f"    {self.fails[-1]}")

    # -- positions ------------------------------------------------------------------------------------------

    def bits_at(self) -> str:
        """Code for the current place in bits."""
        state = self.state
        if not state.static:
            return f"({state.base} + {state.k})" if state.k else state.base
        base = state.base if not state.k >> 3 else f"({state.base} + {state.k >> 3})"
        return f"({base} * 8 + {state.k & 7})" if state.k & 7 else f"({base} * 8)"

    def byte_at(self, more: int = 0) -> str:
        """Code for the current place in bytes, when static and aligned."""
        offset = (self.state.k >> 3) + more
        return f"{self.state.base} + {offset}" if offset else self.state.base

    def is_aligned(self) -> bool:
        """Whether the current place is known to be the first bit of a byte."""
        return self.state.static and not self.state.k & 7

    def end_bits(self) -> str:
        """Code for the end of the data, in bits."""
        self.uses_end = True
        code, bits = self.end
        return code if bits else f"({code} * 8)"

    def end_bytes(self) -> str:
        """Code for the end of the data, in bytes."""
        self.uses_end = True
        code, bits = self.end
        return f"({code} >> 3)" if bits else code

    def start_bits(self) -> str:
        """Code for the start of the pattern, in bits."""
        return self.start if self.in_bits else f"({self.start} * 8)"

    def note_high(self) -> None:
        """Remember how far the pattern has reached, before the place changes."""
        if self.track:
            self.line(f"high = max(high, {self.bits_at()})")
            self.high_is_loose = self.high_is_loose or not self.is_aligned()

    def cover(self) -> None:
        """Make sure that everything up to the current place exists."""
        self.flush()
        if self.state.k > self.state.covered:
            if self.watched:
                self.line(f"c.need({self.state.base}, {self.state.k}, {self.end_bits()})")
            elif self.state.static:
                more = (self.state.k + 7) >> 3
                self.fail_if(f"{self.state.base} + {more} > {self.end_bytes()}", "")
            else:
                self.fail_if(f"{self.state.base} + {self.state.k} > {self.end_bits()}", "")
            self.state = self.state._replace(covered=self.state.k)

    def rebase(self, code: str, *, bits: bool = False, k: int = 0) -> None:
        """Go to a computed place: `code` in bytes, or in bits."""
        self.note_high()
        if bits:
            self.line(f"p = {code}")
            self.state = State(False, "p", k, 0)
        else:
            if code != "o":
                self.line(f"o = {code}")
            self.state = State(True, "o", k, min(k, 0))

    def settle(self) -> None:
        """Bring the place into the base variable, as at the head and the foot of a loop."""
        self.cover()
        if self.state.static:
            k = self.state.k
            if k >> 3 or self.state.base != "o":
                self.rebase(f"{self.state.base} + {k >> 3}" if k >> 3 else self.state.base, k=k & 7)
            self.state = State(True, "o", k & 7, 0)
        elif self.state.k or self.state.base != "p":
            self.rebase(self.bits_at(), bits=True)

    def to_bits(self) -> None:
        """Go over to a bit offset."""
        if self.state.static:
            self.cover()
            self.rebase(self.bits_at(), bits=True)

    def advance(self, size: int) -> None:
        """Pass over `size` bits."""
        static, base, k, covered = self.state
        self.state = State(static, base, k + size, covered)

    def save(self) -> tuple[int, State]:
        """What `restore` needs to write a loop once more in another way."""
        self.cover()
        return len(self.lines), self.state

    def restore(self, saved: tuple[int, State]) -> None:
        """Forget what was written since `save`."""
        del self.lines[saved[0] :]
        self.state = saved[1]

    def flush(self) -> None:
        """Read the fields that wait."""
        if not self.run.items:
            return
        run, post, state = self.run, self.post, self.state
        self.run, self.post = Run(), []
        if self.limited:
            need = max(state.k, *(item.place + item.size for item in run.items))
            self.fail_if(f"{state.base} + {(need + 7) >> 3} > {self.end_bytes()}", "")
        cover = state.k >> 3 if self.stride is None else self.stride
        source = None if self.stride is None else self.take_row
        lines, end, structs = run.emit(state.base, self.fresh, self.bind, cover, source)
        self.structs += structs
        for code in lines:
            self.line(code)
        for code in post:
            self.line(code)
        self.state = state._replace(covered=max(state.covered, end * 8))

    def take_row(self, sign: str, letters: str) -> str:
        """Stand in for the struct call in a loop over rows that are already taken apart."""
        self.single = (sign, letters)
        return "t"

    # -- scopes ---------------------------------------------------------------------------------------------

    def new_scope(self, owner: Compiled, values: dict[str, Value]) -> Scope:
        """The names that the expressions of `owner` may use."""
        return Scope(
            owner.name,
            owner.text,
            values,
            owner.outside,
            self.bind,
            {
                "offset": self.offset_code,
                "bit_offset": self.bit_offset_code,
                "remaining": self.remaining_code,
            },
        )

    def offset_code(self) -> str:
        """Code for offset()."""
        if self.state.static and self.state.base == self.start and not self.state.k & 7:
            return str(self.state.k >> 3)
        return f"({self.bit_offset_code()} >> 3)"

    def bit_offset_code(self) -> str:
        """Code for bit_offset()."""
        if self.state.static and self.state.base == self.start:
            return str(self.state.k)
        return f"({self.bits_at()} - {self.start_bits()})"

    def remaining_code(self) -> str:
        """Code for remaining()."""
        return f"(({self.end_bits()} - {self.bits_at()}) >> 3)"

    def compute(self, expr: Expr) -> Value:
        """Code for `expr`, of which all fields have been read."""
        self.flush()
        return emit(expr, self.scope)

    def branches(self, *bodies: tuple[str, Callable[[], None]]) -> None:
        """Write alternatives of which one is taken, and bring their ends to the same kind of place."""
        self.flush()
        before = self.state
        ends: list[tuple[int, int, State]] = []
        for header, body in bodies:
            self.state = before
            with self.block(header):
                ends.append(self.arm(body))
        self.join(ends)

    def arm(self, body: Callable[[], None]) -> tuple[int, int, State]:
        """Write one alternative; what it returns goes to `join`."""
        order = self.order
        body()
        self.cover()
        self.order = order
        self.line("pass")
        return len(self.lines) - 1, self.indent, self.state

    def join(self, ends: list[tuple[int, int, State]]) -> None:
        """Bring the ends of alternatives to one kind of place."""
        states = [state for _, _, state in ends]
        first = states[0]
        if all(state[:3] == first[:3] for state in states):
            self.state = first._replace(covered=min(state.covered for state in states))
            return
        static = all(state.static for state in states) and len({state.k & 7 for state in states}) == 1
        for index, indent, state in ends:
            self.state = state
            code = f"o = {state.base} + {state.k >> 3}" if static else f"p = {self.bits_at()}"
            pad = "    " * indent
            self.lines[index] = pad + code
            if self.track:
                self.lines[index] = f"{pad}high = max(high, {self.bits_at()})\n{pad}{code}"
        k = first.k & 7 if static else 0
        self.state = State(static, "o" if static else "p", k, 0)

    # -- moving ---------------------------------------------------------------------------------------------

    def move(self, verb: str, expr: Expr) -> None:
        """Go to, over or on to a place."""
        known = constant(expr)
        if verb == "size":
            self.set_size(expr, known)
            return
        if isinstance(known, int):
            if known < 0 or known > MAX_FIXED * 8:
                self.problem("a place or a size that cannot be", expr.place)
            if verb == "align" and known == 0:
                self.problem("nothing can be aligned to 0 bytes", expr.place)
            if self.move_known(verb, known):
                return
        value = self.compute(expr).code
        if verb == "skip":
            self.skip(value)
            return
        if verb == "align":
            size = self.fresh("n")
            self.line(f"{size} = {value} * 8")
            self.fail_if(f"{size} <= 0", "'an alignment'", size)
            self.go(f"{self.start_bits()} + -(-({self.bits_at()} - {self.start_bits()}) // {size}) * {size}")
            if not self.in_bits:
                self.rebase("p >> 3")
            return
        place = self.fresh("n")
        self.line(f"{place} = {value}")
        self.fail_if(f"{place} < 0", "'a place after the start'", place)
        self.moves_back = True
        if verb == "at":
            self.go_bytes(place)
        else:
            self.go(f"{self.start_bits()} + {place}")

    def move_known(self, verb: str, size: int) -> bool:
        """Move by or to a known place, if the base is known as well."""
        state = self.state
        if verb == "skip":
            self.advance(size * 8)
            return True
        if state.base != self.start:
            return False
        if verb == "align":
            target = -(-state.k // (size * 8)) * size * 8
        else:
            target = size * 8 if verb == "at" else size
            if target < state.k:
                self.moves_back = True
                self.high = max(self.high or 0, state.k)
                self.note_high()
        self.state = state._replace(k=target)
        return True

    def go_bytes(self, place: str) -> None:
        """Go to a computed place, in bytes from the start of the pattern."""
        if self.in_bits:
            self.go(f"{self.start_bits()} + {place} * 8")
            return
        self.cover()
        self.rebase(f"{self.start} + {place}")
        self.fail_if(f"o > {self.end_bytes()}", "")

    def go(self, place: str) -> None:
        """Go to a computed place in bits."""
        self.cover()
        self.rebase(place, bits=True)
        if self.watched:
            self.line(f"c.need(p, 0, {self.end_bits()})")
        else:
            self.fail_if(f"p > {self.end_bits()}", "")

    def skip(self, size: str) -> None:
        """Pass over a computed number of bytes."""
        name = self.fresh("n")
        self.line(f"{name} = {size}")
        if self.watched:
            self.line(f"c.need({self.bits_at()}, {name} * 8, {self.end_bits()})")
        if self.is_aligned():
            self.fail_if(f"{name} < 0 or {self.byte_at()} + {name} > {self.end_bytes()}", "'a size'", name)
            self.cover()
            self.rebase(f"{self.byte_at()} + {name}")
        else:
            self.fail_if(f"{name} < 0 or {self.bits_at()} + {name} * 8 > {self.end_bits()}", "'a size'", name)
            self.cover()
            self.rebase(f"{self.bits_at()} + {name} * 8", bits=True)

    def set_size(self, expr: Expr, known: object) -> None:
        """`size N`: the pattern takes N bytes, whatever its fields take."""
        if self.inlining:
            self.problem("size has no place in a part of a pattern", expr.place)
        if self.total is not None or self.closing:
            self.problem("size is said twice", expr.place)
        if (
            isinstance(known, int)
            and self.kind != "watched"
            and not self.in_bits
            and self.state.base == self.start
        ):
            self.total = known * 8
            self.end = ("size_end", False)
            return
        value = self.compute(expr).code
        name, limit = self.fresh("n"), self.fresh("end")
        self.line(f"{name} = {value}")
        unit = " * 8" if self.in_bits else ""
        self.line(f"{limit} = {self.start} + {name}{unit}")
        end = self.end_bits() if self.in_bits else self.end_bytes()
        if self.watched:
            self.line(f"c.need({self.start}, {name} * 8, {end})")
        else:
            self.fail_if(f"{name} < 0 or {limit} > {end}", "")
        self.end = (limit, self.in_bits)
        self.limited = True
        self.closing.append(limit)

    def turn(self, place: int) -> None:
        """Make sure that the bit order changes only where a byte begins."""
        self.turn_to(self.bit_order, place)

    def turn_to(self, order: str, place: int) -> None:
        """Make sure that the bit order becomes `order` only where a byte begins."""
        if self.stream == order:
            return
        if not self.state.static:
            self.fail_if(
                f"{self.bits_at()} & 7", "'a change of the bit order where a byte begins'", "c.nothing"
            )
        elif self.state.k & 7:
            self.problem("the bit order changes where no byte begins", place)
        self.stream = order
