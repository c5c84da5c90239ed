"""The disk commands on a disk as an installer leaves it, against what the kernel says of the same
filesystems.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import lab_needed
from tests.recipes.system import System, system

BIN = Path(sys.executable).parent

pytestmark = pytest.mark.xdist_group("disk-commands")


@pytest.fixture(scope="module")
def disk() -> System:
    with lab_needed():
        return system()


def run(name: str, *arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run([BIN / name, *arguments], capture_output=True, check=False)
    assert done.returncode == status, done.stderr.decode()
    return done


def rows(name: str, *arguments: str | Path, status: int = 0) -> list[dict[str, Any]]:
    document = json.loads(run(name, *arguments, "--json", status=status).stdout)
    assert document["schema"] == f"{name}/1"
    found: list[dict[str, Any]] = document["rows"]
    return found


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_df_is_what_statfs_says(disk: System, form: str) -> None:
    found = {row["device"]: row for row in rows("virt-df", "-a", getattr(disk, form))}
    assert set(found) == set(disk.usage)
    for device, (bsize, blocks, free, available, inodes, inodes_free) in disk.usage.items():
        row = found[device]
        assert row["size"] == blocks * bsize
        assert row["used"] == (blocks - free) * bsize
        assert row["available"] == available * bsize
        assert (row["inodes"], row["inodes_free"]) == (inodes, inodes_free)


def test_df_as_a_table_and_csv(disk: System) -> None:
    table = run("virt-df", "-h", "-a", disk.raw).stdout.decode().splitlines()
    assert table[0].split() == ["Filesystem", "Size", "Used", "Available", "Use%"]
    assert {line.split()[0] for line in table[1:]} == set(disk.usage)
    csv = run("virt-df", "--csv", "-a", disk.raw).stdout.decode().splitlines()
    assert csv[0] == "device,size,used,available,used_percent"
    blocks = disk.usage["/dev/sda1"]
    assert f"/dev/sda1,{blocks[0] * blocks[1]}," in csv[1]


def test_many_images_are_guests_of_their_own(disk: System, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        overlay = folder / f"guest{number}.qcow2"
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(disk.qcow2)]
        subprocess.run([*command, overlay], check=True)
    (folder / "broken.qcow2").write_bytes(b"QFI\xfb" + bytes(100))
    refused = run("virt-df", folder, status=2)
    assert refused.stderr.decode().count("--allow-backing") == 5
    found = run("virt-df", folder, "--allow-backing", disk.qcow2.parent, "--json", status=3)
    document = json.loads(found.stdout)
    assert len(document["rows"]) == 5 * 3
    assert {row["guest"] for row in document["rows"]} == {f"{folder}/guest{n}.qcow2" for n in range(5)}
    assert [error["guest"] for error in document["errors"]] == [f"{folder}/broken.qcow2"]


def test_filesystems(disk: System) -> None:
    found = {row["name"]: row for row in rows("virt-filesystems", "--all", "-a", disk.raw)}
    kinds = {name: (row["kind"], row["content"]) for name, row in found.items()}
    assert kinds == {
        "/dev/sda": ("disk", "gpt"),
        "/dev/sda1": ("partition", "ext4"),
        "/dev/sda2": ("partition", "LVM2_member"),
        "/dev/vg0/root": ("lv", "xfs"),
        "/dev/vg0/home": ("lv", "ext4"),
    }
    assert found["/dev/sda1"]["label"] == "boot"
    assert found["/dev/vg0/root"]["uuid"] == "22222222-2222-4222-8222-222222222222"
    assert found["/dev/vg0/root"]["parents"] == ["/dev/sda2"]
    only = run("virt-filesystems", "-n", "-a", disk.raw).stdout.split()
    assert sorted(only) == [b"/dev/sda1", b"/dev/vg0/home", b"/dev/vg0/root"]


def test_ls_is_what_the_kernel_lists_across_mounts(disk: System) -> None:
    found = {row["path"]: row for row in rows("virt-ls", "-R", "--checksum", "sha256", "-a", disk.raw, "/")}
    listed = {row["path"] for row in found.values()}
    assert listed == set(disk.files) - {"/"}
    for path, row in found.items():
        truth = disk.files[path]
        keys = ("mode", "links", "uid", "gid", "size", "inode")
        assert [row[key] for key in keys] == [truth[key] for key in keys], path
        assert row["target"] == truth.get("target")
    notes = disk.files["/home/ann/notes.txt"]
    text = "".join(f"line {number}\n" for number in range(100_000)).encode()
    assert found["/home/ann/notes.txt"]["checksum"] == hashlib.sha256(text).hexdigest()
    assert found["/home/ann/notes.txt"]["uid"] == notes["uid"] == 1000


def test_ls_shows_what_a_terminal_must_not_act_on_escaped(disk: System) -> None:
    shown = run("virt-ls", "-a", disk.raw, "/names").stdout
    assert b"\x1b" not in shown
    assert b"\\x1b[31mred\n" in shown
    assert b"new\\nline\n" in shown
    assert b"\\xff\\xfe not utf-8\n" in shown
    assert "日本\n".encode() in shown
    long = run("virt-ls", "-l", "-a", disk.raw, "/usr/lib/setuid").stdout.decode().split()
    assert long[0] == "-rwsr-xr-x"


def test_cat_is_byte_for_byte_and_follows_links_inside(disk: System) -> None:
    assert run("virt-cat", "-a", disk.raw, "/etc/os-release").stdout == b'NAME="Recipe Linux"\nID=recipe\n'
    passwd = b"root:x:0:0::/root:/bin/sh\n"
    for path in ("/names/absolute", "/names/escaping", "/srv/passwd-again", "etc/passwd"):
        assert run("virt-cat", "-a", disk.raw, path).stdout == passwd
    large = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(200_000))
    assert run("virt-cat", "-a", disk.qcow2, "/srv/large").stdout == large


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nosuch", "there is no such file or directory"),
        ("/etc/passwd/x", "/etc/passwd is not a directory"),
        ("/etc", "this is a directory"),
        ("/names/loop", "circle"),
        ("/names/dangling", "there is no such file"),
        ("/dev/null", "this is a character device"),
    ],
)
def test_cat_of_what_is_no_file_is_one_sentence(disk: System, path: str, words: str) -> None:
    done = run("virt-cat", "-q", "-a", disk.raw, path, status=2)
    assert words in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_cat_says_what_fstab_names_and_the_disks_have_not(disk: System) -> None:
    said = run("virt-cat", "-a", disk.raw, "/etc/passwd").stderr.decode()
    assert "/srv/my data: UUID=99999999-9999-4999-8999-999999999999 is not on these disks" in said


def test_mount_replaces_fstab(disk: System) -> None:
    found = run("virt-ls", "-a", disk.raw, "--mount", "/dev/sda1:/", "/").stdout.split()
    assert b"vmlinuz-6.1.0" in found
    below = run(
        "virt-ls",
        "-a",
        disk.raw,
        "--mount",
        "/dev/sda1:/",
        "--mount",
        "/dev/vg0/home:/lost+found",
        "/lost+found",
    )
    assert below.stdout.split() == [b"ann", b"lost+found"]
    wrong = run("virt-ls", "-a", disk.raw, "--mount", "/dev/sdz9:/", "/", status=2)
    assert "there is no device /dev/sdz9" in wrong.stderr.decode()


def test_tail(disk: System) -> None:
    lines = [f"Jan  1 00:00:00 recipe line {n}\n" for n in range(50_000)]
    for count in (0, 1, 10, 49_999, 60_000):
        found = run("virt-tail", "-n", str(count), "-a", disk.raw, "/var/log/syslog").stdout.decode()
        assert found == "".join(lines[-count:] if count else []), count
    assert run("virt-tail", "-a", disk.raw, "/etc/empty").stdout == b""


def test_stat(disk: System) -> None:
    [row] = rows("virt-stat", "--extents", "-a", disk.raw, "/etc/passwd")
    truth = disk.files["/etc/passwd"]
    for key in ("inode", "mode", "links", "size", "allocated"):
        assert row[key] == truth[key]
    assert os.fsencode(row["xattrs"]["user.comment"]) == b"seen \x00 and \xff"
    assert sum(extent["size"] for extent in row["extents"]) == truth["size"]
    [old] = rows("virt-stat", "-a", disk.raw, "/etc/empty")
    assert old["modified"] == "1969-12-31T00:00:00Z"
    [device] = rows("virt-stat", "-a", disk.raw, "/dev/null")
    assert device["device"] == [1, 3]
    assert "Size: 26" in run("virt-stat", "-a", disk.raw, "/etc/passwd").stdout.decode()


def test_copy_out_is_the_same_tree(disk: System, tmp_path: Path) -> None:
    done = run("virt-copy-out", "-q", "-a", disk.qcow2, "/", tmp_path, status=3)
    left_out = done.stderr.decode()
    for special in ("/dev/null", "/srv/fifo", "/srv/socket"):
        assert f"{special} was left out" in left_out
    top = tmp_path / "root"
    for path, truth in disk.files.items():
        mine = Path(os.fsdecode(os.fsencode(top) + os.fsencode(path)))
        kind = stat.S_IFMT(truth["mode"])
        if kind in (stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK):
            assert not os.path.lexists(mine)
            continue
        found = os.lstat(mine)
        assert stat.S_IFMT(found.st_mode) == kind
        assert found.st_mtime_ns == truth["modified"], path
        if kind == stat.S_IFLNK:
            assert os.readlink(mine) == truth["target"]
        else:
            assert stat.S_IMODE(found.st_mode) == truth["mode"] & 0o777, path
        if kind == stat.S_IFREG:
            assert found.st_size == truth["size"]
            assert hashlib.sha256(mine.read_bytes()).hexdigest() == checksums(disk)[path]
    assert os.stat(top / "srv/sparse").st_blocks * 512 < 1 << 20
    again = run("virt-copy-out", "-q", "-a", disk.qcow2, "/", tmp_path, status=2)
    assert "has a root already" in again.stderr.decode()


def checksums(disk: System) -> dict[str, str | None]:
    """Checksums of files by virt-ls, whose reading is compared with the kernel's elsewhere."""
    key = str(disk.raw)
    if key not in _CHECKSUMS:
        listed = rows("virt-ls", "-R", "--checksum", "sha256", "-a", disk.raw, "/")
        _CHECKSUMS[key] = {row["path"]: row["checksum"] for row in listed}
    return _CHECKSUMS[key]


_CHECKSUMS: dict[str, dict[str, str | None]] = {}


def test_tar_out_unpacks_to_the_same_tree(disk: System, tmp_path: Path) -> None:
    archive = tmp_path / "guest.tar"
    done = run("virt-tar-out", "-q", "-a", disk.raw, "/", archive, status=3)
    assert "/srv/socket was left out" in done.stderr.decode()
    top = tmp_path / "unpacked"
    top.mkdir()
    options = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-p"]
    subprocess.run(["tar", "-x", "-C", top, *options, "-f", archive], check=True)
    for path, truth in disk.files.items():
        mine = Path(os.fsdecode(os.fsencode(top) + os.fsencode(path)))
        if stat.S_ISSOCK(truth["mode"]):
            continue
        found = os.lstat(mine)
        assert (found.st_mode, found.st_uid, found.st_gid) == (truth["mode"], truth["uid"], truth["gid"]), (
            path
        )
        assert found.st_mtime_ns == truth["modified"], path
        if stat.S_ISREG(found.st_mode):
            assert found.st_size == truth["size"]
            assert hashlib.sha256(mine.read_bytes()).hexdigest() == checksums(disk)[path]
        if stat.S_ISLNK(found.st_mode):
            assert os.readlink(mine) == truth["target"]
    assert os.path.samefile(top / "etc/passwd", top / "srv/passwd-again")
    assert os.getxattr(top / "etc/passwd", "user.comment") == b"seen \x00 and \xff"
    assert os.stat(top / "srv/sparse").st_blocks * 512 < 1 << 20
    assert os.stat(top / "dev/null").st_rdev == os.makedev(1, 3)
    assert not list(tmp_path.glob("*.unfinished*"))


def test_tar_out_streams(disk: System) -> None:
    stream = run("virt-tar-out", "-a", disk.raw, "/home/ann", "-").stdout
    listed = subprocess.run(["tar", "t"], input=stream, capture_output=True, check=True).stdout
    assert listed.split() == [b"./", b"./notes.txt"]


def test_nothing_is_written_to_an_image(disk: System) -> None:
    before = (disk.raw.stat().st_mtime_ns, disk.qcow2.stat().st_mtime_ns)
    run("virt-df", "-a", disk.raw)
    run("virt-ls", "-R", "-a", disk.qcow2, "/")
    assert (disk.raw.stat().st_mtime_ns, disk.qcow2.stat().st_mtime_ns) == before


@pytest.mark.parametrize("name", ["virt-df", "virt-filesystems"])
def test_bad_images_are_one_sentence(disk: System, tmp_path: Path, name: str) -> None:
    missing = run(name, "-a", tmp_path / "missing.img", status=2)
    assert missing.stderr.count(b"\n") == 1
    cut = tmp_path / "cut.qcow2"
    shutil.copyfile(disk.qcow2, cut)
    os.truncate(cut, 100_000)
    done = subprocess.run([BIN / name, "-a", cut], capture_output=True, check=False)
    assert done.returncode in (2, 3)
    assert b"Traceback" not in done.stderr


def test_two_clones_together_keep_all_their_volumes(disk: System, tmp_path: Path) -> None:
    clone = tmp_path / "clone.img"
    shutil.copyfile(disk.raw, clone)
    found = rows("virt-df", "-a", disk.raw, "-a", clone)
    assert len(found) == 6
    assert len({row["device"] for row in found}) == 6
