"""BTF: what its records mean, in a small BTF written by the definition, and against another reader."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.kernel.synthetic import BtfWriter, kernel_types
from virtscope.errors import FormatError
from virtscope.kernel.btf import ARRAY, ENUM, ENUM64, PTR, STRUCT, TYPEDEF, UNION, Btf
from virtscope.kernel.layouts import Member


def types() -> Btf:
    """Anonymous members, bit-fields of both kinds, arrays of arrays, typedefs of nameless structs."""
    btf = BtfWriter()
    int_ = btf.integer("int", 4, signed=True)
    uint = btf.integer("unsigned int", 4)
    bool_ = btf.integer("_Bool", 1, boolean=True)
    char = btf.integer("char", 1, signed=True)
    uchar = btf.integer("unsigned char", 1)
    old_bits = btf.integer("unsigned int", 4, bits=3, at=2)
    nameless = btf.struct("", 4, [("val", uint, 0)])
    kuid = btf.typedef("kuid_t", nameless)
    inner = btf.struct("inner", 8, [("a", int_, 0), ("b", int_, 32)])
    part = btf.struct("", 8, [("deep", int_, 0), ("deeper", uint, 32)])
    choice = btf.struct("", 8, [("", part, 0), ("whole", inner, 0)], union=True)
    flags = btf.struct(
        "", 4, [("low", uint, 0, 3), ("middle", int_, 3, 9), ("high", uint, 12, 20)], bit_fields=True
    )
    colour = btf.enum("colour", {"RED": 0, "GREEN": 0x80000000})
    depth = btf.enum("depth", {"BELOW": -1, "ABOVE": 1}, signed=True)
    big = btf.enum64("big", {"HUGE": 1 << 40})
    grid = btf.array(btf.array(inner, 3), 2)
    btf.struct(
        "outer",
        128,
        [
            ("first", int_, 0),
            ("uid", kuid, 32),
            ("", choice, 64),
            ("", flags, 128),
            ("is_set", bool_, 160),
            ("name", btf.array(char, 8), 168),
            ("address", btf.array(uchar, 6), 232),
            ("grid", grid, 320),
            ("to_inner", btf.pointer(inner), 704),
            ("to_nothing", btf.pointer(0), 768),
            ("shade", colour, 832),
            ("level", depth, 864),
            ("mask", big, 896),
            ("flexible", btf.array(inner, 0), 1024),
        ],
    )
    btf.struct("old", 4, [("bits", old_bits, 8)])
    return Btf(btf.build())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("first", Member(0, 4, "s")),
        ("uid", Member(4, 4, "S", None, "kuid_t")),
        ("uid.val", Member(4, 4, "u")),
        ("deep", Member(8, 4, "s")),
        ("deeper", Member(12, 4, "u")),
        ("whole.b", Member(12, 4, "s")),
        ("low", Member(16, 1, "f", None, None, 0, 3)),
        ("middle", Member(16, 2, "f", None, None, 3, -9)),
        ("high", Member(17, 3, "f", None, None, 4, 20)),
        ("is_set", Member(20, 1, "b")),
        ("name", Member(21, 8, "c", 8)),
        ("address", Member(29, 6, "u", 6)),
        ("grid", Member(40, 48, "S", 6, "inner")),
        ("grid[1][2].b", Member(84, 4, "s")),
        ("grid[2]", None),
        ("grid[x]", None),
        ("to_inner", Member(88, 8, "p", None, "inner")),
        ("to_nothing", Member(96, 8, "p")),
        ("shade", Member(104, 4, "u")),
        ("level", Member(108, 4, "s")),
        ("mask", Member(112, 8, "u")),
        ("flexible", Member(128, 0, "S", 0, "inner")),
        ("absent", None),
        ("first.more", None),
        ("to_inner.a", None),
        ("", None),
    ],
)
def test_members(path: str, expected: Member | None) -> None:
    assert types().member("outer", path) == expected


def test_bit_fields_that_their_type_describes() -> None:
    assert types().member("old", "bits") == Member(1, 1, "f", None, None, 2, 3)


def test_enums() -> None:
    btf = types()
    assert btf.enum("colour") == {"RED": 0, "GREEN": 0x80000000}
    assert btf.enum("depth") == {"BELOW": -1, "ABOVE": 1}
    assert btf.enumerator("HUGE") == 1 << 40
    assert btf.enumerator("outer") is None
    assert btf.enum("outer") is None


def test_enums_of_old_kernels() -> None:
    """Before kind_flag meant "signed", wide values were cut to 32 bits."""
    btf = BtfWriter()
    btf.enum("wide", {"ALL_BUT_5": ~31}, size=8)
    btf.enum("narrow", {"HIGH": 0x80000000})
    btf.enum("either", {"MINUS_1": -1, "MINUS_2": -2})
    found = Btf(btf.build())
    assert found.enum("wide") == {"ALL_BUT_5": 0xFFFF_FFFF_FFFF_FFE0}
    assert found.enum("narrow") == {"HIGH": 0x80000000}
    assert found.enum("either") == {"MINUS_1": -1, "MINUS_2": -2}


def test_module_types_continue_the_kernels() -> None:
    kernel = Btf(kernel_types().build())
    module = BtfWriter(first_type=len(kernel), first_string=kernel.strings_end)
    task = kernel.find(STRUCT, "task_struct")
    assert task is not None
    module.struct("private", 16, [("task", module.pointer(task), 0), ("count", 1, 64)])
    split = Btf(module.build(), kernel)
    assert split.member("private", "task") == Member(0, 8, "p", None, "task_struct")
    assert split.member("private", "count") == Member(8, 4, "s")
    assert split.member("task_struct", "pid") == kernel.member("task_struct", "pid")
    assert kernel.struct_size("private") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x9f\xeb\x01",
        b"\xeb\x9f" + kernel_types().build()[2:],
        kernel_types().build()[:-8],
        kernel_types().build()[:16] + (1 << 30).to_bytes(4, "little") + kernel_types().build()[20:],
    ],
)
def test_what_is_no_btf_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="BTF"):
        Btf(data)


def test_types_that_never_end() -> None:
    btf = BtfWriter()
    btf.typedef("a", 2)
    btf.typedef("b", 1)
    btf.struct("s", 1 << 20, [("m", 1, 0), ("", 4, 0)])
    btf.struct("t", 8, [("", 3, 0)])
    found = Btf(btf.build())
    for path in ("m", "x"):
        with pytest.raises(FormatError, match="without end"):
            found.member("s", path)


C_SOURCE = """
struct other;
typedef struct { unsigned val; } id_t_;
enum shade { DARK, LIGHT = 7 };
struct leaf { short a; long b; char c[5]; };
struct tree {
    _Bool set : 1; int neg : 5; unsigned long wide : 40;
    union { struct leaf one; struct { int x, y; }; };
    struct leaf many[3][2];
    id_t_ id; enum shade shade; struct other *hidden; struct tree *self; const char *const text;
    volatile unsigned char raw[7]; double number; void (*call)(int, ...); struct leaf tail[];
};
struct tree tree;
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Btf, dict[int, dict[str, Any]]]:
    """BTF that the compiler and pahole made of `C_SOURCE`, and what bpftool says of it."""
    for program in ("gcc", "pahole", "bpftool", "objcopy"):
        if not shutil.which(program) and not Path("/usr/sbin", program).exists():
            pytest.skip(f"{program} is not installed")
    folder = tmp_path_factory.mktemp("btf")
    (folder / "a.c").write_text(C_SOURCE)
    for command in (
        "gcc -g -gdwarf-4 -c a.c -o a.o",
        "pahole -J a.o",
        "objcopy -O binary --only-section=.BTF --set-section-flags .BTF=alloc a.o a.btf",
    ):
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    dump = subprocess.run(
        ["/usr/sbin/bpftool", "-j", "btf", "dump", "file", "a.o"], cwd=folder, check=True, capture_output=True
    )
    return Btf((folder / "a.btf").read_bytes()), {t["id"]: t for t in json.loads(dump.stdout)["types"]}


def test_compiled_c_as_bpftool_reads_it(compiled: tuple[Btf, dict[int, dict[str, Any]]]) -> None:
    btf, dump = compiled
    compare(btf, dump)
    assert btf.member("tree", "self") == Member(dump_offset(dump, "tree", "self"), 8, "p", None, "tree")
    # pahole makes one dimension of two.
    assert btf.member("tree", "neg") == Member(0, 1, "f", None, None, 1, -5)
    assert btf.member("tree", "many[5].b") == Member(dump_offset(dump, "tree", "many") + 5 * 24 + 8, 8, "s")
    hidden = btf.member("tree", "hidden")
    assert hidden is not None
    assert hidden.target is None


def dump_offset(dump: dict[int, dict[str, Any]], struct: str, member: str) -> int:
    (found,) = (t for t in dump.values() if t["kind"] == "STRUCT" and t["name"] == struct)
    return int(next(m["bits_offset"] for m in found["members"] if m["name"] == member)) // 8


def compare(btf: Btf, dump: dict[int, dict[str, Any]]) -> None:
    """Every type of a BTF against bpftool's dump of it."""
    assert len(btf) == len(dump) + 1
    names = {STRUCT: "STRUCT", UNION: "UNION", ENUM: "ENUM", ENUM64: "ENUM64", TYPEDEF: "TYPEDEF", PTR: "PTR"}
    for number, expected in dump.items():
        found = btf.type(number)
        assert (found.name or "(anon)") == expected["name"], number
        if found.kind in names:
            assert names[found.kind] == expected["kind"]
        if found.kind in (STRUCT, UNION):
            assert found.value == expected["size"]
            members = [
                (m["name"], m["type_id"], m["bits_offset"], m.get("bitfield_size", 0))
                for m in expected["members"]
            ]
            assert [
                (f.name or "(anon)", f.type, f.bit_offset, f.bit_size) for f in btf.fields(number)
            ] == members
        elif found.kind in (ENUM, ENUM64):
            size = 1 << 8 * found.value
            values = [(value["name"], value["val"] % size) for value in expected["values"]]
            assert [(name, value % size) for name, value in btf.enumerators(number)] == values
        elif found.kind == ARRAY:
            assert btf.array(number) == (expected["type_id"], expected["nr_elems"])
        elif found.kind in (TYPEDEF, PTR):
            assert found.value == expected["type_id"]
