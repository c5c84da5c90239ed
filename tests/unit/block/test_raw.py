"""Files of the host and raw images: holes, odd sizes, what the host refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from virtscope.block import open_image
from virtscope.block.raw import HostFile, RawImage
from virtscope.errors import AccessDenied, FormatError, GuestNotFound, ReadFailed


def test_holes(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(64 << 20)
        file.seek(10 << 20)
        file.write(b"x" * (1 << 20))
    with open_image(str(path)) as image:
        extents = list(image.extents())
        assert [is_zero for _, _, is_zero in extents] == [True, False, True]
        assert extents[1][:2] == (10 << 20, 1 << 20)
        assert list(image.extents(1 << 20, 2 << 20)) == [(1 << 20, 1 << 20, True)]
        assert list(image.extents((10 << 20) + 5, (10 << 20) + 9)) == [((10 << 20) + 5, 4, False)]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 100_000])
def test_a_disk_has_whole_sectors(tmp_path: Path, size: int) -> None:
    path = tmp_path / "odd"
    content = os.urandom(size)
    path.write_bytes(content)
    with open_image(str(path)) as image:
        assert image.size == -(-size // 512) * 512
        assert image.read_at(0, image.size) == content.ljust(image.size, b"\0")
        assert sum(length for _, length, _ in image.extents()) == image.size
        if size % 512:
            assert image.read_at(image.size - 1, 1) == b"\0"


def test_a_part_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "whole"
    path.write_bytes(bytes(range(256)) * 16)
    with RawImage(HostFile(str(path)), 256, 1024) as image:
        assert image.read_at(0, 1024) == bytes(range(256)) * 4
        with pytest.raises(FormatError):
            image.read_at(1000, 100)
    with RawImage(HostFile(str(path)), 4000, 8000) as image:
        assert image.peek(0, 96) == (bytes(range(256)) * 16)[4000:]
        with pytest.raises(FormatError):
            image.read_at(90, 10)


def test_refusals_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    path.write_bytes(bytes(512))

    def refuse(*arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(GuestNotFound, match="there is no file"):
        open_image(str(tmp_path / "none"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(AccessDenied, match="may not be read"):
            open_image(str(path))


def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "failing"
    path.write_bytes(bytes(4096))
    with open_image(str(path)) as image:

        def fail(*arguments: object) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        image._young.clear()
        monkeypatch.setattr(os, "pread", fail)
        with pytest.raises(ReadFailed, match="Input/output error"):
            image.read_at(0, 4096)


def test_closing_lets_go_and_may_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(512))
    before = len(os.listdir("/proc/self/fd"))
    image = open_image(str(path))
    image.close()
    image.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ReadFailed):
        image.read_at(0, 512)
    for _ in range(5):
        with pytest.raises(GuestNotFound):
            open_image(str(path) + "x")
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_file_stays_open_when_a_chain_cannot_be_opened(tmp_path: Path) -> None:
    header = bytearray(104)
    header[:8] = b"QFI\xfb\0\0\0\2"
    header[8:16] = (96).to_bytes(8, "big")
    header[16:24] = (7).to_bytes(4, "big") + (16).to_bytes(4, "big")
    header[96:103] = b"missing"
    path = tmp_path / "top"
    path.write_bytes(header.ljust(65536, b"\0"))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(GuestNotFound, match="missing, the backing file of"):
        open_image(str(path))
    assert len(os.listdir("/proc/self/fd")) == before
