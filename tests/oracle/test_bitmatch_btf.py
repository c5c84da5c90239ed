"""Patterns imported from BTF, against what bpftool and pahole say of the same BTF."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from virtscope.bitmatch import DeclarationError, describe, import_btf
from virtscope.bitmatch.btf import Btf

VMLINUX = Path("/sys/kernel/btf/vmlinux")
FOLLOWED = ("TYPEDEF", "CONST", "VOLATILE", "RESTRICT", "TYPE_TAG")

pytestmark = pytest.mark.skipif(
    not VMLINUX.exists() or shutil.which("bpftool") is None,
    reason="hardware: the running kernel has no BTF, or bpftool is not installed",
)


class Types:
    """The types of a BTF as bpftool prints them."""

    def __init__(self, path: Path) -> None:
        command = ["bpftool", "btf", "dump", "file", str(path), "-j"]
        output = subprocess.run(command, check=True, capture_output=True).stdout
        self.types: dict[int, dict[str, Any]] = {item["id"]: item for item in json.loads(output)["types"]}
        self.long = next(item["size"] for item in self.types.values() if item["name"] == "long unsigned int")

    def plain(self, number: int) -> dict[str, Any]:
        item = self.types[number]
        while item["kind"] in FOLLOWED:
            item = self.types[item["type_id"]]
        return item

    def size(self, number: int) -> int:
        """The size of a type in bytes."""
        item = self.plain(number)
        if item["kind"] == "ARRAY":
            return int(item["nr_elems"]) * self.size(item["type_id"])
        return int(self.long if item["kind"] == "PTR" else item["size"])

    def members(self, item: dict[str, Any], start: int = 0) -> Iterator[tuple[str, int, int]]:
        """Name, place and size in bits of the members of a structure, anonymous ones taken apart."""
        for member in item["members"]:
            inner = self.plain(member["type_id"])
            place = start + member["bits_offset"]
            if member["name"] == "(anon)":
                if inner["kind"] in ("STRUCT", "UNION"):
                    yield from self.members(inner, place)
                continue
            size = member.get("bitfield_size") or self.size(member["type_id"]) * 8
            if inner["kind"] == "ARRAY" and self.is_open(inner):
                continue
            yield member["name"], place, size

    def is_open(self, item: dict[str, Any]) -> bool:
        """Whether an array does not say how many elements it has."""
        while item["kind"] == "ARRAY":
            if not item["nr_elems"]:
                return True
            item = self.plain(item["type_id"])
        return False


def test_structures_are_as_bpftool_says(tmp_path: Path) -> None:
    types = Types(VMLINUX)
    raw = tmp_path / "raw.btf"
    raw.write_bytes(VMLINUX.read_bytes())
    btf = Btf(raw.read_bytes(), "vmlinux")
    named = [item for item in types.types.values() if item["kind"] in ("STRUCT", "UNION")]
    named = [item for item in named if item["name"] != "(anon)"]
    counts: dict[str, int] = {}
    for item in named:
        counts[item["name"]] = counts.get(item["name"], 0) + 1
    alone = [item for item in named if counts[item["name"]] == 1 and 0 < item["size"] <= 4096]
    chosen = random.Random(11).sample(alone, 250)
    famous = ("task_struct", "tcphdr", "iphdr", "inode", "page", "sk_buff")
    chosen += [item for item in alone if item["name"] in famous]
    for item in chosen:
        made = btf.import_struct(item["name"])
        pattern = made.pattern()
        assert pattern.size_bytes == item["size"], item["name"]
        steps = [
            step for step in describe(pattern, bytes(item["size"])) if not step.depth and step.name != "_"
        ]
        found = [(step.name, step.offset_bits, step.size_bits) for step in steps]
        assert found == list(types.members(item)), item["name"]


@pytest.mark.skipif(shutil.which("pahole") is None, reason="pahole is not installed")
def test_sizes_are_as_pahole_says() -> None:
    names = [
        "list_head",
        "task_struct",
        "tcphdr",
        "inode",
        "dentry",
        "super_block",
        "file",
        "page",
        "mm_struct",
    ]
    command = ["pahole", "-C", ",".join(names), str(VMLINUX)]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = dict(re.findall(r"^struct (\w+) \{.*?/\* size: (\d+),", output, re.MULTILINE | re.DOTALL))
    assert len(found) >= 5
    for name, size in found.items():
        assert import_btf(VMLINUX, name).sizes[name] == int(size)


def test_elf_files_have_a_section(tmp_path: Path) -> None:
    source = tmp_path / "a.c"
    source.write_text("struct hello { short a; int b:3; char *c; }; struct hello h;")
    object_file = tmp_path / "a.o"
    subprocess.run(["gcc", "-g", "-c", source, "-o", object_file], check=True)
    with pytest.raises(DeclarationError, match="this ELF file has no"):
        import_btf(object_file, "hello")
    if shutil.which("pahole") is None:
        pytest.skip("hardware: pahole is not installed")
    subprocess.run(["pahole", "-J", object_file], check=True)
    made = import_btf(object_file, "hello")
    assert made.sizes == {"hello": 16}
    record = made.pattern().parse(bytes([1, 0, 5, 0, 0, 0, 0, 0, *range(8)]))
    assert (record.a, record.b, record.c) == (1, -3, 0x0706050403020100)
    with pytest.raises(DeclarationError, match="there is no structure 'goodbye'"):
        import_btf(object_file, "goodbye")


def test_typedefs_are_found() -> None:
    made = import_btf(VMLINUX, "atomic_t")
    assert made.name == "atomic_t"
    assert made.pattern().parse(b"\7\0\0\0").counter == 7
