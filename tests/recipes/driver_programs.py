"""Random entry points of a driver with managed objects, that can be checked and run.

:func:`program` gives the text of one program from a seed. Its functions lock, fetch, use and release without
a plan, so most of them break the two-level rule on some path. Each branch is decided by another bit of
``in``, or by the next bit of a stream, so running all inputs runs all paths but those of long loops.
:func:`plain` is the text the checker reads. :func:`traced` has the same lines with what the rule says of
each statement written out: where it is, and which variables it uses; :func:`harness` runs that and prints
which rules are broken on which lines.
"""

from __future__ import annotations

import random
import re

_AT, _USE = "\x01", "\x02"
BITS = 7
"""Bits of ``in`` that a function may ask for, each at one place."""
STREAM = 6
"""Bits of the stream, which loops and fetches ask."""

HEAD = """#define NULL ((void *)0)
struct qemud_driver { int nactive; int domains; };
typedef struct _virDomainObj virDomainObj;
typedef virDomainObj *virDomainObjPtr;
struct _virDomainObj { int state; int locked; };
typedef struct _virConnect { void *privateData; } *virConnectPtr;
typedef struct _virDomain { virConnectPtr conn; } *virDomainPtr;
typedef struct { int (*calls[100])(virDomainPtr, unsigned); } virDriver;
void qemuDriverLock(struct qemud_driver *driver);
void qemuDriverUnlock(struct qemud_driver *driver);
void virDomainObjLock(virDomainObjPtr obj);
void virDomainObjUnlock(virDomainObjPtr obj);
virDomainObjPtr virDomainFindByUUID(int *domains);
virDomainObjPtr virDomainAssignDef(virConnectPtr conn, int *domains);
int next(void);
void work(void);
int look(virDomainObjPtr vm);
int ask(struct qemud_driver *driver);
static void forget(virDomainObjPtr vm) { virDomainObjUnlock(vm); }
"""


class _Maker:
    def __init__(self, name: str, rng: random.Random) -> None:
        self.rng = rng
        self.name = name
        self.lines: list[str] = []
        self.bit = self.loops = 0
        self.left = 16
        self.locked = False

    def say(self, depth: int, text: str, *uses: str) -> None:
        marks = "".join(f"{_USE}{name}{_USE}" for name in uses)
        self.lines.append("    " * (depth + 1) + _AT + marks + text)

    def close(self, depth: int, text: str = "}") -> None:
        self.lines.append("    " * (depth + 1) + text)

    def test(self) -> str:
        if self.bit < BITS:
            self.bit += 1
            return f"in & {1 << (self.bit - 1)}u"
        return "next()"

    def variable(self) -> str:
        return self.rng.choice(["vm", "vm", "other"])

    def statement(self, depth: int) -> None:
        self.left -= 1
        plain = ["driver"] * 4 + ["fetch"] * 3 + ["unlock"] * 4 + ["use_driver"] * 2 + ["use_object"] * 2
        plain += ["relock", "copy", "null", "test_only", "work"]
        nested = ["branch"] * 3 + ["leave"] * 2 + ["loop"] if depth < 3 and self.left > 0 else []
        getattr(self, "do_" + self.rng.choice(plain + nested))(depth)

    def body(self, depth: int) -> None:
        for _ in range(self.rng.randrange(1, 4)):
            self.statement(depth)

    def do_driver(self, depth: int) -> None:
        """Mostly the one of the two that is right where the code is read from top to bottom."""
        if self.rng.random() < 0.85:
            self.locked = not self.locked
        self.say(depth, f"qemuDriver{'Lock' if self.locked else 'Unlock'}(driver);")

    def do_fetch(self, depth: int) -> None:
        name = self.variable()
        how = self.rng.randrange(4)
        if how == 0:
            self.say(depth, f"{name} = virDomainAssignDef(dom->conn, &driver->domains);", "driver")
        elif how == 1:
            self.say(depth, f"if (!({name} = virDomainFindByUUID(&driver->domains))) goto cleanup;", "driver")
        else:
            self.say(depth, f"{name} = virDomainFindByUUID(&driver->domains);", "driver")

    def do_unlock(self, depth: int) -> None:
        name = self.variable()
        test = self.rng.choice([name, f"{name} != NULL"])
        if self.rng.random() < 0.7:
            self.say(depth, f"if ({test}) virDomainObjUnlock({name});")
        else:
            self.say(depth, f"if ({test}) {{ forget({name}); {name} = NULL; }}", name)

    def do_relock(self, depth: int) -> None:
        name = self.variable()
        self.say(depth, f"if ({name}) virDomainObjLock({name});")

    def do_copy(self, depth: int) -> None:
        self.say(depth, "other = vm;", "vm")

    def do_null(self, depth: int) -> None:
        self.say(depth, f"{self.variable()} = NULL;")

    def do_use_driver(self, depth: int) -> None:
        texts = [
            "n = driver->nactive;",
            "driver->nactive++;",
            "if (ask(driver) < 0) n = 1;",
            "n = ask(driver);",
        ]
        self.say(depth, self.rng.choice(texts), "driver")

    def do_use_object(self, depth: int) -> None:
        name = self.variable()
        texts = [f"n = {name}->state;", f"{name}->state = 2;", f"if (look({name}) < 0) n = 2;"]
        self.say(depth, f"if ({name}) {{")
        self.say(depth + 1, self.rng.choice(texts), name)
        self.close(depth)

    def do_test_only(self, depth: int) -> None:
        """Bare tests, which are no uses."""
        self.say(depth, self.rng.choice(["if (driver->nactive) n = 3;", "if (vm && vm->state == 1) n = 4;"]))

    def do_work(self, depth: int) -> None:
        self.say(depth, "work();")

    def do_branch(self, depth: int) -> None:
        self.say(depth, f"if ({self.test()}) {{")
        before = self.locked
        self.body(depth + 1)
        after, self.locked = self.locked, before
        if self.rng.random() < 0.5:
            self.close(depth, "} else {")
            self.body(depth + 1)
        self.locked = after if self.rng.random() < 0.5 else self.locked
        self.close(depth)

    def do_loop(self, depth: int) -> None:
        if self.loops:
            self.do_work(depth)
            return
        self.loops += 1
        self.say(depth, "while (next()) {")
        self.body(depth + 1)
        if self.rng.random() < 0.4:
            self.say(depth + 1, f"if ({self.test()}) break;")
        self.close(depth)

    def do_leave(self, depth: int) -> None:
        self.say(depth, f"if ({self.test()}) {{")
        self.say(depth + 1, self.rng.choice(["goto cleanup;", "goto cleanup;", "return n;"]))
        self.close(depth)

    def function(self) -> list[str]:
        out = [f"static int {self.name}(virDomainPtr dom, unsigned in) {{"]
        out += ["    struct qemud_driver *driver = dom->conn->privateData;"]
        out += ["    virDomainObjPtr vm = NULL, other = NULL;", "    int n = 0;"]
        while self.left > 0:
            self.statement(0)
        self.close(-1, "cleanup:")
        for name in ("vm", "other"):
            if self.rng.random() < 0.8:
                self.say(0, f"if ({name}) virDomainObjUnlock({name});")
        if self.rng.random() < 0.6:
            self.say(0, "qemuDriverUnlock(driver);")
        self.say(0, "return n;")
        return [*out, *self.lines, "}"]


def program(seed: int, cases: int) -> str:
    """The text of a program with so many functions, marked; the same seed makes the same program."""
    rng = random.Random(seed)
    out = HEAD.splitlines()
    names = [f"case_{n}" for n in range(cases)]
    for name in names:
        out += _Maker(name, rng).function()
    out.append(f"static virDriver table = {{ {{ {', '.join(names)} }} }};")
    return "\n".join(out) + "\n"


def plain(text: str) -> str:
    """What the checker reads."""
    return re.sub(f"{_AT}|{_USE}\\w+{_USE}", "", text)


def traced(text: str) -> str:
    """What is compiled and run."""
    out = []
    for number, line in enumerate(text.splitlines(), 1):
        line = re.sub(
            f"{_USE}(\\w+){_USE}", r"use_\1(\1); ", line.replace(f"{_USE}other{_USE}", "use_vm(other); ")
        )
        out.append(line.replace(_AT, f"at = {number}; "))
    return "\n".join(out) + "\n"


PRELUDE = """#include <stdio.h>
#undef NULL
extern int at;
void use_driver(void *driver);
void use_vm(void *vm);
"""
"""What is included before the traced program."""

KINDS = (
    "driver-unlocked",
    "object-unlocked",
    "object-lock-no-driver",
    "driver-after-object",
    "fetch-second-object",
    "exit-locked",
    "double-lock",
    "unlock",
)
"""The rules, as the harness numbers them."""


def harness(cases: int) -> str:
    """What is put behind the traced program: the rule itself, and all functions on all inputs."""
    names = ", ".join(f'"{k}"' for k in KINDS)
    return f"""
int at;
static unsigned stream, position, fetched;
static int held;
static struct _virDomainObj pool[64];
static unsigned char seen[8][100000];
static void broken(int rule) {{ seen[rule][at] = 1; }}
static int any(void) {{
    for (unsigned i = 0; i < fetched; i++) if (pool[i].locked) return 1;
    return 0;
}}
int next(void) {{ return position < {STREAM} ? (stream >> position++) & 1 : 0; }}
void work(void) {{ }}
int look(virDomainObjPtr vm) {{ return vm->state; }}
int ask(struct qemud_driver *driver) {{ return driver->nactive; }}
void use_driver(void *driver) {{ if (!held) broken(0); }}
void use_vm(void *vm) {{ if (vm && !((virDomainObjPtr) vm)->locked) broken(1); }}
void qemuDriverLock(struct qemud_driver *driver) {{
    if (held) broken(6);
    else if (any()) broken(3);
    held = 1;
}}
void qemuDriverUnlock(struct qemud_driver *driver) {{ if (!held) broken(7); held = 0; }}
void virDomainObjLock(virDomainObjPtr obj) {{
    if (obj->locked) broken(6);
    else if (!held) broken(2);
    obj->locked = 1;
}}
void virDomainObjUnlock(virDomainObjPtr obj) {{ if (!obj->locked) broken(7); obj->locked = 0; }}
virDomainObjPtr virDomainFindByUUID(int *domains) {{
    if (!held) broken(2);
    if (any()) broken(4);
    if (next()) return NULL;
    pool[fetched].locked = 1;
    return &pool[fetched++];
}}
virDomainObjPtr virDomainAssignDef(virConnectPtr conn, int *domains) {{
    return virDomainFindByUUID(domains);
}}
int main(void) {{
    static const char *const names[] = {{ {names} }};
    struct qemud_driver driver = {{ 0 }};
    struct _virConnect conn = {{ &driver }};
    struct _virDomain dom = {{ &conn }};
    for (unsigned n = 0; n < {cases}; n++)
        for (unsigned in = 0; in < {1 << BITS}; in++)
            for (unsigned s = 0; s < {1 << STREAM}; s++) {{
                for (unsigned i = 0; i < 64; i++) pool[i].state = pool[i].locked = 0;
                stream = s, position = fetched = held = driver.nactive = 0;
                table.calls[n](&dom, in);
                if (held || any()) broken(5);
            }}
    for (int line = 0; line < 100000; line++)
        for (int k = 0; k < 8; k++)
            if (seen[k][line]) printf("%s %d\\n", names[k], line);
    return 0;
}}
"""
