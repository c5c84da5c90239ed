"""Copying that is ended early, by signals and by disks that do not answer: what is left, and what is said."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = """
import signal, sys, threading, time
from virtscope.cli import ending, main
from virtscope.fs.ext4.reader import Ext4

HOW = {how!r}
read, deadlines = Ext4.read, []

class Deadline(ending.Deadline):
    def __enter__(self):
        deadlines.append(self)
        return super().__enter__()

def slow(self, inode, offset, size):
    if offset >= 8 << 20:
        print("reading", file=sys.stderr, flush=True)
        # The time is over only now, however long all before has taken.
        if HOW == "slow":
            signal.setitimer(signal.ITIMER_REAL, 0.1)
        if HOW == "hung":  # what a disk that is gone does to a process: no signal is taken
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            threading.Thread(target=deadlines[-1]._hung).start()
        end = time.monotonic() + 500
        while time.monotonic() < end:
            time.sleep(1)
    return read(self, inode, offset, size)

ending.Deadline = Deadline
Ext4.read = slow
sys.exit(main())
"""
"""A command whose guest's disk answers for the first 8 MiB of a file, and then no more."""

LARGE = 9 << 17
"""Lines of eight bytes in a file."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guest")
    (folder / "etc").mkdir()
    (folder / "etc/passwd").write_text("root:x\n")
    (folder / "etc/large").write_bytes(b"0123456\n" * LARGE)
    path = folder.parent / "disk.img"
    with path.open("wb") as out:
        out.truncate(64 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", folder, path], check=True)
    return path


def start(*arguments: str | Path, how: str = "", nohup: bool = False) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SLOW.format(how=how), *arguments, "--timeout", "400"]
    return subprocess.Popen(
        ["nohup", *command] if nohup else command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until_it_reads(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    line = process.stderr.readline()
    while line.startswith(b"nohup:"):
        line = process.stderr.readline()
    assert line == b"reading\n", line + process.stderr.read()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", ["tar-out", "copy-out"])
def test_a_signal_leaves_nothing_unfinished(
    image: Path, tmp_path: Path, command: str, number: signal.Signals
) -> None:
    target = tmp_path / "etc.tar" if command == "tar-out" else tmp_path
    with start(command, "-a", image, "/etc", target) as process:
        wait_until_it_reads(process)
        before = files(tmp_path)
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == -number
    assert (out, err) == (b"", b"")
    if command == "tar-out":
        assert before == [f"etc.tar.unfinished-{process.pid}"]
        assert files(tmp_path) == []
    else:
        assert "etc/large" in before
        assert "etc/large" not in files(tmp_path)


def test_a_file_that_is_there_already_survives_the_signal(image: Path, tmp_path: Path) -> None:
    target = tmp_path / "etc.tar"
    target.write_bytes(b"from before")
    with start("tar-out", "-a", image, "/etc", target) as process:
        wait_until_it_reads(process)
        process.terminate()
        process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert (files(tmp_path), target.read_bytes()) == (["etc.tar"], b"from before")


def test_a_signal_that_is_ignored_stays_ignored(image: Path, tmp_path: Path) -> None:
    with start("tar-out", "-a", image, "/etc", tmp_path / "etc.tar", nohup=True) as process:
        wait_until_it_reads(process)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert files(tmp_path) == []


@pytest.mark.parametrize("how", ["slow", "hung"])
@pytest.mark.parametrize("command", ["cat", "tail", "tar-out", "copy-out"])
def test_a_disk_that_does_not_answer_is_given_up(image: Path, tmp_path: Path, command: str, how: str) -> None:
    arguments: dict[str, list[str | Path]] = {
        "cat": ["/etc/passwd", "/etc/large"],
        "tail": ["-n", "1000000", "/etc/large"],
        "tar-out": ["/etc", tmp_path / "etc.tar"],
        "copy-out": ["/etc", tmp_path],
    }
    with start(command, "-a", image, *arguments[command], how=how) as process:
        out, err = process.communicate()
    said = f"virt-{command}: {image}: gave up after 400 seconds (raise --timeout to wait longer)\n"
    assert err.decode() == f"reading\n{said}"
    assert out == (b"root:x\n" + b"0123456\n" * (1 << 20) if command == "cat" else b"")
    # What is out already is a partial answer; half a tar file is none.
    assert process.returncode == (3 if command in ("cat", "copy-out") else 2)
    assert set(files(tmp_path)) <= {"etc", "etc/passwd"}
