"""The lab itself: what its guests run is what its data says, and commands in them are answered exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Guest, LabError
from lab.libvirt import Libvirt
from lab.qemu import runs
from lab.userspace import PROCESSES


def test_every_process_of_the_data_runs(guest: Guest) -> None:
    running = guest.run("cat /proc/[0-9]*/comm")
    for process in PROCESSES:
        name = process.comm or process.name.encode()[:15].decode()
        assert name in running, process.name


def test_states_are_as_asked(guest: Guest) -> None:
    listed = guest.run("ps -e -o stat= -o comm=").splitlines()
    states = {
        name.strip().removesuffix(" <defunct>"): state
        for state, _, name in (line.partition(" ") for line in listed)
    }
    assert states["lab-stopped"] == "T"
    assert states["lab-zombie"] == "Z"
    assert "D" in guest.run("ps -C lab-disk -o stat=")


def test_the_orphans_group_leader_is_gone(guest: Guest) -> None:
    pid, group, session = guest.run("ps -C lab-orphan -o pid=,pgid=,sid=").split()
    assert group == session != pid
    assert guest.execute(f"test -e /proc/{group}").status == 1


def test_exit_status_and_streams_are_apart(guest: Guest) -> None:
    done = guest.execute("echo out; echo err >&2; exit 5")
    assert (done.status, done.stdout, done.stderr) == (5, b"out\n", b"err\n")
    assert guest.execute("kill -9 $$").status == 128 + signal.SIGKILL
    with pytest.raises(LabError, match=r"exited with 3: no such luck"):
        guest.run("echo no such luck >&2; exit 3")


def test_bytes_go_in_and_out_unchanged(guest: Guest) -> None:
    data = bytes(range(256)) * 4096
    assert guest.execute("cat", stdin=data).stdout == data


def test_a_background_child_does_not_keep_a_command(guest: Guest) -> None:
    assert guest.run("sleep 1000 & echo $!; echo done").split()[1] == "done"
    guest.run("killall sleep")


def test_kernel_messages_stay_out_of_the_answers(guest: Guest) -> None:
    assert guest.run("echo '<0>noise from the kernel' >/dev/kmsg; echo answer") == "answer\n"
    guest.wait_console("noise from the kernel")


def test_kernel_addresses_can_be_read(guest: Guest) -> None:
    assert int(guest.run("grep ' _text$' /proc/kallsyms").split()[0], 16) > 0xFFFFFFFF80000000
    assert "Kernel code" in guest.run("cat /proc/iomem")


def test_the_guest_ends_with_its_starter(tmp_path: Path) -> None:
    program = (
        "import time\n"
        "from lab.qemu import BareMachine\n"
        "with BareMachine(memory_mib=16) as machine:\n"
        "    print(machine.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as starter:
        assert starter.stdout
        pid = int(starter.stdout.readline())
        starter.kill()
    deadline = time.monotonic() + 120
    while runs(pid):
        assert time.monotonic() < deadline, "QEMU outlived the process that started it"
        time.sleep(0.05)


def test_without_an_agent_commands_are_refused(boot: Callable[..., Guest]) -> None:
    silent = boot("6.1-cloud", agent=None, setup="", memory_mib=128)
    assert silent.alive()
    with pytest.raises(LabError, match="no agent"):
        silent.run("true")


def test_a_domain_of_the_private_libvirtd(libvirt_daemon: Libvirt, tmp_path: Path) -> None:
    domain = libvirt_daemon.start("6.1-cloud", name="lab-domain", memory_mib=128, setup="")
    assert "lab-domain" in libvirt_daemon.virsh("list", "--name")
    assert domain.run("uname -r").strip() == domain.kernel.release
    assert os.readlink(f"/proc/{domain.pid}/exe").endswith("qemu-system-x86_64")
    assert domain.dump(tmp_path / "core").read_bytes()[:4] == b"\x7fELF"
    libvirt_daemon.virsh("destroy", "lab-domain")
