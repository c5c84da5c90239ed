"""The lab: real small guests from Debian kernels, for the tests, the demonstration and the benchmarks.

    from lab import Guest

    with Guest("6.1", memory_mib=256) as guest:
        print(guest.pid, guest.run("ps -e"))

`lab/README.md` says more.
"""

from __future__ import annotations

from lab.cache import LabError, LabUnavailable
from lab.guest import Guest
from lab.kernels import Kernel, kernel

__all__ = ["Guest", "Kernel", "LabError", "LabUnavailable", "kernel"]
