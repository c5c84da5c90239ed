"""Domains of a real libvirtd: finding them, their memory, their monitors and their disks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.libvirt import Libvirt
from tests.vm.paused_qemu import MIB, mark
from virtscope.errors import GuestNotFound, MissingDependency, MonitorError
from virtscope.host import libvirt as host_libvirt
from virtscope.host.domain_disks import Disk, DiskSource
from virtscope.host.guests import RunningGuest, guest_of_domain, running_guests
from virtscope.host.libvirt import Connection, PassthroughMonitor
from virtscope.memory import open_memory

TWO_NODES = """
<cpu><numa>
  <cell id='0' cpus='0' memory='64' unit='MiB'/>
  <cell id='1' cpus='1' memory='64' unit='MiB'/>
</numa></cpu>
"""


def xml(
    name: str, mib: int, *, cpus: int = 1, more: str = "", devices: str = "", marks: Sequence[int] = ()
) -> str:
    arguments = [
        argument
        for address in marks
        for argument in (
            "-device",
            f"loader,addr={address:#x},data={int.from_bytes(mark(address), 'little'):#x},data-len=8",
        )
    ]
    command = "".join(f"<qemu:arg value='{argument}'/>" for argument in arguments)
    return f"""
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid.uuid4()}</uuid>
  <memory unit='MiB'>{mib}</memory>
  <vcpu>{cpus}</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  {more}
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator><memballoon model='none'/>{devices}</devices>
  <qemu:commandline>{command}</qemu:commandline>
</domain>
"""


@contextmanager
def domain(daemon: Libvirt, folder: Path, name: str, text: str) -> Iterator[RunningGuest]:
    """A domain that is started but does not run."""
    path = folder / f"{name}.xml"
    path.write_text(text)
    daemon.virsh("create", "--paused", str(path))
    guest = guest_of_domain(name, daemon.uri)
    assert guest.pid is not None
    try:
        yield guest
    finally:
        os.kill(guest.pid, signal.SIGKILL)  # destroying it would first wait for a guest that does not run


def is_tainted_by_monitor(daemon: Libvirt, name: str) -> bool:
    import libvirt

    connection = libvirt.openReadOnly(daemon.uri)
    try:
        messages = connection.lookupByName(name).messages()
    finally:
        connection.close()
    return any("monitor" in message for message in messages)


def test_memory_of_a_domain_without_touching_its_monitor(libvirt_daemon: Libvirt, tmp_path: Path) -> None:
    marks = [MIB, 64 * MIB - 8]
    with domain(libvirt_daemon, tmp_path, "plain", xml("plain", 64, marks=marks)) as guest:
        assert guest.name == "plain"
        assert guest.process is not None
        assert guest.process.command_line.name == "plain"
        assert guest_of_domain(str(guest.uuid), libvirt_daemon.uri) == guest
        with guest.open_memory() as memory:
            assert [memory.read(address, 8) for address in marks] == [mark(address) for address in marks]
            assert memory.notes == ()
            assert not is_tainted_by_monitor(libvirt_daemon, "plain")
            assert memory.page_roots() == ()  # asked through libvirt: no vCPU has paging on yet
            assert memory.notes == ()


def test_a_dump_by_virsh(libvirt_daemon: Libvirt, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    with domain(libvirt_daemon, tmp_path, "dumped", xml("dumped", 64, marks=[MIB, 64 * MIB - 8])):
        libvirt_daemon.virsh("dump", "--memory-only", "dumped", str(path))
    with open_memory(path) as memory:
        assert memory.read(MIB, 8) == mark(MIB)
        assert memory.read(64 * MIB - 8, 8) == mark(64 * MIB - 8)


def test_a_layout_in_doubt_is_asked_through_libvirt(libvirt_daemon: Libvirt, tmp_path: Path) -> None:
    marks = [MIB, 64 * MIB, 128 * MIB - 8]
    text = xml("nodes", 128, cpus=2, more=TWO_NODES, marks=marks)
    with domain(libvirt_daemon, tmp_path, "nodes", text) as guest, guest.open_memory() as memory:
        assert [memory.read(address, 8) for address in marks] == [mark(address) for address in marks]
        assert memory.notes == ()
        assert is_tainted_by_monitor(libvirt_daemon, "nodes")


def test_the_monitor_of_a_domain(libvirt_daemon: Libvirt, tmp_path: Path) -> None:
    with (
        domain(libvirt_daemon, tmp_path, "asked", xml("asked", 32)) as guest,
        guest.open_monitor(timeout=30) as monitor,
    ):
        assert monitor.execute("query-name") == {"name": "asked"}
        assert "7fff" not in monitor.human("info name")
        assert monitor.human("info name").strip() == "asked"
        with pytest.raises(MonitorError, match="no-such-command"):
            monitor.execute("no-such-command")


def test_all_running_guests_of_a_connection(libvirt_daemon: Libvirt, tmp_path: Path) -> None:
    with (
        domain(libvirt_daemon, tmp_path, "second", xml("second", 32)) as second,
        domain(libvirt_daemon, tmp_path, "first", xml("first", 32)) as first,
    ):
        found = running_guests(libvirt_daemon.uri)
        assert [guest for guest in found if guest.name in ("first", "second")] == [first, second]
        assert all(guest.domain is not None for guest in found)


def test_disks_of_running_and_stopped_domains(libvirt_daemon: Libvirt, tmp_path: Path) -> None:
    base, top = tmp_path / "base.img", tmp_path / "top.qcow2"
    base.write_bytes(bytes(MIB))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top], check=True)
    devices = f"""
      <disk type='file' device='disk'>
        <driver name='qemu' type='qcow2'/><source file='{top}'/><target dev='vda' bus='virtio'/>
      </disk>
      <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
    """
    empty = Disk("sda", "sata", "cdrom", True, None, None)
    with (
        domain(libvirt_daemon, tmp_path, "disks", xml("disks", 32, devices=devices)) as guest,
        Connection(libvirt_daemon.uri) as connection,
    ):
        assert guest.domain is not None
        below = DiskSource("file", str(base), str(base), "raw", None)
        source = DiskSource("file", str(top), str(top), "qcow2", below)
        assert connection.disks(guest.domain) == [Disk("vda", "virtio", "disk", False, None, source), empty]

    (tmp_path / "stopped.xml").write_text(xml("stopped", 32, devices=devices))
    libvirt_daemon.virsh("define", str(tmp_path / "stopped.xml"))
    try:
        with Connection(libvirt_daemon.uri) as connection:
            assert "stopped" not in [row.name for row in connection.domains()]
            (row,) = [row for row in connection.domains(running_only=False) if row.name == "stopped"]
            assert not row.is_running
            source = DiskSource("file", str(top), str(top), "qcow2", None)
            assert connection.disks(row) == [Disk("vda", "virtio", "disk", False, None, source), empty]
        with pytest.raises(GuestNotFound, match="not running"):
            guest_of_domain("stopped", libvirt_daemon.uri)
    finally:
        libvirt_daemon.virsh("undefine", "stopped")


def test_a_domain_that_ends_under_the_monitor(libvirt_daemon: Libvirt, tmp_path: Path) -> None:
    with domain(libvirt_daemon, tmp_path, "gone", xml("gone", 32)) as guest:
        assert guest.domain is not None
        row = guest.domain
    while row.name in libvirt_daemon.virsh("list", "--name").split():
        time.sleep(0.05)
    with pytest.raises(GuestNotFound, match=r"gone|no domain"):
        PassthroughMonitor(row, 10)


def test_no_such_domain(libvirt_daemon: Libvirt, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GuestNotFound, match="no domain 'nothing'"):
        guest_of_domain("nothing", libvirt_daemon.uri)
    assert capfd.readouterr() == ("", "")  # libvirt would print its errors


def test_a_daemon_that_is_not_there_or_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "socket"
    uri = f"qemu+unix:///system?socket={path}"
    with pytest.raises(GuestNotFound, match="is libvirtd or virtqemud running"):
        guest_of_domain("any", uri)
    monkeypatch.setattr(host_libvirt, "_TIMEOUT", 0.2)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(GuestNotFound, match="did not answer"):
            running_guests(uri)


def test_a_connection_that_is_none() -> None:
    with pytest.raises(GuestNotFound, match="cannot connect"):
        running_guests("nonsense://")


def test_domains_that_no_qemu_of_this_host_runs() -> None:
    guests = running_guests("test:///default")
    assert [(guest.name, guest.pid) for guest in guests] == [("test", None)]
    with pytest.raises(GuestNotFound, match="no QEMU process"):
        guests[0].open_memory()


def test_without_libvirt_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(MissingDependency, match=r"pip install 'virtscope\[libvirt\]'"):
        guest_of_domain("any")
