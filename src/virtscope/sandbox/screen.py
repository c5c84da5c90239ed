"""How a sandbox's screen is seen from the host: over VNC or SPICE, on a UNIX socket or a TCP port.

A socket is guarded by its permissions; a port, which other users can reach as well, by a password.
Entry points: `parse`, `prepared`, `qemu_arguments`.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import replace

from virtscope.errors import MissingDependency, UsageError
from virtscope.sandbox.definition import Display, Identity

FORMS = (
    "vnc or spice (on a socket of its own), spice:[HOST:]PORT, [HOST]:NUMBER for VNC, "
    "unix:/PATH or spice:unix:/PATH"
)
SERVERS = ("xorg", "cage")


def parse(text: str, server: str = "xorg") -> Display:
    """A screen from what the user said; one without a host is for this host only, never for everybody.

    Raises:
        UsageError: it says nothing that is known.
    """
    wrong = UsageError(f"--desktop {text}: {FORMS}")
    if server not in SERVERS:
        raise UsageError(f"{server}: a display server is {' or '.join(SERVERS)}")
    protocol, colon, rest = text.partition(":")
    if protocol not in ("vnc", "spice"):
        protocol, rest = "vnc", text
    elif not colon:
        return Display(protocol, server=server)
    if rest.startswith("unix:"):
        path = rest.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path:
            raise wrong
        return Display(protocol, path=path, server=server)
    host, colon, number = rest.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", number) or not (colon or protocol == "spice") or "," in host:
        raise wrong
    port = int(number) + (5900 if protocol == "vnc" else 0)
    if (protocol == "vnc" and int(number) > 99) or not 0 < port < 65536:
        raise wrong
    return Display(protocol, host=host.strip("[]") or "127.0.0.1", port=port, server=server)


def prepared(display: Display, folder: str, owner: Identity) -> tuple[Display, str]:
    """The screen with its socket in `folder`, or with a password in a file there; and the password.

    A place that the user named for the socket gets a link: QEMU has no business there.

    Args:
        display: as `parse` gave it.
        folder: where only this sandbox's files are.
        owner: who QEMU runs as.

    Raises:
        UsageError: the named place is taken, or cannot be written to.
    """
    if os.geteuid() == 0:
        os.chown(folder, owner.uid, owner.gid)
    if not display.host:
        display = replace(display, socket=os.path.join(folder, display.protocol))
        remove_link(display)
        try:
            if display.path:
                os.symlink(display.socket, display.path)
        except OSError as error:
            raise UsageError(f"{display.path}: {error.strerror}") from None
        return display, ""
    # A VNC password has no more than eight characters that count.
    letters = "abcdefghijkmnpqrstuvwxyz23456789"
    password = "".join(letters[byte % len(letters)] for byte in os.urandom(8))
    file = os.path.join(folder, "password")
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, password.encode())
        if os.geteuid() == 0:
            os.fchown(descriptor, owner.uid, owner.gid)
    finally:
        os.close(descriptor)
    return replace(display, secret=file), password


def remove_link(display: Display) -> None:
    """Remove a link to a socket, this sandbox's or one that was left there, from where the user wanted it."""
    with contextlib.suppress(OSError):
        if display.path and os.path.islink(display.path):
            os.unlink(display.path)


def where(display: Display) -> str:
    """The address as viewers of both protocols take it."""
    if not display.host:
        return f"{display.protocol}+unix://{display.path or display.socket}"
    host = f"[{display.host}]" if ":" in display.host else display.host
    return f"{display.protocol}://{host}:{display.port}"


def folders(display: Display) -> list[str]:
    """The folders that QEMU makes its socket in or reads the password from."""
    return sorted(
        {os.path.dirname(os.path.realpath(path)) for path in (display.socket, display.secret) if path}
    )


def qemu_arguments(display: Display, bus: str) -> list[str]:
    """QEMU's arguments for the screen, its keyboard and its pointer."""
    args = ["-device", "virtio-vga,xres=1280,yres=800", "-device", f"virtio-tablet-{bus}"]
    args += ["-device", f"virtio-keyboard-{bus}"]
    path = (display.socket or display.path or "SOCKET").replace(",", ",,")
    protected = ""
    if display.host:
        file = (display.secret or "PASSWORD").replace(",", ",,")
        args += ["-object", f"secret,id=screen,file={file}"]
        protected = ",password-secret=screen"
    if display.protocol == "spice":
        place = f"addr={display.host},port={display.port}{protected}" if display.host else ""
        return [*args, "-spice", place or f"unix=on,addr={path},disable-ticketing=on"]
    host = f"[{display.host}]" if ":" in display.host else display.host
    place = f"{host}:{display.port - 5900}{protected}" if display.host else ""
    return [*args, "-vnc", place or f"unix:{path}"]


def check(display: Display) -> None:
    """See to it that this QEMU can show the screen, by asking it.

    Raises:
        MissingDependency: it was built or installed without the protocol.
    """
    import subprocess

    from virtscope.sandbox import qemu

    program = qemu.binary()
    # It lists the options that there are; where the protocol is not built in, or its module is missing, none.
    asked = subprocess.run(
        [program, f"-{display.protocol}", "help"], capture_output=True, text=True, timeout=30, check=False
    )
    if not re.search(r"^\s+password-secret=", asked.stdout, re.M):
        raise MissingDependency(f"{program} has no {display.protocol.upper()}")
