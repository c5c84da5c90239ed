"""`--network bridge=NAME`: a tap device on a bridge of the host.

It exists as long as somebody has it open, so nothing has to be cleaned up. Root makes it; everybody else asks
QEMU's bridge helper, which may do it for the bridges that /etc/qemu/bridge.conf allows. Entry point:
`connect`.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct

from virtscope.errors import AccessDenied, MissingDependency, UsageError

HELPERS = ("/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper")
# linux/if_tun.h, linux/sockios.h
TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x4000
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCBRADDIF, IFF_UP = 0x8913, 0x8914, 0x89A2, 1
INTERFACE_REQUEST = "16sh22x"


def connect(name: str, *, headers: bool) -> int:
    """Returns the open tap device.

    Args:
        name: the bridge.
        headers: whether packets carry what is yet to be done to them, as QEMU's do.

    Raises:
        UsageError: there is no such bridge.
        AccessDenied: this user may not use it, and why.
        MissingDependency: neither root nor a bridge helper.
    """
    if not os.path.isdir(f"/sys/class/net/{name}/bridge") or "/" in name:
        raise UsageError(f"--network bridge={name}: this host has no such bridge")
    return _make(name, headers) if os.geteuid() == 0 else _ask_helper(name, headers)


def _make(bridge: str, headers: bool) -> int:
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if headers else 0)
        answer = fcntl.ioctl(tap, TUNSETIFF, struct.pack(INTERFACE_REQUEST, b"vstap%d", flags))
        name = answer[:16]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            index = socket.if_nametoindex(name.rstrip(b"\0").decode())
            fcntl.ioctl(control, SIOCBRADDIF, struct.pack("16si20x", bridge.encode(), index))
            request = struct.pack(INTERFACE_REQUEST, name, 0)
            _, old = struct.unpack(INTERFACE_REQUEST, fcntl.ioctl(control, SIOCGIFFLAGS, request))
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack(INTERFACE_REQUEST, name, old | IFF_UP))
    except OSError as error:
        os.close(tap)
        raise AccessDenied(f"--network bridge={bridge}: {error.strerror}") from None
    return tap


def _ask_helper(bridge: str, headers: bool) -> int:
    import subprocess

    helper = next((path for path in HELPERS if os.access(path, os.X_OK)), None)
    if helper is None:
        raise MissingDependency(f"--network bridge={bridge}: qemu-bridge-helper is not installed")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [helper, *(["--use-vnet"] if headers else []), f"--br={bridge}", f"--fd={theirs.fileno()}"]
        done = subprocess.run(
            command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, timeout=10, check=False
        )
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
            raise AccessDenied(f"--network bridge={bridge}: qemu-bridge-helper: {said[-1]}")
        _, beside, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    numbers = array.array("i")
    for _, _, data in beside:
        numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    if len(numbers) != 1:
        raise AccessDenied(f"--network bridge={bridge}: qemu-bridge-helper gave no device")
    return numbers[0]
