"""A module made to hang: compiled here from assembly that has what a kernel module's init has."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lab import LabError
from lab.spin import spinning_module

SOURCE = """
.section .init.text, "ax"
.globl init_module
    .byte 0x90, 0x90, 0x90
init_module:
    endbr64
    call __fentry__
    mov $pernet_ops, %rdi
    call register
    ret
"""


def assemble(source: str, path: Path) -> None:
    assembler = shutil.which("as")
    assert assembler, "apt-get install binutils"
    subprocess.run([assembler, "-o", str(path), "-"], input=source, text=True, check=True)


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "stock.ko"
    assemble(SOURCE, path)
    return path


def relocations(path: Path) -> dict[str, str]:
    """Relocation type by symbol."""
    command = ["readelf", "-rW", str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {fields[4]: fields[2] for fields in map(str.split, lines) if len(fields) == 7}


def disassembled(path: Path) -> list[str]:
    command = ["objdump", "-dr", "--no-show-raw-insn", "-j", ".init.text", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = text.partition("<init_module>:")[2].splitlines()
    return [" ".join(line.partition(":")[2].split()) for line in lines if line.strip()]


def test_init_spins_after_the_tracers_call(module: Path, tmp_path: Path) -> None:
    spinning = tmp_path / "spin.ko"
    spinning.write_bytes(spinning_module(module.read_bytes()))
    code = disassembled(spinning)
    assert code[0] == "endbr64"
    assert code[1].startswith("call")
    assert "__fentry__" in code[2]
    assert code[3] == "cli"
    # It jumps to itself, nine bytes of prologue and one of cli after the function's start at 3.
    assert code[4] == "jmp d <init_module+0xa>"


def test_a_relocation_where_the_loop_goes_is_dropped(tmp_path: Path) -> None:
    stock, spinning = tmp_path / "stock.ko", tmp_path / "spin.ko"
    assemble(SOURCE.replace("mov $pernet_ops, %rdi", "call at_once"), stock)
    spinning.write_bytes(spinning_module(stock.read_bytes()))
    before = relocations(stock)
    assert before["at_once"] == "R_X86_64_PLT32"
    assert relocations(spinning) == {**before, "at_once": "R_X86_64_NONE"}


def test_the_signature_is_dropped(module: Path) -> None:
    signed = module.read_bytes() + b"signature~Module signature appended~\n"
    assert not spinning_module(signed).endswith(b"appended~\n")


def test_something_else_is_refused() -> None:
    with pytest.raises(LabError, match="ELF"):
        spinning_module(b"MZ" + bytes(100))
