"""Deadlines: work that takes too long, readers that swallow errors, system calls that nothing interrupts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO, cast

import pytest

from virtscope.cli.deadline import Deadline, Expired
from virtscope.cli.tar_out import _Unhurried


def test_work_in_time_is_left_alone() -> None:
    with Deadline(60) as deadline:
        assert list(deadline.each(iter([1, 2, 3]))) == [1, 2, 3]
    with Deadline(None) as deadline:
        assert list(deadline.each([])) == []


def test_no_reader_takes_the_end_for_an_error_of_its_own() -> None:
    def read() -> None:
        try:
            time.sleep(10)
        except Exception:
            pytest.fail("this is what a reader catches")

    with pytest.raises(Expired), Deadline(0.05):
        read()


def test_each_row_has_its_own_time_and_waiting_for_the_reader_is_none() -> None:
    def rows() -> Iterator[int]:
        yield 1
        yield 2
        time.sleep(10)

    seen = []

    def show(deadline: Deadline) -> None:
        for row in deadline.each(rows()):
            seen.append(row)
            time.sleep(1.2)

    with pytest.raises(Expired), Deadline(1) as deadline:
        show(deadline)
    assert seen == [1, 2]


class Sleepy:
    def write(self, data: bytes) -> None:
        time.sleep(1.5)


def test_who_takes_a_stream_may_take_as_long_as_it_likes() -> None:
    with Deadline(1) as deadline:
        _Unhurried(cast(BinaryIO, Sleepy()), deadline).write(b"data")
        with pytest.raises(Expired):  # but then it is the guest's turn again
            time.sleep(60)
    with Deadline(2) as deadline:
        for _ in range(3):
            time.sleep(0.8)
            deadline.restart()


_HUNG = """
import signal, sys, time
from virtscope.cli.command import Column, Command, Guests, Line
import virtscope.cli.deadline as deadline
deadline._GRACE_SECONDS = 0.1

def rows(guest, args):
    # What a disk that is gone does to a process: no signal is taken.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    if STREAMS:
        yield "one"
    end = time.monotonic() + 100
    while time.monotonic() < end:
        time.sleep(1)

command = Command("virt-x", "x", "X.", guests=Guests.DISK, rows=rows, streams=STREAMS,
    text=(lambda rows, args: (Line(row) for row in rows)) if STREAMS else None,
    columns=() if STREAMS else (Column("a", "A", str, "a"),))
sys.exit(command.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("streams", [False, True])
def test_a_guest_whose_disk_never_answers_is_given_up(streams: bool) -> None:
    arguments = ["-a", "disk.img", "--timeout", "2", *(["--color", "never"] if streams else ["--json"])]
    command = [sys.executable, "-c", f"STREAMS = {streams}\n{_HUNG}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == (3 if streams else 2)
    assert done.stderr == "virt-x: disk.img: gave up after 2 seconds (raise --timeout to wait longer)\n"
    if streams:
        assert done.stdout == "one\n"
    else:
        [error] = json.loads(done.stdout)["errors"]
        assert error["guest"] == "disk.img"
