"""Disks of real guests: one that is writing, one whose power fails, one with casefolded directories."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lab.qemu import runs
from tests.recipes import ext4
from tests.recipes.kernel_account import account_of
from tests.recipes.our_account import our_account
from virtscope.block import open_image
from virtscope.fs.ext4 import open_filesystem
from virtscope.fs.tree import Tree

if TYPE_CHECKING:
    from lab import Guest

_MODULES = ("virtio_blk", "crc32c_generic", "ext4")

_WRITER = """
mkdir -p /mnt; mount -t ext4 -o commit=1 /dev/vda /mnt
(i=0; while true; do
  i=$((i+1)); mkdir -p /mnt/$i; cp /bin/busybox /mnt/$i/copy
  for j in 1 2 3 4 5 6 7 8 9; do echo $i $j > /mnt/$i/file-$j; done
  [ $((i%3)) = 0 ] && rm -r /mnt/$((i-1)); mv /mnt/$i/file-1 /mnt/moved-$i
  ln -s $i /mnt/$i/link; sync /mnt/$i/file-2
done) > /dev/null 2>&1 &
"""


def _drive(path: Path) -> list[str]:
    return ["-drive", f"file={path},format=raw,if=virtio,cache=writeback"]


def _agrees_with_recovery(path: Path, target: Path) -> int:
    """Compare a disk as we read it with the kernel's recovery of a copy; how many files there are."""
    filesystem = open_filesystem(open_image(str(path), "raw"))
    assert filesystem is not None
    ours = our_account(filesystem)
    recovered = target / "recovered.img"
    shutil.copy(path, recovered)
    with ext4.mounted(recovered):
        pass
    with ext4.mounted(recovered, "ro,noatime") as top:
        theirs = account_of(top, flags=True)
    assert ours.keys() == theirs["files"].keys()
    orphans = filesystem.superblock.s_last_orphan
    for name, row in theirs["files"].items():
        row.pop("flags", None)
        if orphans:  # recovery finishes what was being removed or cut
            row["allocated"] = ours[name]["allocated"]
        assert ours[name] == row, name
    if not orphans:
        assert filesystem.usage().free_blocks == theirs["usage"][2]
    return len(ours)


def test_disks_of_a_guest_that_is_writing(boot: Callable[..., Guest], tmp_path: Path) -> None:
    ext4.need_mounts()
    disk = tmp_path / "disk.img"
    ext4.format_image(disk, "200M", "-t", "ext4", "-b", "4096")
    paused = tmp_path / "paused.img"
    guest = boot("6.1", setup="", direct=True, modules=_MODULES, args=_drive(disk))
    guest.run(_WRITER)
    # It waits for its disk in every round, so that all before the last one is there.
    guest.run("until test -e /mnt/moved-6; do sleep 0.2; done")
    with guest.paused():
        shutil.copy(disk, paused)
    guest.run("until test -e /mnt/moved-12; do sleep 0.2; done")
    os.kill(guest.pid, signal.SIGKILL)
    while runs(guest.pid):
        time.sleep(0.05)

    assert _agrees_with_recovery(paused, tmp_path) > 20
    assert _agrees_with_recovery(disk, tmp_path) > 20


def test_casefolded_directories(boot: Callable[..., Guest], tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    ext4.format_image(disk, "32M", "-t", "ext4", "-b", "4096", "-O", "casefold")
    for command in ("mkdir d", "set_inode_field d flags 0x40080000"):
        ext4.run("debugfs", "-w", "-R", command, str(disk))
    guest = boot("6.1", setup="", direct=True, modules=_MODULES, args=_drive(disk))
    guest.run(
        "mkdir -p /mnt; mount -t ext4 /dev/vda /mnt; cd /mnt/d; echo 1 > Mixed; echo 2 > GRÖSSE; "
        "cat mIXED grösse; for i in $(seq 300); do echo $i > Name-$i; done; cat nAME-77; cd /; umount /mnt"
    )
    filesystem = open_filesystem(open_image(str(disk), "raw"))
    assert filesystem is not None
    tree = Tree(filesystem)

    assert "casefold" in tree.resolve(b"/d").stat().flags
    for path, content in {
        b"/d/Mixed": b"1",
        b"/d/mIXED": b"1",
        "/d/grösse".encode(): b"2",
        b"/d/nAME-77": b"77",
    }.items():
        assert tree.resolve(path).open().read() == content + b"\n"
    assert filesystem.lookup(filesystem.root_inode, b"D") is None
    assert {entry.name for entry in filesystem.entries(tree.resolve(b"/d").inode)} >= {b"Mixed", b"Name-300"}
