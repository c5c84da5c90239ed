"""XFS as kernels of lab guests made it: version 4, names without case, a realtime device; and the disks of
guests that were killed, or stood still, while they changed files: replayed in memory they are what the
kernel's own recovery makes of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import lab_needed
from tests.oracle.test_xfs import opened, theirs, usage_of
from tests.recipes import xfs, xfs_guest
from tests.recipes.our_account import our_account
from virtscope.block import open_image
from virtscope.errors import UnsupportedFeature
from virtscope.fs import open_filesystem

pytestmark = pytest.mark.matrix  # its images are made in several guests, which takes minutes


@pytest.fixture(params=xfs_guest.VARIANTS)
def made(request: pytest.FixtureRequest) -> xfs.Image:
    with lab_needed():
        return xfs_guest.image(request.param)


@pytest.fixture(params=["killed", "copied"])
def cut_off(request: pytest.FixtureRequest) -> xfs.Image:
    with lab_needed():
        disk: Path = {"killed": xfs_guest.killed, "copied": xfs_guest.copied}[request.param]()
    return xfs_guest.account_beside(disk)


def test_version_4_is_as_its_kernel_shows_it(made: xfs.Image) -> None:
    filesystem = opened(made)

    assert usage_of(filesystem) == made.usage
    assert our_account(filesystem) == theirs(made)
    assert not filesystem.notes


def test_the_log_replayed_in_memory_is_what_the_kernel_recovers(cut_off: xfs.Image) -> None:
    filesystem = opened(cut_off)

    assert our_account(filesystem) == theirs(cut_off)
    assert usage_of(filesystem) == cut_off.usage
    assert not any("replayed" in note for note in filesystem.notes)
    assert len(cut_off.files) > 400


def test_without_its_log_something_is_missing_and_said(cut_off: xfs.Image) -> None:
    filesystem = open_filesystem(open_image(str(cut_off.path), "raw"), replay=False)

    assert filesystem is not None
    assert any("its log was not replayed" in note for note in filesystem.notes)
    assert list(filesystem.inodes()) != list(opened(cut_off).inodes())


def test_names_without_case() -> None:
    with lab_needed():
        image = xfs_guest.image("v5-without-case")
    filesystem = opened(image)

    folder = filesystem.lookup(filesystem.root_inode, b"DIRECTORIES")

    assert folder is not None
    assert folder == image.files["directories"]["inode"]
    assert filesystem.lookup(folder, b"With-3000") == image.files["directories/with-3000"]["inode"]


def test_files_on_a_realtime_device_are_said() -> None:
    with lab_needed():
        filesystem = open_filesystem(open_image(str(xfs_guest.realtime()), "raw"))
    assert filesystem is not None
    named = {entry.name: entry.inode for entry in filesystem.entries(filesystem.root_inode)}

    assert filesystem.stat(named[b"file"]).size == 8
    assert filesystem.readlink(named[b"link"]) == b"file"
    with pytest.raises(UnsupportedFeature, match="realtime device"):
        filesystem.read(named[b"file"], 0, 8)
