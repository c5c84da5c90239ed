"""Partition tables made by sfdisk: `make(path, DOS)`, `make(path, GPT)`."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.cache import program

DOS = """label: dos
label-id: 0x12345678
start=2048,size=20480,type=83,bootable
start=22528,size=100000,type=5
start=24576,size=2048,type=83
start=30000,size=4096,type=82
start=40000,size=4096,type=8e
start=130000,size=1000,type=7
"""

DOS_LBA_EXTENDED = """label: dos
label-id: 0xcafe0001
start=63,size=1000,type=c
start=4096,size=150000,type=f
start=6144,size=2048,type=83
"""

GPT = """label: gpt
label-id: 11111111-2222-3333-4444-555566667777
start=2048,size=2048,type=21686148-6449-6E6F-744E-656564454649,uuid=AAAAAAAA-0000-0000-0000-000000000001,name=bios
start=4096,size=20480,type=0FC63DAF-8483-4772-8E79-3D69D8477DE4,name="root fs é",attrs=LegacyBIOSBootable
9 : start=102400,size=6144,type=E6D6D379-F507-44C2-A23C-238F2A3DF928
"""


def make(path: Path, script: str, size: int = 100 << 20) -> Path:
    """A sparse disk of `size` bytes with the partition table that an sfdisk script describes."""
    with open(path, "wb") as file:
        file.truncate(size)
    subprocess.run([program("sfdisk", "fdisk"), "-q", path], input=script, text=True, check=True)
    return path
