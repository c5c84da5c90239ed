"""Starting domains that live no longer than we do, through libvirt: containers and machines of a sandbox.

A domain is created with the flag that makes libvirt destroy it when our connection ends, so that it cannot
outlive us even if we are killed. Entry point: `TransientDomain`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from virtscope.errors import GuestError, GuestNotFound
from virtscope.host import libvirt as host_libvirt

CREATION_PATIENCE = 60.0
_PATIENCE = 10.0


class TransientDomain:
    """A domain that is created now and gone when it is closed.

    Args:
        uri: the libvirt connection.
        xml: the domain's definition.
        files: descriptors handed to the domain's first process as 3, 4, ... (containers only).

    Raises:
        MissingDependency: libvirt-python is not installed.
        AccessDenied: this user may not.
        GuestNotFound: libvirt cannot be reached there.
        GuestError: libvirt did not create the domain; the message says why.
    """

    def __init__(self, uri: str, xml: str, files: Sequence[int] = ()) -> None:
        self._libvirt = host_libvirt._import()
        self._connection = host_libvirt._open(self._libvirt, uri, read_only=False)
        flags = self._libvirt.VIR_DOMAIN_START_AUTODESTROY

        def create() -> Any:
            if files:
                return self._connection.createXMLWithFiles(xml, list(files), flags)
            return self._connection.createXML(xml, flags)

        try:
            self._domain = host_libvirt._ask(self._libvirt, create, CREATION_PATIENCE, "libvirt")
        except BaseException:
            self._disconnect()
            raise

    def is_running(self) -> bool:
        """Whether libvirt still has it running."""
        try:
            return bool(host_libvirt._ask(self._libvirt, self._domain.isActive, _PATIENCE, "libvirt"))
        except GuestError:
            return False

    def description(self) -> str:
        """The XML of the running domain, with what libvirt filled in."""
        return str(host_libvirt._ask(self._libvirt, lambda: self._domain.XMLDesc(0), _PATIENCE, "libvirt"))

    def destroy(self) -> None:
        """End it at once and disconnect."""
        with contextlib.suppress(GuestNotFound, GuestError):
            host_libvirt._ask(self._libvirt, self._domain.destroy, _PATIENCE * 3, "libvirt")
        self._disconnect()

    def leave(self) -> None:
        """Disconnect; libvirt then destroys what is left of it, in its own time."""
        self._disconnect()

    def _disconnect(self) -> None:
        with contextlib.suppress(self._libvirt.libvirtError):
            self._connection.close()


def answers(uri: str) -> str:
    """What drives this connection ("LXC", "QEMU").

    Raises:
        MissingDependency, AccessDenied, GuestNotFound: as `TransientDomain`.
    """
    libvirt = host_libvirt._import()
    connection = host_libvirt._open(libvirt, uri, read_only=False)
    try:
        return str(host_libvirt._ask(libvirt, connection.getType, _PATIENCE, "libvirt"))
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            connection.close()
