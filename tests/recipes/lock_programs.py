"""Small threaded C programs, made at random from a seed, that can be checked and run.

:func:`program` gives the text of one program: some helpers and many functions ``case_N(struct obj *o,
unsigned in)``, whose every branch is decided by a bit of ``in`` or by the next bit of a stream, so that
running all inputs runs all paths but those of long loops. The functions are right by construction, but for
``faults``: that many of a function's lock and unlock calls are left out, made twice, or made with another
lock. ``\\x01`` marks the places where :func:`traced` puts the line's number for the run; :func:`plain` is
the text the checker reads, with the same lines.
"""

from __future__ import annotations

import random

MARK = "\x01"
SIZE = 14
"""How many statements a function is made of, but for what their ends need."""
BITS = 7
"""Bits of ``in`` that a function may ask for, each at one place."""
STREAM = 8
"""Bits of the stream that loops ask."""

HEAD = """#include <pthread.h>
#include <stddef.h>
struct obj { pthread_mutex_t lock; int n; };
extern pthread_mutex_t m0, m1;
extern struct obj a, b, c;
int next(void);
void work(void);
struct obj *look(void);
static void take(struct obj *p) { pthread_mutex_lock(&p->lock); p->n++; }
static void put(struct obj *p) { p->n--; pthread_mutex_unlock(&p->lock); }
static int begin(struct obj *p, unsigned refuse) {
    pthread_mutex_lock(&p->lock);
    if (refuse) {
        pthread_mutex_unlock(&p->lock);
        return -1;
    }
    return 0;
}
static struct obj *fetch(unsigned found) {
    struct obj *p = look();
    if (!found)
        return NULL;
    pthread_mutex_lock(&p->lock);
    return p;
}
static void drop(pthread_mutex_t **m) { if (*m) pthread_mutex_unlock(*m); }
static void both(void) { pthread_mutex_lock(&m0); pthread_mutex_lock(&m1); }
static void neither(void) { pthread_mutex_unlock(&m1); pthread_mutex_unlock(&m0); }
"""

LOCKS = {
    "m0": ("pthread_mutex_lock(&m0)", "pthread_mutex_unlock(&m0)"),
    "m1": ("pthread_mutex_lock(&m1)", "pthread_mutex_unlock(&m1)"),
    "a": ("pthread_mutex_lock(&a.lock)", "pthread_mutex_unlock(&a.lock)"),
    "o": ("take(o)", "put(o)"),
    "b": ("take(&b)", "put(&b)"),
    "c": ("pthread_mutex_lock(&c.lock)", "put(&c)"),
}


class _Maker:
    """One function, statement by statement.

    What is held at a point is kept as a list of the statements that release it, an empty one for what the
    compiler releases by itself.
    """

    def __init__(self, name: str, rng: random.Random, faults: int) -> None:
        self.rng = rng
        self.name = name
        self.lines: list[str] = []
        self.bit = 0
        self.loops = 0
        self.names = 0
        self.sites = 0
        self.left = SIZE
        self.faults = set(rng.sample(range(1, 9), faults))
        self.chain: list[tuple[str, str]] = []

    def say(self, depth: int, text: str) -> None:
        self.lines.append("    " * (depth + 1) + MARK + text)

    def op(self, depth: int, text: str) -> None:
        """A statement that locks or unlocks; the place for a fault."""
        self.sites += 1
        if self.sites in self.faults:
            how = self.rng.randrange(3)
            if how == 1:
                self.say(depth, text + ";")
            elif how == 2:
                text = self.rng.choice([w for pair in LOCKS.values() for w in pair])
            if how:
                self.say(depth, text + ";")
            else:
                self.say(depth, "work();")
            return
        self.say(depth, text + ";")

    def test(self) -> str:
        """A condition that no other place asks."""
        if self.bit < BITS:
            self.bit += 1
            value = 1 << (self.bit - 1)
            return self.rng.choice([f"in & {value}u", f"(in & {value}u) != 0", f"(in >> {self.bit - 1}) & 1"])
        return "next()"

    def fresh(self, stem: str) -> str:
        self.names += 1
        return f"{stem}{self.names}"

    def release(self, depth: int, held: list[str], keep: int = 0) -> None:
        for text in reversed(held[keep:]):
            if text:
                self.op(depth, text) if not text.startswith("if") else self.say(depth, text + ";")

    def leave(self, depth: int, held: list[str]) -> None:
        """A return, or a jump to the function's end; both release what is held."""
        if self.chain and self.rng.random() < 0.6:
            self.release(depth, held, len(self.chain))
            self.say(depth, f"goto out{len(self.chain)};")
        else:
            self.release(depth, held)
            self.say(depth, f"return {self.rng.randrange(-2, 3)};")

    def body(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        """Some statements. ``free`` are the locks that nothing around holds."""
        for _ in range(self.rng.randrange(1, 4) if self.left > 0 else 1):
            self.statement(depth, free, held, loop)

    def statement(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        kinds = ["work"]
        self.left -= 1
        if depth < 4 and self.left > 0:
            kinds += ["if", "if", "exit", "switch", "loop"]
            if [x for x in free if x != "found"]:
                kinds += ["region", "region", "flag", "begin", "try", "guard", "fetch", "pair", "or"]
        if loop and depth < 5:
            kinds.append("break")
        getattr(self, "do_" + self.rng.choice(kinds))(depth, free, held, loop)

    def pick(self, free: list[str]) -> tuple[str, list[str]]:
        lock = self.rng.choice([x for x in free if x != "found"] or ["a"])
        return lock, [x for x in free if x != lock]

    def do_work(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        self.say(depth, "work();")

    def do_region(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        lock, rest = self.pick(free)
        take, give = LOCKS[lock]
        self.op(depth, take)
        self.body(depth, rest, [*held, give], loop)
        self.op(depth, give)

    def do_pair(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        if "m0" not in free or "m1" not in free:
            self.do_region(depth, free, held, loop)
            return
        self.op(depth, "both()")
        self.body(depth, [x for x in free if x not in ("m0", "m1")], [*held, "neither()"], loop)
        self.op(depth, "neither()")

    def do_if(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        self.say(depth, f"if ({self.test()}) {{")
        self.body(depth + 1, free, held, loop)
        if self.rng.random() < 0.6:
            self.lines.append("    " * (depth + 1) + "} else {")
            self.body(depth + 1, free, held, loop)
        self.lines.append("    " * (depth + 1) + "}")

    def do_or(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        word = self.rng.choice(["&&", "||"])
        first, second = self.test(), self.test()
        self.say(depth, f"if (({first}) {word} !({second})) {{")
        self.body(depth + 1, free, held, loop)
        self.lines.append("    " * (depth + 1) + "}")

    def do_exit(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        self.say(depth, f"if ({self.test()}) {{")
        self.leave(depth + 1, held)
        self.lines.append("    " * (depth + 1) + "}")

    def do_switch(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        if self.bit + 2 > BITS:
            self.do_if(depth, free, held, loop)
            return
        self.say(depth, f"switch ((in >> {self.bit}) & 3) {{")
        self.bit += 2
        for label in ("case 0:", "case 2:", "default:"):
            self.lines.append("    " * (depth + 1) + label)
            self.body(depth + 1, free, held, [])
            if self.rng.random() < 0.8 or label == "default:":
                self.say(depth + 1, "break;")
        self.lines.append("    " * (depth + 1) + "}")

    def do_loop(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        if self.loops == 2:
            self.do_work(depth, free, held, loop)
            return
        self.loops += 1
        if self.rng.random() < 0.3:
            self.say(depth, "do {")
            self.body(depth + 1, free, held, [len(held)])
            self.lines.append("    " * (depth + 1) + "} while (next());")
        else:
            test = self.rng.choice(["while (next()) {", "for (; next();) {"])
            self.say(depth, test)
            self.body(depth + 1, free, held, [len(held)])
            self.lines.append("    " * (depth + 1) + "}")

    def do_break(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        self.say(depth, f"if ({self.test()}) {{")
        self.release(depth + 1, held, loop[0])
        self.say(depth + 1, self.rng.choice(["break;", "continue;"]))
        self.lines.append("    " * (depth + 1) + "}")

    def do_flag(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        """A lock that is held only if a flag says so."""
        lock, rest = self.pick(free)
        take, give = LOCKS[lock]
        flag = self.fresh("f")
        self.say(depth, f"int {flag} = 0;")
        self.say(depth, f"if ({self.test()}) {{")
        self.op(depth + 1, take)
        self.say(depth + 1, f"{flag} = 1;")
        self.lines.append("    " * (depth + 1) + "}")
        self.body(depth + 1, rest, [*held, f"if ({flag}) {give}"], loop)
        self.say(depth, f"if ({flag}) {{")
        self.op(depth + 1, give)
        self.lines.append("    " * (depth + 1) + "}")

    def do_begin(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        """A helper that locks, or says that it did not."""
        if "b" not in free:
            self.do_region(depth, free, held, loop)
            return
        self.say(depth, f"if (begin(&b, {self.test()}) < 0) {{")
        self.body(depth + 1, free, held, loop)
        self.lines.append("    " * (depth + 1) + "} else {")
        self.body(depth + 1, [x for x in free if x != "b"], [*held, "put(&b)"], loop)
        self.op(depth + 1, "put(&b)")
        self.lines.append("    " * (depth + 1) + "}")

    def do_try(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        if "m1" not in free:
            self.do_region(depth, free, held, loop)
            return
        self.say(depth, "if (pthread_mutex_trylock(&m1) == 0) {")
        rest = [x for x in free if x != "m1"]
        self.body(depth + 1, rest, [*held, LOCKS["m1"][1]], loop)
        self.op(depth + 1, LOCKS["m1"][1])
        self.lines.append("    " * (depth + 1) + "}")

    def do_guard(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        """A scope that unlocks by itself."""
        if "m0" not in free:
            self.do_region(depth, free, held, loop)
            return
        guard = self.fresh("g")
        self.say(depth, "{")
        self.say(depth + 1, f"__attribute__((cleanup(drop))) pthread_mutex_t *{guard} = &m0;")
        self.op(depth + 1, f"pthread_mutex_lock({guard})")
        self.body(depth + 1, [x for x in free if x != "m0"], [*held, ""], loop)
        self.lines.append("    " * (depth + 1) + MARK + ";}")

    def do_fetch(self, depth: int, free: list[str], held: list[str], loop: list[int]) -> None:
        """A locked object, or NULL."""
        if "found" in free:
            self.do_region(depth, free, held, loop)
            return
        found = self.fresh("p")
        rest = [*free, "found"]
        self.say(depth, f"struct obj *{found} = fetch({self.test()});")
        if self.rng.random() < 0.5:
            self.say(depth, f"if (!{found}) {{")
            self.leave(depth + 1, held)
            self.lines.append("    " * (depth + 1) + "}")
            self.body(depth + 1, rest, [*held, f"put({found})"], loop)
            self.op(depth, f"put({found})")
        else:
            self.body(depth + 1, rest, [*held, f"if ({found}) put({found})"], loop)
            self.say(depth, f"if ({found} != NULL) {{")
            self.op(depth + 1, f"put({found})")
            self.lines.append("    " * (depth + 1) + "}")

    def function(self) -> list[str]:
        free = ["m0", "m1", "a", "o", "b", "c"]
        outer = self.rng.sample(["m0", "m1", "a", "o"], self.rng.randrange(0, 3))
        for lock in outer:
            self.op(0, LOCKS[lock][0])
            self.chain.append((lock, LOCKS[lock][1]))
            if self.rng.random() < 0.4:
                self.do_exit(0, [], [give for _, give in self.chain], [])
        rest = [x for x in free if x not in outer]
        held = [give for _, give in self.chain]
        for _ in range(self.rng.randrange(2, 4)):
            self.statement(0, rest, held, [])
        for i in range(len(self.chain), 0, -1):
            self.lines.append(f"out{i}:")
            self.op(0, self.chain[i - 1][1])
        self.say(0, "return 0;")
        head = f"int {self.name}(struct obj *o, unsigned in) {{"
        return [head, *self.lines, "}"]


def program(seed: int, cases: int, faults: int) -> str:
    """The text of a program with so many functions, and so many faults in each.

    Args:
        seed: the same seed makes the same program.
        cases: how many functions.
        faults: how many calls of each are spoilt (some of them in code that is not there).
    """
    rng = random.Random(seed)
    out = HEAD.splitlines()
    for number in range(cases):
        out += _Maker(f"case_{number}", rng, faults).function()
    return "\n".join(out) + "\n"


def harness(cases: int) -> str:
    """What is put behind the traced program: it runs every function on every input and prints what it saw:
    ``relock LINE``, ``unlock LINE`` and ``leak LINE LOCK``, as the error-checking mutexes say.
    """
    table = ", ".join(f"case_{n}" for n in range(cases))
    return f"""
#undef pthread_mutex_lock
#undef pthread_mutex_unlock
#undef pthread_mutex_trylock
int at;
static unsigned stream, position;
static unsigned char seen[2][100000];
static unsigned left[100000];
pthread_mutex_t m0, m1;
struct obj a, b, c;
static struct obj other, found[16];
static unsigned looked;
#define EVERY 22
static struct {{ const char *name; pthread_mutex_t *lock; }} every[EVERY] = {{
    {{"m0", &m0}}, {{"m1", &m1}}, {{"a", &a.lock}}, {{"b", &b.lock}}, {{"c", &c.lock}},
    {{"o", &other.lock}} }};
int next(void) {{ return position < {STREAM} ? (stream >> position++) & 1 : 0; }}
void work(void) {{ }}
struct obj *look(void) {{ return &found[looked++ % 16]; }}
int traced_lock(pthread_mutex_t *m) {{
    int error = pthread_mutex_lock(m);
    if (error == EDEADLK) seen[0][at] = 1;
    return error;
}}
int traced_trylock(pthread_mutex_t *m) {{
    return next() ? EBUSY : pthread_mutex_trylock(m);
}}
int traced_unlock(pthread_mutex_t *m) {{
    int error = pthread_mutex_unlock(m);
    if (error == EPERM) seen[1][at] = 1;
    return error;
}}
int main(void) {{
    static int (*const cases[])(struct obj *, unsigned) = {{ {table} }};
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_ERRORCHECK);
    for (int k = 0; k < 16; k++) every[6 + k].name = "p", every[6 + k].lock = &found[k].lock;
    for (int k = 0; k < EVERY; k++) pthread_mutex_init(every[k].lock, &kind);
    for (unsigned n = 0; n < {cases}; n++)
        for (unsigned in = 0; in < {1 << BITS}; in++)
            for (unsigned s = 0; s < {1 << STREAM}; s++) {{
                stream = s, position = looked = 0;
                cases[n](&other, in);
                for (int k = 0; k < EVERY; k++) {{
                    if (pthread_mutex_trylock(every[k].lock) == EBUSY) left[at] |= 1 << k;
                    pthread_mutex_unlock(every[k].lock);
                }}
            }}
    for (int line = 0; line < 100000; line++) {{
        if (seen[0][line]) printf("relock %d\\n", line);
        if (seen[1][line]) printf("unlock %d\\n", line);
        for (int k = 0; k < EVERY; k++)
            if (left[line] >> k & 1) printf("leak %d %s\\n", line, every[k].name);
    }}
    return 0;
}}
"""


PRELUDE = """#include <errno.h>
#include <pthread.h>
#include <stdio.h>
extern int at;
int traced_lock(pthread_mutex_t *m);
int traced_unlock(pthread_mutex_t *m);
int traced_trylock(pthread_mutex_t *m);
#define pthread_mutex_lock traced_lock
#define pthread_mutex_unlock traced_unlock
#define pthread_mutex_trylock traced_trylock
"""
"""What is included before the traced program."""


def plain(text: str) -> str:
    """What the checker reads."""
    return text.replace(MARK, "")


def traced(text: str) -> str:
    """What is compiled and run: ``at`` says on which line the program is."""
    lines = text.splitlines()
    return "\n".join(line.replace(MARK, f"at = {n}; ") for n, line in enumerate(lines, 1)) + "\n"
