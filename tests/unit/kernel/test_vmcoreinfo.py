"""VMCOREINFO texts and ELF notes."""

from __future__ import annotations

import struct

import pytest

from virtscope.errors import FormatError
from virtscope.kernel.notes import parse_build_id
from virtscope.kernel.vmcoreinfo import parse_vmcoreinfo, vmcoreinfo_symbol


def test_vmcoreinfo() -> None:
    text = b"OSRELEASE=6.1\nPAGESIZE=4096\nSYMBOL(a)=ffffffff81000010\nSYMBOL(b)=nonsense\n"
    text += b"=x\nodd\nEMPTY=\n\0garbage"
    info = parse_vmcoreinfo(text)
    assert info == {
        "OSRELEASE": "6.1",
        "PAGESIZE": "4096",
        "SYMBOL(a)": "ffffffff81000010",
        "SYMBOL(b)": "nonsense",
        "EMPTY": "",
    }
    assert vmcoreinfo_symbol(info, "a") == 0xFFFFFFFF81000010
    assert vmcoreinfo_symbol(info, "b") is None
    assert vmcoreinfo_symbol(info, "c") is None


@pytest.mark.parametrize("text", [b"", b"RELEASE=1", b"OSRELEASE=1\n" * 10_000])
def test_what_is_no_vmcoreinfo(text: bytes) -> None:
    with pytest.raises(FormatError, match="VMCOREINFO"):
        parse_vmcoreinfo(text)


def note(name: bytes, kind: int, content: bytes) -> bytes:
    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    return struct.pack("<III", len(name), len(content), kind) + padded(name) + padded(content)


def test_build_id() -> None:
    xen = note(b"Xen\0", 5, b"generic")
    assert parse_build_id(xen + note(b"GNU\0", 3, b"\x01\x23\xab")) == "0123ab"
    assert parse_build_id(xen) is None
    assert parse_build_id(xen + note(b"GNU\0", 3, b"")) is None
    assert parse_build_id(note(b"GNU\0", 3, b"\x01" * 20)[:-3]) is None
    assert parse_build_id(struct.pack("<III", 0xFFFFFFFF, 0xFFFFFFFF, 3) * 10) is None
