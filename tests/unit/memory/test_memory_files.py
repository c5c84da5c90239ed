"""Guest memory in files: which format it is, ELF cores, raw files."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from tests.unit.memory.elf_core import ElfCore
from virtscope.errors import AccessDenied, FormatError, GuestNotFound, MemoryHole
from virtscope.memory import open_memory
from virtscope.memory.elfcore import without_overlaps
from virtscope.memory.file import FileRange
from virtscope.memory.physical import Segment

PAGE = 4096


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "dump"
    path.write_bytes(content)
    return path


class TestElfCore:
    def test_ranges_are_where_the_headers_say(self, tmp_path: Path) -> None:
        core = ElfCore([(0, b"low." * PAGE), (1 << 32, b"high" * PAGE)])
        with open_memory(write(tmp_path, core.build())) as memory:
            assert memory.segments == (Segment(0, 4 * PAGE), Segment(1 << 32, 4 * PAGE))
            assert memory.read(8, 4) == b"low."
            assert memory.read((1 << 32) + 4 * PAGE - 4, 4) == b"high"
            with pytest.raises(MemoryHole):
                memory.read(4 * PAGE, 1)
            assert not memory.is_live
            assert memory.identity is None

    def test_cr3_of_the_cpus_that_have_paging_on(self, tmp_path: Path) -> None:
        core = ElfCore(
            [(0, bytes(PAGE))],
            cpus=[(0x80050033, 0x1234000), (0x60000010, 0), (0x80050033, 0x5678000), (0x80050033, 0x1234000)],
        )
        with open_memory(write(tmp_path, core.build())) as memory:
            assert memory.page_roots() == (0x1234000, 0x5678000)

    def test_more_segments_than_the_header_can_count(self, tmp_path: Path) -> None:
        loads = [(number * 2 * PAGE, struct.pack("<I", number)) for number in range(70_000)]
        with open_memory(write(tmp_path, ElfCore(loads, extended=True).build())) as memory:
            assert len(memory.segments) == 70_000
            assert memory.read(69_999 * 2 * PAGE, 4) == struct.pack("<I", 69_999)

    def test_what_the_dump_left_out_is_a_hole_and_not_zeros(self, tmp_path: Path) -> None:
        with open_memory(write(tmp_path, ElfCore([(0, b"x" * PAGE)], excluded=PAGE).build())) as memory:
            assert memory.read(0, PAGE) == b"x" * PAGE
            with pytest.raises(MemoryHole):
                memory.read(PAGE, 1)

    def test_memory_described_twice_counts_once(self, tmp_path: Path) -> None:
        core = ElfCore([(0, b"ab" * PAGE), (PAGE, b"bc" * PAGE)])
        with open_memory(write(tmp_path, core.build())) as memory:
            assert sum(segment.size for segment in memory.segments) == 3 * PAGE
            assert memory.read(0, 3 * PAGE) == b"ab" * PAGE + b"bc" * (PAGE // 2)

    @pytest.mark.parametrize("missing", [1, PAGE, 3 * PAGE])
    def test_a_file_cut_short_says_so(self, tmp_path: Path, missing: int) -> None:
        content = ElfCore([(0, bytes(PAGE)), (PAGE, bytes(2 * PAGE))]).build()
        with pytest.raises(FormatError, match="cut short") as caught:
            open_memory(write(tmp_path, content[:-missing]))
        assert caught.value.field == "p_filesz"
        assert caught.value.offset in (64 + 32, 64 + 56 + 32)

    @pytest.mark.parametrize(
        ("core", "field"),
        [
            (ElfCore([(0, bytes(PAGE))], e_type=2), "e_type"),
            (ElfCore([(0, bytes(PAGE))], e_class=1), "EI_CLASS"),
            (ElfCore([(0, bytes(PAGE))], e_data=2), "EI_DATA"),
            (ElfCore([]), "e_phnum"),
            (ElfCore([(0, b"")]), "e_phnum"),
            (ElfCore([((1 << 64) - PAGE, bytes(2 * PAGE))]), "p_paddr"),
        ],
    )
    def test_other_elf_files_are_refused(self, tmp_path: Path, core: ElfCore, field: str) -> None:
        with pytest.raises(FormatError) as caught:
            open_memory(write(tmp_path, core.build()))
        assert caught.value.field == field

    @pytest.mark.parametrize("size", [4, 63, 64, 100])
    def test_cut_within_the_headers(self, tmp_path: Path, size: int) -> None:
        with pytest.raises(FormatError, match="ELF core"):
            open_memory(write(tmp_path, ElfCore([(0, bytes(PAGE))]).build()[:size]))

    def test_holes_of_the_file_are_not_populated(self, tmp_path: Path) -> None:
        content = ElfCore([(0, bytes(64 * PAGE))]).build()
        path = tmp_path / "dump"
        with path.open("wb") as file:
            file.write(content[: len(content) - 64 * PAGE])
            file.seek(32 * PAGE, os.SEEK_CUR)
            file.write(b"here")
            file.truncate(len(content))
        with open_memory(path) as memory:
            populated = list(memory.populated(8 * PAGE))
            assert sum(segment.size for segment in populated) <= 2 * PAGE
            assert any(segment.start <= 32 * PAGE < segment.end for segment in populated)


def test_overlaps() -> None:
    ranges = [FileRange(0, 10, 100), FileRange(5, 10, 200), FileRange(6, 2, 300), FileRange(20, 5, 400)]
    assert without_overlaps(ranges) == [FileRange(0, 10, 100), FileRange(10, 5, 205), FileRange(20, 5, 400)]


class TestRaw:
    def test_addresses_are_offsets(self, tmp_path: Path) -> None:
        content = os.urandom(3 * PAGE + 5)
        with open_memory(write(tmp_path, content)) as memory:
            assert memory.segments == (Segment(0, len(content)),)
            assert memory.read(0, len(content)) == content
            assert memory.read(3 * PAGE, 5) == content[-5:]
            assert memory.page_roots() == ()

    def test_holes_are_not_populated_and_read_as_zeros(self, tmp_path: Path) -> None:
        path = tmp_path / "dump"
        with path.open("wb") as file:
            file.write(b"start")
            file.seek(1 << 33)
            file.write(b"end")
        with open_memory(path) as memory:
            assert [segment.start for segment in memory.populated()] == [0, 1 << 33]
            assert memory.read(1 << 32, 8) == bytes(8)

    def test_a_file_that_shrinks_meanwhile_is_an_error(self, tmp_path: Path) -> None:
        path = write(tmp_path, bytes(8 * PAGE))
        with open_memory(path) as memory:
            os.truncate(path, PAGE)
            with pytest.raises(FormatError, match="ends") as caught:
                memory.read(4 * PAGE, 8)
            assert caught.value.offset == 4 * PAGE

    @pytest.mark.parametrize("size", [0, 1, PAGE - 1])
    def test_too_small_to_be_memory(self, tmp_path: Path, size: int) -> None:
        with pytest.raises(FormatError, match=f"{size} bytes"):
            open_memory(write(tmp_path, b"x" * size))


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (b"KDUMP   ", "kdump"),
        (b"makedumpfile\0", "kdump"),
        (b"QEVM", "QEMU save"),
        (b"LibvirtQemudSave", "libvirt save"),
        (b"QFI\xfb", "qcow2"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"EMiL", "LiME"),
    ],
)
def test_files_of_other_formats_are_not_taken_for_memory(tmp_path: Path, head: bytes, word: str) -> None:
    with pytest.raises(FormatError, match=word):
        open_memory(write(tmp_path, head + bytes(2 * PAGE)))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(GuestNotFound, match="nothing-here"):
        open_memory(tmp_path / "nothing-here")


def test_a_directory_and_a_pipe_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(FormatError):
            open_memory(path)


def test_nothing_stays_open_after_an_error(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FormatError):
        open_memory(write(tmp_path, b"\x7fELF"))
    with open_memory(write(tmp_path, bytes(PAGE))) as memory:
        pass
    memory.close()
    assert os.listdir("/proc/self/fd") == before


def test_a_file_that_may_not_be_read_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(AccessDenied, match="dump"):
        open_memory(tmp_path / "dump")
