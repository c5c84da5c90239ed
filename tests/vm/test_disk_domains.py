"""The disks of libvirt domains, running or not, while QEMU holds its locks on them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab.cache import LabError

if TYPE_CHECKING:
    from lab.libvirt import Libvirt

BIN = Path(sys.executable).parent

pytestmark = pytest.mark.xdist_group("libvirt")

_NETWORK = """<disk type='network' device='disk'><driver name='qemu' type='raw'/>
<source protocol='nbd' name='x'><host name='localhost' port='1'/></source>
<target dev='vdb' bus='virtio'/></disk>"""


def define(daemon: Libvirt, folder: Path, name: str, disks: str) -> None:
    description = folder / f"{name}.xml"
    description.write_text(
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>"
        "<emulator>/usr/bin/qemu-system-x86_64</emulator>"
        f"<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>{disks}</devices></domain>"
    )
    daemon.virsh("define", str(description))


def test_domains_running_or_not(libvirt_daemon: Libvirt, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/passwd").write_text("root:x\n")
    base, disk = tmp_path / "base.img", tmp_path / "disk.qcow2"
    with base.open("wb") as out:
        out.truncate(16 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", folder, base], check=True)
    # The backing file is in another folder, which only a configuration that is trusted may name.
    lower = folder / "lower.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", base, lower], check=True)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(lower), str(disk)]
    subprocess.run(command, check=True)
    file = (
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
        f"<source file='{disk}'/><target dev='vda' bus='virtio'/></disk>"
    )
    for name, disks in (("disk-web", file), ("disk-mixed", file + _NETWORK), ("disk-net", _NETWORK)):
        define(libvirt_daemon, tmp_path, name, disks)

    def run(name: str, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [BIN / name, "-c", libvirt_daemon.uri, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        return done

    def usage(*arguments: str, status: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run("virt-df", "--json", *arguments, status=status).stdout)
        return found

    try:
        [off] = usage("-d", "disk-web")["rows"]
        assert (off["guest"], off["device"], off["type"]) == ("disk-web", "/dev/sda", "ext4")
        mixed = usage("-d", "disk-mixed", status=3)
        assert len(mixed["rows"]) == 1
        assert "disk vdb is nbd:x" in mixed["errors"][0]["message"]
        only = run("virt-df", "-d", "disk-net", status=2).stderr
        assert only.startswith("virt-df: disk-net has no disks that can be read: disk vdb is nbd:x")
        libvirt_daemon.virsh("start", "disk-web")
        [on] = usage("-d", "disk-web")["rows"]
        assert on == off
        assert "disk-web" in [row["guest"] for row in usage()["rows"]]
        assert run("virt-cat", "-d", "disk-web", "/etc/passwd").stdout == "root:x\n"
        assert "etc" in run("virt-ls", "-d", "disk-web", "--mount", "/dev/vda:/", "/").stdout.split()
        assert "has no domain" in run("virt-df", "-d", "nosuch", status=2).stderr
    finally:
        left = [("destroy", "disk-web"), *(("undefine", f"disk-{name}") for name in ("web", "mixed", "net"))]
        for arguments in left:
            with contextlib.suppress(LabError):
                libvirt_daemon.virsh(*arguments)
