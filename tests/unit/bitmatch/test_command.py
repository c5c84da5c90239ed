"""The command: what it prints, and what it says when something is wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from virtscope.bitmatch import Record, pattern
from virtscope.cli.bitmatch import main

SUPERBLOCK = """little
s_inodes_count : 32
at 4;  flags   : { low : 8; high : 8[2] }
at 56; s_magic : 16 = 0xEF53
       name    : str(8)
       raw     : bytes(2)
"""


class Pair(Record):
    """Something to find by its module and name."""

    layout = "a : 4; b : 12"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    image = bytearray(2048)
    struct.pack_into("<I4xI", image, 1024, 4711, 0)
    struct.pack_into("<H8s2s", image, 1024 + 56, 0xEF53, b"a\x1b[1mb", b"\x01\xfe")
    (tmp_path / "disk.img").write_bytes(image)
    (tmp_path / "superblock.txt").write_text(SUPERBLOCK)
    return tmp_path


def test_view_shows_fields_with_places(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["view", str(folder / "disk.img"), "--offset", "0x400", "-p", str(folder / "superblock.txt")]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["0x00000400", "4", "s_inodes_count", "4711", "(0x1267)"]
    assert lines[1].split() == ["0x00000404", "3", "flags"]
    assert lines[3].split() == ["0x00000405", "2", "flags.high", "0", "0"]
    assert lines[5].endswith(r"a\x1b[1mb")
    assert lines[6].split() == ["0x00000442", "2", "raw", "01fe"]


def test_view_prints_json_and_several_records(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{Pair.__module__}:Pair"
    (folder / "pairs").write_bytes(bytes([0x12, 0x34, 0x56, 0x78]))
    assert main(["view", str(folder / "pairs"), "--pattern", name, "--count", "2", "-J"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[1] == {"offset": 0, "bit": 4, "size_bits": 12, "field": "[0].b", "value": 0x234}
    assert rows[2] == {"offset": 2, "bit": 0, "size_bits": 4, "field": "[1].a", "value": 5}


def test_import_c_prints_a_pattern_that_works(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "h.h").write_text("#ifdef WIDE\nstruct s { long a; char b; };\n#endif\n")
    assert main(["import-c", str(folder / "h.h"), "--struct", "s", "-D", "WIDE", "-t", "i686-linux-gnu"]) == 0
    made = pattern("s", capsys.readouterr().out, names={})
    assert made.size_bytes == 8
    assert main(["import-c", str(folder / "h.h"), "--struct", "s", "-D", "WIDE", "--python"]) == 0
    assert capsys.readouterr().out.startswith('"""s, from h.h.')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["view", "disk.img", "-p", "superblock.txt"],
            "superblock: s_magic at offset 0x38: expected 0xef53, got 0",
        ),
        (
            ["view", "disk.img", "-p", "superblock.txt", "--offset", "2040"],
            "s_magic at offset 0x830: expected 2 bytes",
        ),
        (["view", "disk.img", "-p", "wrong.txt"], "wrong, line 2, column 5: unknown type 'bites'"),
        (["view", "disk.img", "-p", "missing.txt"], "missing.txt: cannot be read: No such file"),
        (["view", "missing.img", "-p", "superblock.txt"], "missing.img: cannot be read: No such file"),
        (["view", "disk.img", "-p", "os:path"], "os:path is no pattern"),
        (["view", "disk.img", "-p", "no_such_module:x"], "no_such_module:x: there is no such pattern"),
        (["view", "disk.img"], "view needs --pattern"),
        (["import-c", "disk.img"], "import-c needs --struct"),
        (["import-c", "missing.h", "--struct", "s"], "'missing.h' file not found"),
        (["import-btf", "disk.img", "--struct", "s"], "disk.img: no BTF"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    (folder / "wrong.txt").write_text("little\na : bites(3)\n")
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.startswith("bitmatch: ")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
