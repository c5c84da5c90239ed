"""The disks in a domain's XML."""

from __future__ import annotations

import pytest

from virtscope.errors import GuestError
from virtscope.host.domain_disks import Disk, DiskSource, parse_disks

RUNNING = """
<domain type='kvm' id='3'>
  <name>web1</name>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='/srv/web1.qcow2' index='3'/>
      <backingStore type='file' index='4'>
        <format type='qcow2'/>
        <source file='/srv/base.qcow2'/>
        <backingStore type='block' index='5'>
          <format type='raw'/>
          <source dev='/dev/vg0/golden'/>
          <backingStore/>
        </backingStore>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <serial>WD-1</serial>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sda' bus='sata'/>
      <readonly/>
    </disk>
    <disk type='volume' device='disk'>
      <driver name='qemu' type='raw'/>
      <source pool='default' volume='data.img'/>
      <target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='network' device='lun'>
      <driver name='qemu' type='raw'/>
      <source protocol='rbd' name='pool/image'><host name='mon1' port='6789'/></source>
      <target dev='sdb' bus='scsi'/>
      <shareable/>
    </disk>
  </devices>
</domain>
"""


def test_a_running_domain_with_its_chain() -> None:
    golden = DiskSource("block", "/dev/vg0/golden", "/dev/vg0/golden", "raw", None)
    base = DiskSource("file", "/srv/base.qcow2", "/srv/base.qcow2", "qcow2", golden)
    top = DiskSource("file", "/srv/web1.qcow2", "/srv/web1.qcow2", "qcow2", base)
    assert parse_disks(RUNNING) == [
        Disk("vda", "virtio", "disk", False, "WD-1", top),
        Disk("sda", "sata", "cdrom", True, None, None),
        Disk(
            "vdb", "virtio", "disk", False, None, DiskSource("volume", None, "default/data.img", "raw", None)
        ),
        Disk("sdb", "scsi", "lun", False, None, DiskSource("network", None, "rbd:pool/image", "raw", None)),
    ]


def test_volumes_are_looked_up() -> None:
    disks = parse_disks(RUNNING, lambda pool, volume: f"/pools/{pool}/{volume}")
    assert disks[2].source is not None
    assert disks[2].source.path == "/pools/default/data.img"


def test_no_driver_means_that_the_format_is_not_known() -> None:
    text = (
        "<domain><devices><disk type='file'><source file='/a'/><target dev='hda'/></disk></devices></domain>"
    )
    assert parse_disks(text) == [
        Disk("hda", None, "disk", False, None, DiskSource("file", "/a", "/a", None, None))
    ]


def test_a_domain_without_disks() -> None:
    assert parse_disks("<domain/>") == []


@pytest.mark.parametrize("text", ["", "<domain>", "not xml"])
def test_what_does_not_parse_is_an_error(text: str) -> None:
    with pytest.raises(GuestError, match="does not parse"):
        parse_disks(text)


def test_a_chain_without_end_is_cut() -> None:
    level = "<backingStore type='file'><source file='/x'/>"
    text = (
        "<domain><devices><disk type='file'><source file='/x'/>"
        + level * 5000
        + "</backingStore>" * 5000
        + "<target dev='vda'/></disk></devices></domain>"
    )
    (disk,) = parse_disks(text)
    depth, source = 0, disk.source
    while source is not None:
        depth, source = depth + 1, source.backing
    assert depth < 1000
