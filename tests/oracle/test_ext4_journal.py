"""Journals replayed in memory by us and on a copy by the kernel: the same usage, the same files."""

from __future__ import annotations

import hashlib

import pytest

from tests.recipes import ext4
from tests.recipes.our_account import our_account
from virtscope.block import open_image
from virtscope.fs import open_filesystem


@pytest.fixture(params=ext4.CRASHED)
def crashed(request: pytest.FixtureRequest) -> ext4.Image:
    return ext4.crashed(request.param)


def test_a_replayed_journal_shows_what_the_kernel_recovers(crashed: ext4.Image) -> None:
    before = hashlib.sha256(crashed.path.read_bytes()).digest()
    filesystem = open_filesystem(open_image(str(crashed.path), "raw"))
    assert filesystem is not None

    usage = filesystem.usage()
    ours = our_account(filesystem)

    assert ours.keys() == crashed.files.keys()
    for path, row in crashed.files.items():
        row.pop("flags", None)
        assert ours[path] == row, path
    assert [usage.free_blocks, usage.available_blocks, usage.free_inodes] == [
        *crashed.usage[2:4],
        crashed.usage[5],
    ]
    assert any("replayed in memory" in note for note in filesystem.notes)
    assert hashlib.sha256(crashed.path.read_bytes()).digest() == before


def test_without_replay_a_note_says_so(crashed: ext4.Image) -> None:
    filesystem = open_filesystem(open_image(str(crashed.path), "raw"), replay=False)
    assert filesystem is not None

    assert any("was not replayed" in note for note in filesystem.notes)
    usage = filesystem.usage()
    assert [usage.free_blocks, usage.free_inodes] != [crashed.usage[2], crashed.usage[5]]


def test_fast_commits_show_what_the_kernel_recovers() -> None:
    image = ext4.fast_committed()
    filesystem = open_filesystem(open_image(str(image.path), "raw"))
    assert filesystem is not None

    ours = our_account(filesystem)
    usage = filesystem.usage()

    assert any("fast commits" in note for note in filesystem.notes)
    assert ours.keys() == image.files.keys()
    for path, row in image.files.items():
        row.pop("flags", None)
        if ours[path]["mode"] & 0o170000 == 0o040000:
            # Replaying names, the kernel gives their directory the time of the recovery.
            row.update(modified=ours[path]["modified"], changed=ours[path]["changed"])
        assert ours[path] == row, path
    assert [usage.free_blocks, usage.free_inodes] == [image.usage[2], image.usage[5]]
    assert image.files["d/linked"]["links"] == 2
    assert {row["inode"] for row in image.files.values()} <= set(filesystem.inodes())
