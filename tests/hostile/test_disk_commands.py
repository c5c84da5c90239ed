"""The disk commands against images that were made to harm: what comes out on the host, on the terminal, and
as the exit code.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent

pytestmark = pytest.mark.xdist_group("hostile-disk-commands")


def run(name: str, *arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / name), *map(str, arguments)]
    given = {"capture_output": True, "timeout": 600} | options
    done: subprocess.CompletedProcess[str]
    done = subprocess.run(command, check=False, text=True, errors="surrogateescape", **given)  # type: ignore[call-overload]
    assert "Traceback" not in (done.stderr or "")
    return done


def image(folder: Path, *, debugfs: str = "", fstab: str = "LABEL=r / ext4 defaults 0 1\n") -> Path:
    """A small system on ext4, changed by the lines of `debugfs`."""
    files = folder / "files"
    for directory in ("etc", "d/sub"):
        (files / directory).mkdir(parents=True)
    (files / "etc/os-release").write_text("NAME=x\n")
    (files / "etc/passwd").write_text("root:x:0:0\n")
    (files / "etc/fstab").write_text(fstab)
    (files / "d/f").write_text("hi\n")
    (files / "d/escaping").symlink_to("../../../../../etc/passwd")
    os.link(files / "d/f", files / "d/g")
    made = folder / "disk.img"
    with made.open("wb") as out:
        out.truncate(16 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-L", "r", "-d", files, made], check=True)
    if debugfs:
        done = subprocess.run(
            ["debugfs", "-w", "-f", "-", made], input=debugfs, capture_output=True, text=True, check=True
        )
        errors = [line for line in done.stderr.splitlines() if not line.startswith("debugfs ")]
        assert errors == []
    return made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a filesystem of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "none", folder], check=False)
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_directories_that_lead_in_circles_end_and_are_told(tmp_path: Path) -> None:
    disk = image(tmp_path, debugfs="link <2> /d/root\nlink /d/sub /etc/again\n")
    for name, more in (
        ("virt-ls", ["-R", "/"]),
        ("virt-copy-out", ["/", tmp_path]),
        ("virt-tar-out", ["/", "-"]),
    ):
        done = run(name, "-a", disk, *more)
        assert done.returncode == 3
        assert "/d/root was left out: it is another name of a directory" in done.stderr
        assert "/etc/again was left out" in done.stderr
    assert (tmp_path / "root/d/f").read_text() == "hi\n"


def test_directories_deeper_than_the_stack_of_python(tmp_path: Path) -> None:
    disk = image(tmp_path, debugfs="mkdir x\ncd x\n" * 600)
    done = run("virt-copy-out", "-q", "-a", disk, "/", tmp_path)
    assert done.returncode == 3
    assert "was left out: it is more than 512 levels deep" in done.stderr
    assert (tmp_path / "root/etc/passwd").exists()
    assert run("virt-tar-out", "-q", "-a", disk, "/", tmp_path / "out.tar").returncode == 0
    listed = subprocess.run(["tar", "tf", tmp_path / "out.tar"], capture_output=True, text=True, check=True)
    assert "./" + "x/" * 600 in listed.stdout.splitlines()


def test_two_entries_of_one_name_never_lead_a_write_through_the_first(tmp_path: Path) -> None:
    disk = image(tmp_path, debugfs="symlink /d/one /nosuch\nmkdir /d/two\nwrite /etc/hostname /d/two/in\n")
    content = bytearray(disk.read_bytes())
    at = content.index(b"\x03\x02two")
    content[at + 2 : at + 5] = b"one"
    disk.write_bytes(content)
    out = tmp_path / "out"
    out.mkdir()
    done = run("virt-copy-out", "-a", disk, "/d", out)
    assert done.returncode == 3
    assert "/d/one was not copied: File exists" in done.stderr
    assert os.readlink(out / "d/one") == "/nosuch"
    assert not os.path.exists("/nosuch")


def test_sizes_beyond_all_disks_cost_no_time(tmp_path: Path) -> None:
    disk = image(tmp_path, debugfs="set_inode_field /d/g size 0x7ffffffffffff000\n")
    done = run("virt-copy-out", "-a", disk, "/d", tmp_path)
    assert done.returncode == 3
    assert "/d/f was not copied: File too large" in done.stderr
    assert sorted(os.listdir(tmp_path / "d")) == ["escaping", "sub"]
    assert run("virt-tar-out", "-a", disk, "/d", tmp_path / "out.tar").returncode == 0
    assert (tmp_path / "out.tar").stat().st_size < 1 << 20
    late = run("virt-ls", "--checksum", "md5", "--timeout", "0.5", "-a", disk, "/d/g")
    assert late.returncode == 2
    assert "gave up after 0.5 seconds" in late.stderr


def test_names_that_act_on_a_terminal_are_escaped_everywhere(tmp_path: Path) -> None:
    bad = "\x1b[31mred"
    disk = image(tmp_path, fstab=f"LABEL={bad} /{bad} ext4 defaults 0 0\n")
    subprocess.run(["e2label", disk, bad], check=True)
    for name, arguments in (
        ("virt-filesystems", ["--all", "--long"]),
        ("virt-filesystems", ["--all", "--long", "--csv"]),
        ("virt-df", ["-o", "device,label"]),
        ("virt-df", ["--json"]),
        ("virt-ls", [f"/{bad}"]),
        ("virt-ls", ["/"]),
        ("virt-stat", ["--", f"/d/{bad}"]),
        ("virt-cat", [f"/{bad}"]),
    ):
        done = run(name, "-a", disk, *arguments)
        assert "\x1b" not in done.stdout + done.stderr
    assert json.loads(run("virt-df", "--json", "-a", disk).stdout)["rows"][0]["label"] == bad


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("rm /etc/fstab\nsymlink /etc/fstab /etc/fstab\n", ""),
        ("rm /etc/fstab\nmkdir /etc/fstab\n", "it is a directory"),
        ("set_inode_field /etc/fstab mode 0020644\n", "it is a character device"),
        ("set_inode_field /etc/fstab size 0x7ffffffffff\n", ""),
        ("clri /etc/fstab\n", "/etc/fstab cannot be read"),
    ],
)
def test_files_are_read_whatever_fstab_is(tmp_path: Path, change: str, told: str) -> None:
    done = run("virt-cat", "-a", image(tmp_path, debugfs=change), "/etc/passwd")
    assert (done.returncode, done.stdout) == (0, "root:x:0:0\n")
    assert told in done.stderr


def test_mounts_of_a_root_in_itself_end(tmp_path: Path) -> None:
    lines = "LABEL=r / ext4 defaults 0 0\nLABEL=r /d ext4 defaults 0 0\nLABEL=r /etc/passwd ext4 x 0 0\n"
    disk = image(tmp_path, fstab=lines + "LABEL=r /d/d/d ext4 defaults 0 0\n" * 2000)
    done = run("virt-ls", "-R", "-a", disk, "/d/d/d/d")
    assert "passwd" in done.stdout.split()
    assert "nothing was mounted on /etc/passwd: /etc/passwd: this is not a directory" in done.stderr
    assert "only the first 1000 of 2003 mounts" in done.stderr


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path, small_disk: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(3 << 20))
    disk = image(tmp_path, debugfs=f"write {large} /d/large\n")
    done = run("virt-copy-out", "-a", disk, "/d", small_disk)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "No space left on device" in done.stderr
    assert not (small_disk / "d/large").exists()
    done = run("virt-tar-out", "-a", disk, "/d/large", small_disk / "out.tar")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert os.listdir(small_disk) == ["d"]
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for name, target in (("virt-copy-out", small_disk), ("virt-tar-out", small_disk / "out.tar")):
        done = run(name, "-a", disk, "/etc", target)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "Read-only file system" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["virt-df"],
        ["virt-df", "--json"],
        ["virt-ls", "/"],
        ["virt-cat", "/etc/passwd"],
        ["virt-tail", "/etc/passwd"],
        ["virt-tar-out", "/", "-"],
    ],
)
def test_an_output_that_is_full_is_one_sentence(tmp_path: Path, command: list[str]) -> None:
    disk = image(tmp_path)
    with open("/dev/full", "w") as full:
        done = run(
            command[0], "-a", disk, *command[1:], capture_output=False, stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 2
    assert done.stderr == f"{command[0]}: standard output cannot be written: No space left on device\n"


def test_a_tar_stream_goes_into_what_is_no_file_and_does_not_replace_it(tmp_path: Path) -> None:
    disk = image(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["tar", "t", "-f", pipe], stdout=subprocess.PIPE, text=True)
    assert run("virt-tar-out", "-a", disk, "/etc", pipe).returncode == 0
    assert "./passwd" in reader.communicate(timeout=300)[0].split()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    link = tmp_path / "link.tar"
    link.symlink_to(tmp_path / "real.tar")
    assert run("virt-tar-out", "-a", disk, "/etc", link).returncode == 0
    assert link.is_symlink()
    assert (tmp_path / "real.tar").stat().st_size > 0


def test_an_interrupt_ends_a_stream_quietly(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(8 << 20))
    disk = image(tmp_path, debugfs=f"write {large} /d/large\n")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # A pipe that nobody reads on from stops the stream half-way for certain.
    process = subprocess.Popen(
        [BIN / "virt-tar-out", "-a", disk, "/d", pipe], stderr=subprocess.PIPE, process_group=0
    )
    with pipe.open("rb") as stream:
        stream.read(1000)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode in (130, 141)
    assert b"Traceback" not in stderr


def test_one_bad_image_costs_its_line_and_not_the_run(tmp_path: Path) -> None:
    disk = image(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    luks = tmp_path / "luks.img"
    luks.write_bytes(b"LUKS\xba\xbe\x00\x02" + bytes(1 << 20))
    blank = tmp_path / "blank.img"
    blank.write_bytes(bytes(1 << 20))
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run("virt-df", pipe, luks, blank, empty, disk, "--json")
    assert done.returncode == 3
    document = json.loads(done.stdout)
    assert [row["guest"] for row in document["rows"]] == [str(disk)]
    assert [error["guest"] for error in document["errors"]] == [str(pipe), str(luks), str(empty)]


def test_an_image_cut_short_says_what_is_missing(tmp_path: Path) -> None:
    disk = image(tmp_path)
    os.truncate(disk, 4096)
    for name, more in (("virt-df", []), ("virt-ls", ["/"]), ("virt-cat", ["/etc/passwd"])):
        done = run(name, "-q", "-a", disk, *more)
        assert done.returncode in (2, 3)
        assert done.stderr.count("\n") == 1
        assert "truncated" in done.stderr


def test_an_image_that_may_not_be_read(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("takes root, to be somebody else")
    disk = image(tmp_path)
    disk.chmod(0o600)
    command = f"setpriv --reuid 65534 --regid 65534 --clear-groups {BIN}/virt-df -a disk.img"
    tmp_path.chmod(0o755)
    done = run("virt-df", "-a", disk)
    assert done.returncode == 0
    denied = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert denied.returncode == 2
    assert denied.stderr == "virt-df: disk.img may not be read by this user\n"
