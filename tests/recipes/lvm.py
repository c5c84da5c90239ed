"""LVM disks made by the real lvm tools in a real guest: `plain()`, `thin()`, `cached()`.

The host's kernel may have no device-mapper, so the tools of the host are packed into a lab guest. Every
logical volume is written inside the guest; its size and hash, read inside through the kernel, are kept beside
the disks:

    disk0.img ... disk5.img    one physical volume each
    volumes.json               {"/dev/VG/LV": [size in bytes, SHA-256]}
    tables.txt                 what dmsetup and lvs say of them
    build.log                  what the tools said
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from lab import Guest
from lab.cache import made_once, program, root

MODULES = (
    "virtio_blk",
    "crc32c_generic",
    "dm-mod",
    "dm-thin-pool",
    "dm-snapshot",
    "dm-mirror",
    "raid1",
    "raid10",
    "raid456",
    "raid0",
    "dm-raid",
    "dm-cache",
    "dm-cache-smq",
)

DISKS = 6
DISK_SIZE = 160 << 20

# fill VG/LV WORD FROM TO, put VG/LV WORD AT-4K-BLOCK TO: lines of text no two of which are alike, so that no
# two blocks are; what does not fit is cut off.
_PREPARE = r"""
export DM_DISABLE_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1
mkdir -p /etc/lvm /run/lock/lvm /var/lock
cat > /etc/lvm/lvm.conf <<END
devices { obtain_device_list_from_udev = 0  use_devicesfile = 0 }
activation { udev_sync = 0  udev_rules = 0  verify_udev_operations = 1  monitoring = 0 }
global { thin_check_executable = ""  cache_check_executable = ""  use_lvmpolld = 0 }
END
lines() { seq $3 $4 | sed "s|^|$2 of $1, line |"; }
fill() { lines $1 $2 $3 $4 | dd of=/dev/$1 bs=64k conv=notrunc 2>/dev/null || true; }
put() { lines $1 $2 1 $4 | dd of=/dev/$1 bs=4k seek=$3 conv=notrunc 2>/dev/null || true; }
until_synced() {
  for i in $(seq 200); do
    dmsetup status | grep -E ' raid | mirror ' | grep -vqE ' idle | ([0-9]+)/\1 ' || break
    sleep 0.1
  done
}
disks="/dev/vda /dev/vdb /dev/vdc /dev/vdd /dev/vde /dev/vdf"
"""

_PLAIN = r"""
lvm vgcreate -s 1m plain $disks
lvm lvcreate -y -W n -n linear -L 8m plain /dev/vda
lvm lvcreate -y -W n -n spread -l 200 plain
lvm lvextend -y -L +3m plain/linear /dev/vdc
lvm lvcreate -y -W n -n stripes -i 3 -I 16k -L 9m plain
lvm lvextend -y -i 2 -I 64k -L +4m plain/stripes /dev/vde /dev/vdf
lvm lvcreate -y -W n -n mirror --type mirror --mirrorlog core -m 1 -L 5m plain
lvm lvcreate -y -W n -n raid0 --type raid0 -i 3 -I 32k -L 6m plain
lvm lvcreate -y -W n -n raid1 --type raid1 -m 2 -L 5m plain
lvm lvcreate -y -W n -n raid10 --type raid10 -i 2 -m 1 -I 64k -L 8m plain
lvm lvcreate -y -W n -n raid4 --type raid4 -i 3 -I 64k -L 6m plain
for kind in raid5_la raid5_ra raid5_ls raid5_rs raid5_n raid6_zr raid6_nr raid6_nc raid6_n_6; do
  lvm lvcreate -y -W n -n $kind --type $kind -i 3 -I 16k -L 6m plain
done
lvm lvcreate -y -W n -n name-with-dashes -L 2m plain
until_synced
for path in /dev/plain/*; do
  fill plain/${path##*/} first 1 150000
done
fill plain/spread long 1 600000
put plain/spread late 40000 200000
lvm lvcreate -y -n before -s -L 4m -c 16k plain/linear
lvm lvcreate -y -n later -s -L 4m -c 4k plain/linear
put plain/linear changed 100 9000
put plain/later own 300 4000
put plain/before own 700 3000
lvm lvcreate -y -W n -n asleep -L 2m plain
fill plain/asleep first 1 20000
"""

_THIN = r"""
lvm vgcreate -s 1m thin $disks
lvm lvcreate -y --type thin-pool -n pool -L 60m --poolmetadatasize 2m -c 64k -Z y thin
lvm lvcreate -y -V 300m -T thin/pool -n first
lvm lvcreate -y -V 40m -T thin/pool -n second
fill thin/first one 1 300000
put thin/first far 60000 50000
fill thin/second one 1 100000
lvm lvcreate -y -kn -s -n shot thin/first
put thin/first after 50 30000
put thin/shot own 1000 20000
lvm lvcreate -y -W n -n base -L 12m thin
fill thin/base base 1 200000
lvm lvchange -an thin/base
lvm lvchange -pr thin/base
lvm lvcreate -y -kn -s --thinpool thin/pool -n outside thin/base
put thin/outside own 500 10000
lvm lvcreate -y --type raid1 -m 1 -n rmeta_pool -L 20m thin
until_synced
lvm lvcreate -y -W n -n meta2 -L 2m thin
lvm lvconvert -y --type thin-pool -c 128k --poolmetadata thin/meta2 thin/rmeta_pool
lvm lvcreate -y -V 30m -T thin/rmeta_pool -n on_raid
fill thin/on_raid one 1 150000
"""

_CACHE = r"""
lvm vgcreate -s 1m cached $disks
lvm lvcreate -y -W n -n through -L 8m cached /dev/vda
lvm lvcreate -y --type cache --cachemode writethrough -n c1 -L 8m cached/through /dev/vdb
fill cached/through one 1 200000
lvm lvcreate -y -W n -n back -L 8m cached /dev/vda
lvm lvcreate -y --type cache --cachemode writeback -n c2 -L 8m cached/back /dev/vdb
fill cached/back one 1 200000
"""

_CONVERTED = r"""
lvm vgcreate -s 1m converted $disks
for kind in la ra ls rs; do
  lvm lvcreate -y -W n -n raid6_$kind --type raid5_$kind -i 3 -I 16k -L 6m converted
done
lvm lvcreate -y -W n -n grown -L 6m converted
lvm lvcreate -y -W n -n mirrored --type raid1 -m 1 -L 6m converted
until_synced
for path in /dev/converted/*; do fill converted/${path##*/} first 1 250000; done
for kind in la ra ls rs; do lvm lvconvert -y --type raid6_${kind}_6 converted/raid6_$kind; done
lvm lvconvert -y -m 1 --type raid1 converted/grown
until_synced
put converted/grown later 300 9000
lvm lvcreate -y -n shot -s -L 2m -c 8k converted/mirrored
put converted/mirrored later 300 9000
"""

_FINISH = r"""
sync
for vg in $(lvm vgs --noheadings -o vg_name); do
  lvm vgchange -ay -K $vg >&2
  for path in $(lvm lvs --noheadings -o lv_path,lv_active $vg | awk '$2=="active"{print $1}'); do
    echo "$path $(blockdev --getsize64 $path) $(sha256sum < $path | cut -c1-64)"
  done
done
"""


def packed_programs(*paths: str) -> bytes:
    """A tar archive of programs of the host and the libraries they load, to be unpacked in a guest's root."""
    files: dict[str, str] = {}
    for path in paths:
        host = os.path.realpath(path)
        files[path] = host
        listed = subprocess.run(["ldd", host], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", listed):
            files[library] = os.path.realpath(library)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, host in files.items():
            archive.add(host, arcname=name.lstrip("/"))
    return packed.getvalue()


def plain() -> Path:
    """A volume group of linear, striped, mirrored and RAID volumes and old-style snapshots on six disks."""
    return _made("lvm-plain", _PLAIN)


def thin() -> Path:
    """A volume group of thin pools, thin volumes, thin snapshots and an external origin on six disks."""
    return _made("lvm-thin", _THIN)


def cached() -> Path:
    """A volume group with a write-through and a write-back cached volume on six disks."""
    return _made("lvm-cached", _CACHE)


def converted() -> Path:
    """A volume group of RAID volumes that were made from others, and a snapshot of one, on six disks."""
    return _made("lvm-converted", _CONVERTED)


def disks(folder: Path) -> Sequence[Path]:
    """The disks of a made folder, in order."""
    return sorted(folder.glob("disk*.img"))


def volumes(folder: Path) -> dict[str, tuple[int, str]]:
    """What the guest's kernel read: device path -> size and SHA-256."""
    found: dict[str, list[object]] = json.loads((folder / "volumes.json").read_text())
    return {path: (int(str(size)), str(digest)) for path, (size, digest) in found.items()}


def _made(name: str, script: str) -> Path:
    recipe = repr((DISKS, DISK_SIZE, MODULES, _PREPARE, script, _FINISH))
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    return made_once(root() / "fixtures" / f"{name}-{digest}", lambda target: _make(target, script))


def _make(target: Path, script: str) -> None:
    target.mkdir()
    arguments = []
    for index in range(DISKS):
        with open(target / f"disk{index}.img", "wb") as file:
            file.truncate(DISK_SIZE)
        drive = f"file={target}/disk{index}.img,format=raw,if=virtio,cache=unsafe,discard=unmap"
        arguments += ["-drive", drive]
    tools = packed_programs(program("lvm", "lvm2"), program("dmsetup", "dmsetup"))
    with Guest("6.1", monitor=False, direct=True, setup="", modules=MODULES, args=arguments) as guest:
        guest.run("tar x -C /", stdin=tools)
        done = guest.execute(f"set -e\n{_PREPARE}{script}", timeout=400)
        (target / "build.log").write_bytes(done.stdout + done.stderr)
        if done.status:
            raise RuntimeError((done.stdout + done.stderr).decode(errors="replace")[-3000:])
        finished = guest.run(f"{_PREPARE}{_FINISH}", timeout=200)
        tables = guest.run(f"{_PREPARE} dmsetup table; lvm lvs -a -o+devices,seg_type 2>/dev/null")
        guest.run(f"{_PREPARE} lvm vgchange -an; sync", timeout=100)
    found = {path: [int(size), digest] for path, size, digest in map(str.split, finished.splitlines())}
    (target / "tables.txt").write_text(tables)
    (target / "volumes.json").write_text(json.dumps(found, indent=1))
