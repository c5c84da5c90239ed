"""The archives the lab writes are what cpio takes them for."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from lab.cpio import CpioWriter


def archive() -> CpioWriter:
    writer = CpioWriter()
    writer.file("bin/tool", b"#!/bin/sh\n", 0o755)
    writer.file("etc/odd length", b"12345")
    writer.symlink("bin/other", "tool")
    writer.folder("empty/deep")
    return writer


def test_cpio_unpacks_what_was_written(tmp_path: Path) -> None:
    cpio = shutil.which("cpio")
    assert cpio, "apt-get install cpio"
    subprocess.run([cpio, "-i", "--quiet"], input=archive().data(), cwd=tmp_path, check=True)
    assert (tmp_path / "bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE((tmp_path / "bin/tool").stat().st_mode) == 0o755
    assert (tmp_path / "etc/odd length").read_bytes() == b"12345"
    assert (tmp_path / "bin/other").readlink() == Path("tool")
    assert (tmp_path / "empty/deep").is_dir()


def test_cpio_lists_folders_before_what_is_in_them() -> None:
    cpio = shutil.which("cpio")
    assert cpio, "apt-get install cpio"
    listed = subprocess.run([cpio, "-t", "--quiet"], input=archive().data(), capture_output=True, check=True)
    names = listed.stdout.decode().split("\n")[:-1]
    assert names == ["bin", "bin/tool", "etc", "etc/odd length", "bin/other", "empty", "empty/deep"]


def test_a_name_is_taken_once() -> None:
    writer = archive()
    with pytest.raises(ValueError, match="bin/tool"):
        writer.file("bin/tool", b"")
