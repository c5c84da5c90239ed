"""What running guests are called, and what is said of processes that are none."""

from __future__ import annotations

import os
import subprocess

import pytest

from virtscope.errors import GuestNotFound
from virtscope.host import guests
from virtscope.host.command_line import parse_command_line
from virtscope.host.qemu import QemuProcess, qemu_process


def test_guests_of_the_same_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        QemuProcess(pid, 0, "qemu-system-x86_64", parse_command_line(arguments))
        for pid, arguments in ((7, ["-name", "web"]), (8, ["-name", "db"]), (9, ["-name", "web"]), (10, []))
    ]
    monkeypatch.setattr(guests, "qemu_processes", lambda: iter(found))
    assert [guest.name for guest in guests.running_guests()] == ["db", "qemu-10", "web-7", "web-9"]


def test_a_qemu_that_has_ended_is_called_that() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(GuestNotFound, match="has ended: it is a zombie"):
            qemu_process(child.pid)
