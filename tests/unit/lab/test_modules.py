"""Which modules are loaded, in which order."""

from __future__ import annotations

import pytest

from lab import LabError
from lab.initrd import modules_with_dependencies

DEPENDENCIES = """\
kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz
kernel/net/802/stp.ko.xz: kernel/net/llc/llc.ko.xz
kernel/net/llc/llc.ko.xz:
kernel/drivers/net/virtio_net.ko.xz: kernel/net/core/failover.ko.xz
kernel/net/core/failover.ko.xz:
kernel/drivers/char/hw_random/virtio-rng.ko.xz:
"""
BUILTIN = "kernel/net/ipv6/ipv6.ko\nkernel/drivers/virtio/virtio_ring.ko\n"


def names(*wanted: str) -> list[str]:
    paths = modules_with_dependencies(DEPENDENCIES, BUILTIN, wanted)
    return [path.rpartition("/")[2].partition(".")[0] for path in paths]


def test_what_a_module_needs_comes_first_and_once() -> None:
    assert names("bridge", "virtio_net") == ["llc", "stp", "bridge", "failover", "virtio_net"]


def test_hyphens_and_underscores_are_the_same() -> None:
    assert names("virtio_rng") == names("virtio-rng") == ["virtio-rng"]


def test_what_is_built_in_needs_no_loading() -> None:
    assert names("ipv6", "virtio_ring") == []


def test_an_unknown_module_is_an_error() -> None:
    with pytest.raises(LabError, match="no_such_thing"):
        names("no_such_thing")
